"""Mixtures of experts on Hopper under a benchmark's load, beside what engines were measured at.

A load is a number of clients, each of which sends its next request as soon as it has the answer to
the last (a closed loop), and the lengths of prompts and answers.  Every set-up that can be modelled
is judged, each layout by itself and, where there are several, a model on a GPU and an engine over
all; the rest is named with why not.  Lengths are drawn between 80 and
100 % of what is said, as InferenceMAX draws them (`--random-range-ratio 0.8` of its
`benchmark_serving.py`): with equal ones all clients would go in lock-step.  Whether the other
measured runs drew theirs is not known.  The measurements are for validation: nothing is fitted to
them.

All-reduces are vLLM's own kernels and NCCL's, whichever is quicker (`vllm_nvlink`); that the other
engines have kernels like them is RECALLED.

Not modelled: the engine's own time, tokenising, HTTP and the client; the schedulers of SGLang and
TensorRT-LLM, for which vLLM's stands.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim import catalog
from sim.calibrate.work import BF16
from sim.graph.parallel import Parallel, shard
from sim.graph.precision import Precision
from sim.reproduce.host import Host, one_replica
from sim.reproduce.row import Row, reads
from sim.traces.columns import Columns, joined

MEASURED = Path("../shared/data/end_to_end/measured_ttft_tpot.csv.gz")
_FP8 = Precision("fp8", "fp8", "bf16", "bf16")
# By model, its card; and by the format of its experts in the table, the precision. gpt-oss, which
# the table calls nvfp4, has weights of MXFP4 and activations of bf16.
_CARDS: dict[str, tuple[str, dict[str, Precision]]] = {
    "deepseek-ai/DeepSeek-R1": ("deepseek-r1", {"fp8_block": _FP8}),
    "moonshotai/Kimi-K2.5": ("kimi-k2", {"int4_wo": replace(BF16, experts="int4")}),
    "Qwen/Qwen3-235B-A22B-FP8": ("qwen3-235b-a22b", {"fp8": _FP8, "fp8_block": _FP8}),
    "openai/gpt-oss-120b": ("gpt-oss-120b", {"nvfp4": replace(BF16, experts="fp4")}),
}
_PODS = {
    "h200_sxm": "hgx_h200",
    "h100_sxm": "dgx_h100",
    "b200_sxm": "hgx_b200",
    "gb200": "nvl72",
}
_DENSE = ("meta-llama/", "nvidia/Llama", "Qwen/Qwen3-32B")
# The data's own marks. A square is a degree that was multiplied by itself: the GPUs are right. A
# run held up before its admission counts for TPOT: its queue is no part of it.
_LEFT_OUT, _SQUARE = ("duplicate", "impossible", "outlier_recorder"), "label_square_tp"
_BAR = 0.2  # median size of the error of TPOT
_NEW_TOKENS = 8192  # in an iteration: vLLM's default for a server on such GPUs (RECALLED)
_SHORTEST = 0.8  # of a length, the least that is drawn
TURNS = 4  # of each client; 32 move no TPOT by more than 0.5 %, of 512 clients 1.7 %
_APART_S = 1e5  # between the beginnings of two configurations: longer than any takes


class Load(NamedTuple):
    """Clients without think time, and the longest prompts and answers they ask for."""

    clients: int
    prompt: int
    output: int


class Seen(NamedTuple):
    """Means over requests, in seconds: simulated, or measured."""

    tpot_s: float
    ttft_s: float


class NotModelledError(ValueError):
    """A set-up for which there is no machine here, and why."""


class Setup(NamedTuple):
    """What was measured under several loads."""

    model: str
    system: str
    backend: str
    tensor: int
    expert: int
    data: int = 1
    format: str = ""  # of the experts

    @property
    def host(self) -> Host:
        """The machine that stands for it, or `NotModelledError`."""
        name, formats = _CARDS.get(self.model, ("", {}))
        if not name:
            raise NotModelledError("no card of the model")
        if self.system not in _PODS:
            raise NotModelledError("no card of the GPU")
        if self.format not in formats:
            raise NotModelledError(
                f"no card has kernels for experts in {self.format or 'what is told'}"
            )
        host = Host(
            _PODS[self.system],
            name,
            Parallel(self.tensor, self.data, self.expert),
            precision=formats[self.format],
            library="vllm_nvlink",
        )
        try:
            shard(catalog.model(name), host.parallel)
        except ValueError as error:  # what does not divide
            raise NotModelledError(str(error)) from None
        return host

    @property
    def family(self) -> str:
        """Whatever the layout."""
        return f"{self.model.rpartition('/')[2]} on {self.system}, {self.backend}"

    def __str__(self) -> str:
        name, data = self.model.rpartition("/")[2], f", DP {self.data}" * (self.data > 1)
        gpus = self.tensor * self.data
        several = len(_CARDS.get(self.model, ("", {}))[1]) > 1
        format_ = f", {self.format}" * several
        return f"{name} on {self.system} x {gpus}{data}, EP {self.expert}{format_}, {self.backend}"


STAND_IN = Setup("moonshotai/Kimi-K2.5", "h200_sxm", "vllm", 8, 1, format="int4_wo")
_row = partial(Row, "typhoon", "MoE")


_DUE = "DeepSeek-R1 on H200 x 8: TPOT"


@reads("typhoon", "MoE", _DUE, lambda: MEASURED)
def measured(file: Path, quick: bool) -> Iterator[Row]:
    """TPOT of mixtures of experts that serve clients in a closed loop, against measurements.

    `quick` leaves out all but the stand-in for DeepSeek-R1.
    """
    told, off, why = errors(file, quick)
    for family in dict.fromkeys(setup.family for setup in off):
        layouts = {setup: off[setup] for setup in off if setup.family == family}
        for setup, mine in layouts.items():
            yield _judged(str(setup), mine, _AS_INFERENCEMAX * (setup == STAND_IN))
        if len(layouts) > 1:
            every = [*layouts.values()]
            merged = {
                (n, load): error for n, own in enumerate(every) for load, error in own.items()
            }
            yield _judged(f"{family}, all {len(layouts)} layouts", merged)
    for what, reason in why.items():
        yield _row(f"{what}: TPOT under load", None, None, "", None, note=reason)
    if not any(setup.model.endswith("DeepSeek-R1") and "h200" in setup.system for setup in told):
        yield _row(_DUE, None, None, "20 %", None, note="the measured set has no such row")


def errors(
    file: Path, quick: bool = False
) -> tuple[dict[Setup, dict[Load, Seen]], dict[Setup, dict[Load, float]], dict[str, str]]:
    """What was measured by set-up and load; how far off TPOT is, of those that can be modelled; and
    of the others why not."""
    told = recorded(file)
    hosts, why = modelled(told)
    if quick:
        hosts = {setup: host for setup, host in hosts.items() if setup == STAND_IN}
    asked: dict[Host, dict[Load, None]] = {}
    for setup, host in hosts.items():
        asked.setdefault(host, {}).update(dict.fromkeys(told[setup]))
    found = {host: under_load(host, tuple(loads)) for host, loads in asked.items()}
    off = {
        setup: {
            load: found[host][load].tpot_s / seen.tpot_s - 1
            for load, seen in told[setup].items()
            if load in found[host]
        }
        for setup, host in hosts.items()
    }
    return told, off, why


def modelled(told: Iterable[Setup]) -> tuple[dict[Setup, Host], dict[str, str]]:
    """The machines of the set-ups that can be modelled; of the others, by name, why not."""
    hosts: dict[Setup, Host] = {}
    why: dict[str, dict[str, None]] = defaultdict(dict)
    for setup in told:
        try:
            hosts[setup] = setup.host
        except NotModelledError as error:
            why[f"{setup.family}, experts in {setup.format or 'no format told'}"][str(error)] = None
    return hosts, {what: "; ".join(reasons) for what, reasons in why.items()}


def recorded(file: Path) -> dict[Setup, dict[Load, Seen]]:
    """Medians over the repeated measurements of each load, by set-up of a mixture of experts.

    Left out are repeats of one measurement and rows that the data marks as impossible or outliers,
    and set-ups in which prompts and answers are on different GPUs.
    """
    repeats: dict[Setup, dict[Load, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    with gzip.open(file, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            if (
                row["mode"] != "agg"
                or row["model_path"].startswith(_DENSE)
                or row["flag"] in _LEFT_OUT
            ):
                continue
            gpus = int(row["gpus"])
            square = row["flag"] == _SQUARE
            tensor = gpus if square else int(row["tp_size"])
            expert = gpus if square else int(row["moe_ep_size"] or 1)
            setup = Setup(
                row["model_path"],
                row["system"],
                row["backend"],
                tensor,
                expert,
                gpus // tensor,
                row["moe_quant_mode"],
            )
            clients = int(row["clients"] or row["batch_size"])
            seen = Seen(*(float(row[key]) / 1e3 for key in ("silicon_tpot_ms", "silicon_ttft_ms")))
            repeats[setup][Load(clients, int(row["isl"]), int(row["osl"]))].append(seen)
    return {
        setup: {
            load: Seen(*np.median(seen, axis=0).tolist()) for load, seen in sorted(loads.items())
        }
        for setup, loads in sorted(repeats.items())
    }


@cache
def under_load(host: Host, loads: tuple[Load, ...]) -> dict[Load, Seen]:
    """What clients see on one replica, one load after the other.

    Loads whose requests exceed the KV-cache are left out.

    Neither a client's first turn is counted, in which all begin at once, nor its last, in which
    they leave.
    """
    firsts = np.cumsum([0, *(load.clients for load in loads)]).tolist()
    columns = joined(
        [
            _requests(load, number * _APART_S, first)
            for number, (load, first) in enumerate(zip(loads, firsts))
        ]
    )
    replica = one_replica(
        "chunked", max(load.clients for load in loads), _NEW_TOKENS, host.kv_tokens(_NEW_TOKENS)
    )
    served = host.serve(columns, replica, closed_loop=True).requests
    seen = {}
    for number, (load, first) in enumerate(zip(loads, firsts)):
        rows = slice(first * TURNS, (first + load.clients) * TURNS)
        if (served.replica[rows] < 0).any():
            continue
        first_s, last_s = served.first_token_s[rows], served.last_token_s[rows]
        assert last_s.max() < (number + 1) * _APART_S, "the next load begins before this one ends"
        counted = slice(load.clients, load.clients * (TURNS - 1))
        tpot_s = (last_s - first_s) / (served.output_tokens[rows] - 1)
        ttft_s = first_s - served.arrival_s[rows]
        seen[load] = Seen(float(tpot_s[counted].mean()), float(ttft_s[counted].mean()))
    return seen


def _requests(load: Load, begin_s: float, first: int) -> Columns:
    """All turns of a load's clients, turn by turn; the clients are numbered from `first`."""
    dice, count = np.random.default_rng(0), load.clients * TURNS
    prompt, output = (
        dice.integers(int(_SHORTEST * longest), longest, count, endpoint=True)
        for longest in (load.prompt, load.output)
    )
    session = np.tile(np.arange(first, first + load.clients), TURNS)
    return Columns(np.full(count, begin_s), prompt, output, session)


_AS_INFERENCEMAX = (
    "the stand-in for DeepSeek-R1, of the same family (latent attention, experts); "
    f"{_NEW_TOKENS} new tokens in an iteration (RECALLED: vLLM's default), lengths and clients as "
    "InferenceMAX has them"
)


def _judged(what: str, off: Mapping[Any, float], note: str = "") -> Row:
    """The median size of the errors of a set-up's loads, against the bar."""
    what = f"{what}: TPOT under load, median size of the error (loads: {len(off)})"
    if not off:
        return _row(what, None, None, "", None, note="no request fits into the KV-cache")
    errors = np.array([*off.values()])
    sizes = np.abs(errors)
    told = (
        f"median error {np.median(errors):+.1%}, {errors.min():+.0%} to {errors.max():+.0%}; "
        f"{(sizes <= _BAR).sum()} of {len(off)} within {100 * _BAR:g} %"
    )
    median = float(np.median(sizes))
    text = "; ".join(filter(None, (told, note)))
    return _row(what, 0.0, median, f"{100 * _BAR:g} %", median <= _BAR, note=text)
