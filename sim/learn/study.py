"""Bases of every layer at several ranks and seeds, perplexities, allocations of ranks, other ways
to a smaller cache, all of one model: what cards and `podscope reproduce stief` are made of.

Each piece of work is a file that is written whole or not at all, so a run that was killed goes on
where it stood, and learns no finished layer again. One layer's inputs are in memory at a time.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sim.learn.allocation import Ranks, Surface, error_for, weights, within_budget
from sim.learn.bases import (
    Bases,
    LowRank,
    Moments,
    cut_or_grown,
    eigen_kq,
    losses,
    moments,
    random_bases,
    svd,
)
from sim.learn.caches import Format, HeavyHitters, Quantised, Sinks
from sim.learn.corpora import corpus, windows
from sim.learn.decoder import WHOLE, Cache, Decoder
from sim.learn.perplexity import nats
from sim.learn.stiefel import Recipe, check_ranks, learn
from sim.learn.tokens import Tokens
from sim.text.replacing import replacing


class Plan(NamedTuple):
    """What is learned and measured, and on how much text. The defaults are the committed run's."""

    text: str = "wikipedia"
    other: str = "news"
    length: int = 512  # tokens of a window
    calibration: int = 48  # windows
    held_out: int = 4  # of the test part, for the losses of layers
    scored: int = 8  # of each text, for perplexity
    surface: int = 2  # of the validation part, for the surfaces of ranks
    recipe: Recipe = Recipe(bf16=True)
    passes: tuple[tuple[int, tuple[int, ...]], ...] = (
        (0, (32,)),
        (0, (48, 40, 24)),
        (1, (32, 40, 48)),
        (2, (32, 40, 48)),
    )
    pairs: tuple[int, ...] = (24, 32, 40, 48, 56)  # of K and V; those not learned are cut or grown
    budgets: tuple[float, ...] = (0.75, 0.625, 0.5)


FORMATS: tuple[Format, ...] = ("fp8", "int4", "int2")
BASELINES = {"svd": svd, "eigen_kq": eigen_kq, "random": random_bases}
POLICIES = ("error", "budget", "sequential")
Say = Callable[[str], None]
Progress = Callable[[float, str], None]  # share that is done, what was done


