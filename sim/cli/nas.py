"""`podscope learn nas` and `nas-study`: networks searched for a systolic array.  They need torch
(extra `learn`). Errors and exit codes: `sim.cli`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields, replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.text import console, plain, progress_bar, say, warn, write

if TYPE_CHECKING:
    from sim.learn.nas.plan import Plan


class Preset(StrEnum):
    """Sizes of a search."""

    tiny = "tiny"
    paper = "paper"


class Method(StrEnum):
    """What the search believes of the machine."""

    uboost = "uboost"
    flops = "flops"
    roofline = "roofline"
    blackbox = "blackbox"


Threads = Annotated[int, typer.Option(min=1, help="Threads of torch.")]
Tensorboard = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Log for TensorBoard too, in the folder tensorboard beside the logs in CSV.",
    ),
]


def nas(
    out: Annotated[Path, typer.Argument(metavar="CARD.json", help="The card of what is found.")],
    preset: Annotated[
        Preset,
        typer.Option(
            help="tiny: 16 pixels, 32 x 32 cells, 1 to 2 minutes of one core; "
            "paper: 32 pixels, 128 x 128 cells, for a GPU."
        ),
    ] = Preset.tiny,
    method: Annotated[Method, typer.Option(help="Model of the machine.")] = Method.uboost,
    latency_weight: Annotated[
        float | None, typer.Option(help="Of the milliseconds in the loss; default: 1.")
    ] = None,
    utilisation_weight: Annotated[
        float | None,
        typer.Option(help="Of the utilisation in the loss; default: 1 for uboost, else 0."),
    ] = None,
    array: Annotated[
        str, typer.Option(metavar="ROWSxCOLS", help="Of the machine; default: the preset's.")
    ] = "",
    images: Annotated[
        str,
        typer.Option(
            metavar="SET",
            help="digits, mnist-5k, or a folder: CIFAR-10's binaries, files of MNIST's format, or "
            "train/CLASS/; default: the preset's.",
        ),
    ] = "",
    start: Annotated[
        int | None,
        typer.Option(help="Widths grow and shrink from so many channels, and have no upper end."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and noise.")] = 0,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other number of the plan, as JSON: epochs=[6,24,12], cooling=0.95. "
            "An unknown KEY lists all.",
        ),
    ] = [],  # noqa: B006
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="Write the trained network too.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Checkpoints, and a log in CSV of each stage; default: CARD.work.",
        ),
    ] = None,
    tensorboard: Tensorboard = False,
    device: Annotated[str, typer.Option(help="Of torch: cpu, cuda.")] = "cpu",
    threads: Threads = 1,
) -> None:
    """Search a network for a systolic array (U-Boost NAS) and write it as a card.

    Operations first, then channels, then training from scratch. A run that was stopped goes on
    where it stood: at most an epoch is lost.
    """
    if out.suffix != ".json":
        raise ValueError(f"{out}: a card is a .json file")
    _needs_torch(threads, tensorboard, device)
    from sim.learn.images import read_images
    from sim.learn.nas.plan import PRESETS

    plan = PRESETS[preset.value]
    beta = utilisation_weight
    changes: dict[str, Any] = {
        "method": method.value,
        "utilisation_weight": float(method == Method.uboost) if beta is None else beta,
        "seed": seed,
        "latency_weight": latency_weight,
        "images": images or None,
        **_array(array),
        **({} if start is None else {"flexible": True, "start": start, "first": plan.step}),
    }
    changes |= _settings(settings, plan)
    plan = replace(plan, **{key: value for key, value in changes.items() if value is not None})
    if not plan.images:
        raise ValueError(f"preset {preset.value} has no images of its own: give --images")
    data = read_images(plan.images, plan.image, plan.train)
    folder = work or out.with_suffix(".work")
    _search(out, folder, plan, data, onnx, device, tensorboard)


def _search(
    out: Path,
    folder: Path,
    plan: Plan,
    data: Any,
    onnx: Path | None,
    device: str,
    tensorboard: bool,
) -> None:
    from sim.catalog.dnn_cards import DnnCard
    from sim.learn.nas.board import board
    from sim.learn.nas.card import card_of, trained
    from sim.learn.nas.onnx_file import write_onnx
    from sim.learn.nas.search import Search
    from sim.results.nas_page import nas_page

    with progress_bar() as progress:
        search = Search(folder, plan, data, progress=progress, device=device)
        if tensorboard:
            search.watch = board(folder)
        operations = search.operations()
        found = replace(search.channels(operations), name=out.stem)
        accuracy = search.train(found)
    command = "podscope " + " ".join(sys.argv[1:])
    card = DnnCard.model_validate(card_of(found, plan, accuracy, data, command))
    told = card.model_dump(mode="json")
    write(out, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    page = out.with_suffix(".html")
    write(page, nas_page(out.stem, [(told, card.found)], search.log(), plan.array))
    if onnx is not None:
        write_onnx(trained(found, folder), onnx, out.stem)
    warn(search.warnings)
    done = card.simulated
    say(
        f"{plain(out.stem)}: {accuracy:.1f} % of {card.data.test} images, {done.cycles:,} cycles, "
        f"utilisation {done.utilisation:.3f}"
    )
    for each in (out, page, *([onnx] if onnx else [])):
        say(f"wrote {plain(str(each))}")


def nas_study(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Of the run; it can be resumed.")],
    threads: Threads = 1,
    tensorboard: Tensorboard = False,
) -> None:
    """Make every searched number of `podscope reproduce nas` again: 40 minutes of one core.

    Writes summary.json, and cards and figures, into DIR/made. `podscope reproduce nas --rerun DIR`
    does the same and judges what was found.
    """
    studied(folder, threads, tensorboard)


def studied(folder: Path, threads: int = 1, tensorboard: bool = False) -> dict[str, Any]:
    """What `nas_study` writes into summary.json."""
    _needs_torch(threads, tensorboard)
    from sim.catalog.dnn_cards import DnnCard
    from sim.learn.nas import study
    from sim.learn.nas.plan import PRESETS
    from sim.results.nas_page import nas_page

    with progress_bar() as progress:
        study.make(folder, _line, progress, tensorboard)
    command = "podscope " + " ".join(sys.argv[1:])
    found = study.summary(folder, command)
    made = folder / "made"
    write(made / "summary.json", json.dumps(found, allow_nan=False) + "\n")
    cards = [DnnCard.model_validate(each) for each in study.cards(folder, command)]
    told = [(card.model_dump(mode="json"), card.found) for card in cards]
    for card, _ in told:
        text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
        write(made / f"{card['name']}.json", text)
    log = study.log(folder)
    write(made / "figures.html", nas_page("nas-study", told, log, PRESETS["tiny"].array))
    say(f"wrote {plain(str(made))}")
    return found


def _array(text: str) -> dict[str, int]:
    if not text:
        return {}
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise ValueError(f"--array {text!r}: write it like 128x128")
    return {"rows": int(found[1]), "cols": int(found[2])}


def _settings(texts: list[str], plan: Plan) -> dict[str, Any]:
    """`--set` as changes of a plan; ValueError for what is no number of it."""
    from sim.text.strict_yaml import nearest

    known = {each.name: getattr(plan, each.name) for each in fields(plan)}
    made: dict[str, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in known:
            raise ValueError(
                f"--set {text}: no {key!r}{nearest(key, known)}; there are {', '.join(known)}"
            )
        try:
            told = json.loads(value)
        except ValueError:
            raise ValueError(f"--set {text}: {value!r} is no JSON") from None
        told = tuple(told) if isinstance(told, list) else told
        if not _alike(told, is_now := known[key]):
            raise ValueError(f"--set {text}: write it like {key}={json.dumps(is_now)}")
        made[key] = told
    return made


def _alike(told: Any, known: Any) -> bool:
    """Whether it is of the type of what is known; lists by their items."""
    if isinstance(told, tuple) and isinstance(known, tuple):
        return all(_alike(each, known[0]) for each in told)
    return type(told) is type(known) or (type(known), type(told)) == (float, int)


def _line(text: str) -> None:
    """A line of the log; on a terminal the bar shows how far it is."""
    if not console(stderr=True).is_terminal:
        say(plain(text), stderr=True)


def _needs_torch(threads: int, tensorboard: bool, device: str = "cpu") -> None:
    if find_spec("torch") is None:
        raise ValueError("this needs torch: pip install 'podscope[learn]'")
    if tensorboard and find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs a package: pip install tensorboard")
    from sim.learn.nas.state import on_device, on_threads

    on_threads(threads)
    on_device(device)