class Study:
    """The files of a run, and what makes them. ValueError: the folder is of another run."""

    def __init__(
        self,
        folder: Path,
        model: Decoder,
        tokens: Tokens,
        plan: Plan,
        say: Say = lambda line: None,
        progress: Progress = lambda share, label: None,
    ) -> None:
        self.folder, self.model, self.plan = folder, model, plan
        self.say, self.progress = say, progress
        self.layers = model.sizes.layers
        for _, ranks in plan.passes:
            for rank in ranks:
                check_ranks((rank, rank), model.sizes.head_dim)
        self.text, self.other = corpus(plan.text), corpus(plan.other)
        test, validation = self.text.part("test"), self.text.part("validation")
        self.calibration = {
            seed: windows(
                self.text.part("calibration"), tokens, plan.length, plan.calibration, seed
            )
            for seed in {seed for seed, _ in plan.passes}
        }
        held = windows(test, tokens, plan.length, plan.held_out + plan.scored)
        self.held_out = held[:: len(held) // plan.held_out][: plan.held_out]
        self.validation = windows(validation, tokens, plan.length, plan.surface)
        self.scored = {
            plan.text: windows(test, tokens, plan.length, plan.scored),
            plan.other: windows(self.other, tokens, plan.length, plan.scored),
        }
        self.total = self.layers * sum(len(ranks) for _, ranks in plan.passes)
        self.done = 0
        self._config()

    def _config(self) -> None:
        """Written once; a folder of another plan is refused."""
        plan = json.loads(json.dumps({**self.plan._asdict(), "recipe": self.plan.recipe._asdict()}))
        hashes = [self.text.sha256, self.other.sha256]
        config = {"plan": plan, "model": self.model.sizes.sha256, "texts": hashes}
        file = self.folder / "plan.json"
        if not file.exists():
            _write(file, config)
        elif read(file) != config:
            raise ValueError(
                f"{self.folder} holds a run of another plan, model or text (its plan.json); give "
                "another folder, or remove it"
            )

    # Bases.

    def learn_all(self) -> None:
        """All passes, in their order, and the perplexities of each."""
        self.score_whole()
        for seed, ranks in self.plan.passes:
            self.learn_pass(seed, ranks)
            for rank in ranks:
                ways = ["learned", "eigen_kq", *(["svd"] if seed == 0 else [])]
                for way in [*ways, *(["random"] if (seed, rank) == (0, 32) else [])]:
                    pairs = [(rank, rank)] * self.layers
                    self.score(f"{way}-{rank}-seed{seed}", self.cache(way, seed, pairs))

    def learn_pass(self, seed: int, ranks: tuple[int, ...]) -> None:
        """Bases of every layer at these ranks, from one walk of the inputs through the model."""
        files = [[self._file(seed, rank, at) for rank in ranks] for at in range(self.layers)]
        todo = [at for at in range(self.layers) if not all(file.exists() for file in files[at])]
        self._tick((self.layers - len(todo)) * len(ranks), f"seed {seed}")
        for at, x, held, held_out in self._walk(self.calibration[seed], todo):
            of = moments(self.model, at, x)
            self._keep(self.folder / f"seed{seed}/moments/{at:02}.safetensors", of._asdict())
            for rank, file in zip(ranks, files[at]):
                if not file.exists():
                    self._learn(seed, rank, at, x, of, held, held_out, file)
                self._tick(1, f"seed {seed}, rank {rank}, layer {at}")

    def _tick(self, units: int, label: str) -> None:
        self.done += units
        self.progress(self.done / self.total, label)

    def _learn(
        self,
        seed: int,
        rank: int,
        at: int,
        x: Tensor,
        of: Moments,
        held: Tensor,
        held_out: Tensor,
        file: Path,
    ) -> None:
        recipe = self.plan.recipe._replace(seed=seed)
        got = learn(self.model, at, x, of, (rank, rank), recipe)
        made = {name: way(of, rank, rank) for name, way in BASELINES.items()}
        began = time.process_time()
        found = {
            name: losses(self.model, at, held, held_out, bases)._asdict()
            for name, bases in {"learned": got.bases, **made}.items()
        }
        _write(
            file.with_suffix(".json"),
            {
                "losses": found,
                "off": got.bases.off(),
                "stopped": got.stopped,
                "cpu_s": got.cpu_s,
                "measured_cpu_s": time.process_time() - began,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "curve": got.curve,
            },
        )
        self._keep(file, got.bases._asdict())  # last: what marks the layer as done
        less = found["learned"]["layer_output_no_first"]
        kq = found["eigen_kq"]["layer_output_no_first"]
        self.say(
            f"seed {seed} rank {rank} layer {at}: {less:.4f}, [K;Q] {kq:.4f} "
            f"({100 * (less / kq - 1):+.1f} %), {got.cpu_s:.1f} CPU-s {got.stopped}"
        )

    def _walk(
        self, tokens: Tensor, todo: Iterable[int]
    ) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """(layer, its input; its input and output on held-out text) of each layer of `todo`."""
        wanted = sorted(todo)
        if not wanted:
            return
        x, held = self.model.embed(tokens), self.model.embed(self.held_out)
        for at in range(wanted[-1] + 1):
            held_out = self.through(at, held)
            if at in wanted:
                yield at, x, held, held_out
            if at < wanted[-1]:
                x, held = self.through(at, x), held_out

    def through(self, at: int, x: Tensor, cache: Cache = WHOLE) -> Tensor:
        """A layer's output, some windows at a time."""
        return torch.cat([self.model.layer(at, part, cache) for part in x.split(2)])

    def _file(self, seed: int, rank: int, at: int) -> Path:
        return self.folder / f"seed{seed}/rank{rank}/{at:02}.safetensors"

    def _moments(self, seed: int, at: int) -> Moments:
        return Moments(**load_file(self.folder / f"seed{seed}/moments/{at:02}.safetensors"))

    def bases(self, seed: int, at: int, pair: Ranks, way: str = "learned") -> Bases:
        """Of a pair of ranks: K's and V's may have been learned in different runs."""
        of = self._moments(seed, at)
        if way != "learned":
            return BASELINES[way](of, *pair)
        learned = sorted(int(p.name[4:]) for p in (self.folder / f"seed{seed}").glob("rank*"))
        sides = []
        for rank in pair:
            near = max([r for r in learned if r <= rank] or learned[:1])
            whole = Bases(**load_file(self._file(seed, near, at)))
            sides.append(cut_or_grown(whole, of, rank, rank))
        return Bases(sides[0].keys, sides[1].values)

    def cache(self, way: str, seed: int, pairs: list[Ranks]) -> Callable[[], LowRank]:
        """Of these ranks by layer, made when it is called."""
        return lambda: LowRank([self.bases(seed, at, pair, way) for at, pair in enumerate(pairs)])

    # Perplexity.

    def score_whole(self) -> None:
        """Of the model as it is."""
        self.score("full", partial(_itself, WHOLE))

    def score(self, name: str, cache: Callable[[], Cache]) -> None:
        """Nats of every window of both texts, and of the validation part."""
        file = self.folder / f"scores/{name}.json"
        if file.exists():
            return
        began, made = time.process_time(), cache()
        found: dict[str, Any] = {
            text: nats(self.model, tokens, made) for text, tokens in self.scored.items()
        }
        found["bytes_per_token"] = made.bytes_per_token(self.model.sizes, self.plan.length)
        found["cpu_s"] = time.process_time() - began
        _write(file, found)
        shown = ", ".join(
            f"{text} {float(torch.tensor(found[text]).mean().exp()):.2f}" for text in self.scored
        )
        self.say(f"{name}: {shown}")

    # Ranks by layer.

    def allocate_all(self, seed: int = 0) -> None:
        """Surfaces on uncompressed inputs, then each way to allocate at each budget."""
        for ratio, weighted, policy in product(self.plan.budgets, (False, True), POLICIES):
            pairs = self.allocate(policy, weighted, ratio, seed)
            name = self.allocation(policy, weighted, ratio)
            self.score(name, self.cache("learned", seed, pairs))
            if policy == POLICIES[-1]:
                self.score(f"eigen_kq-{name}", self.cache("eigen_kq", seed, pairs))

    @staticmethod
    def allocation(policy: str, weighted: bool, ratio: float) -> str:
        """What an allocation is called."""
        return f"{policy}-{'weighted' if weighted else 'plain'}-{ratio:g}"

    def allocate(self, policy: str, weighted: bool, ratio: float, seed: int) -> list[Ranks]:
        """Ranks by layer, whose cache is at most `ratio` of the whole."""
        by = weights(self.layers, weighted)
        total = int(ratio * 2 * self.model.sizes.head_dim * self.layers + 1e-9)
        surfaces = self._surfaces(seed)
        ways: dict[str, Callable[[], list[Ranks]]] = {
            "error": lambda: error_for(surfaces, total, by),
            "budget": lambda: within_budget(surfaces, total, by),
            "sequential": lambda: self._sequential(seed, surfaces, total, by),
        }
        return self._chosen(self.allocation(policy, weighted, ratio), ways[policy])

    def _chosen(self, name: str, choose: Callable[[], list[Ranks]]) -> list[Ranks]:
        file = self.folder / f"ranks/{name}.json"
        if not file.exists():
            began = time.process_time()
            pairs = choose()
            _write(file, {"ranks": pairs, "cpu_s": time.process_time() - began})
        return [(k, v) for k, v in read(file)["ranks"]]

    def _surfaces(self, seed: int) -> list[Surface]:
        x = self.model.embed(self.validation)
        found: list[Surface] = []
        for at in range(self.layers):
            file, y = self.folder / f"surfaces/{at:02}.json", self.through(at, x)
            if not file.exists():
                began = time.process_time()
                surface = self._surface(seed, at, x, y)
                rows = [[*pair, loss] for pair, loss in surface.items()]
                _write(file, {"surface": rows, "cpu_s": time.process_time() - began})
                self.say(f"surface of layer {at}")
            found.append({(k, v): loss for k, v, loss in read(file)["surface"]})
            x = y
        return found

    def _surface(self, seed: int, at: int, x: Tensor, want: Tensor) -> dict[Ranks, float]:
        """Relative error of the layer's output without first tokens at each pair of ranks."""
        model, cache = self.model, WHOLE
        q, k, v = model.projected(at, x)
        q = model.turn(q)
        made = {rank: LowRank({at: self.bases(seed, at, (rank, rank))}) for rank in self.plan.pairs}
        keys = {rank: model.turn(each.keys(at, k)) for rank, each in made.items()}
        values = {rank: each.values(at, v) for rank, each in made.items()}
        size = want[:, 1:].norm()
        return {
            (a, b): float(
                (model.attended(at, x, cache.attend(at, q, keys[a], values[b])) - want)[
                    :, 1:
                ].norm()
                / size
            )
            for a in keys
            for b in values
        }

    def _sequential(
        self, seed: int, surfaces: list[Surface], total: int, by: list[float]
    ) -> list[Ranks]:
        """v2: layer by layer. A layer's surface is measured behind the layers already compressed,
        against the uncompressed layer on the same input; those of later layers are taken from the
        uncompressed model; the layer gets what the least sum within the rest of the budget says."""
        x = self.model.embed(self.validation)
        chosen: list[Ranks] = []
        for at in range(self.layers):
            own = self._surface(seed, at, x, self.through(at, x))
            left = total - sum(map(sum, chosen))
            chosen.append(within_budget([own, *surfaces[at + 1 :]], left, by[at:])[0])
            x = self.through(at, x, LowRank({at: self.bases(seed, at, chosen[-1])}))
        self.say(f"ranks {chosen}")
        return chosen

    # Other ways.

    def others(self, seed: int = 0) -> dict[str, tuple[Cache, list[dict[str, Any]]]]:
        """Each with the techniques that a scenario has for it; for a card, its ratio stands."""
        d = self.model.sizes.head_dim
        low = {
            rank: self.cache("learned", seed, [(rank, rank)] * self.layers)()
            for rank in self.plan.passes[0][1]
        }
        kept = self.plan.length // 2
        found: dict[str, tuple[Cache, list[dict[str, Any]]]] = {}
        for form in FORMATS:
            entry: dict[str, Any] = {"kv_quantised": {"format": form}}
            found[form] = Quantised(form), [entry]
            for rank, bases in low.items():
                both = [{"kv_low_rank": {"ratio": rank / d}}, entry]
                found[f"rank {rank}, {form}"] = Quantised(form, of=bases), both
        for tokens in (kept, kept // 2):
            sinks = {"kv_eviction": {"keep": "sinks", "window": tokens - 4}}
            found[f"sinks {tokens}"] = Sinks(tokens - 4), [sinks]
            heavy = {"kv_eviction": {"keep": "heavy_hitters", "budget": tokens}}
            found[f"heavy hitters {tokens}"] = HeavyHitters(tokens), [heavy]
        for rank, bases in low.items():
            both = [{"kv_low_rank": {"ratio": rank / d}}, heavy]
            found[f"rank {rank}, heavy hitters {tokens}"] = HeavyHitters(tokens, bases), both
        return found

    def score_others(self) -> None:
        """Perplexity of each."""
        for name, (cache, _) in self.others().items():
            self.score(f"other {name}", partial(_itself, cache))

    def stopped(self) -> list[str]:
        """Layers whose learning stopped early, a line each."""
        found = []
        for seed, ranks in self.plan.passes:
            for rank, at in product(ranks, range(self.layers)):
                file = self._file(seed, rank, at).with_suffix(".json")
                if file.exists() and (why := read(file)["stopped"]):
                    found.append(f"seed {seed}, rank {rank}, layer {at}: {why}")
        return found

    def walk_cpu_s(self) -> float:
        """Of bringing the windows to learn from through all layers: done once a pass, and measured
        once."""
        file = self.folder / "walk.json"
        if not file.exists():
            began = time.process_time()
            x = self.model.embed(next(iter(self.calibration.values())))
            for at in range(self.layers):
                x = self.through(at, x)
            _write(file, {"cpu_s": time.process_time() - began})
        return read(file)["cpu_s"]

    def full_rank_off(self) -> float:
        """Largest difference of a logit at full rank from the whole model's, over its range."""
        d = self.model.sizes.head_dim
        tokens = self.validation[:1, : min(128, self.plan.length)]
        seed = self.plan.passes[0][0]
        cache = self.cache("eigen_kq", seed, [(d, d)] * self.layers)()
        whole = self.model(tokens)
        return float((self.model(tokens, cache) - whole).abs().max() / whole.abs().max())

    def _keep(self, file: Path, tensors: dict[str, Tensor]) -> None:
        if not file.exists():
            with replacing(file) as beside:
                save_file({name: each.contiguous() for name, each in tensors.items()}, beside)


def _itself(cache: Cache) -> Cache:
    return cache


def read(file: Path) -> Any:
    """What a file of a run says."""
    return json.loads(file.read_text(encoding="utf-8"))


def _write(file: Path, data: Any) -> None:
    with replacing(file) as beside:
        beside.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
