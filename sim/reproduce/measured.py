"""Mixtures of experts on Hopper under a benchmark's load, beside what engines were measured at.

A load is a number of clients, each of which sends its next request as soon as it has the answer to
the last (a closed loop), and the lengths of prompts and answers.  Lengths are drawn between 80 and
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
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim.calibrate.work import BF16
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.reproduce.host import Host, one_replica
from sim.reproduce.row import Row, reads
from sim.traces.columns import Columns, joined

MEASURED = Path("../shared/data/end_to_end/measured_ttft_tpot.csv.gz")
_MODELS = {
    "deepseek-ai/DeepSeek-R1": ("deepseek-r1", Precision("fp8", "fp8", "bf16", "bf16")),
    "moonshotai/Kimi-K2.5": ("kimi-k2", replace(BF16, experts="int4")),
    "Qwen/Qwen3-235B-A22B-FP8": ("qwen3-235b-a22b", Precision("fp8", "fp8", "bf16", "bf16")),
    "openai/gpt-oss-120b": ("gpt-oss-120b", replace(BF16, experts="fp4")),
}
_PODS = {"h200_sxm": "hgx_h200", "h100_sxm": "dgx_h100"}
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


class Setup(NamedTuple):
    """What was measured under several loads."""

    model: str
    system: str
    backend: str
    tensor: int
    expert: int

    @property
    def host(self) -> Host:
        """The machine that stands for it."""
        model, precision = _MODELS[self.model]
        parallel = Parallel(self.tensor, 1, self.expert)
        return Host(_PODS[self.system], model, parallel, precision=precision, library="vllm_nvlink")

    def __str__(self) -> str:
        name = self.model.rpartition("/")[2]
        return f"{name} on {self.system} x {self.tensor}, EP {self.expert}, {self.backend}"


_JUDGED = Setup("moonshotai/Kimi-K2.5", "h200_sxm", "vllm", 8, 1)
_row = partial(Row, "typhoon", "MoE")


_DUE = "DeepSeek-R1 on H200 x 8: TPOT"


@reads("typhoon", "MoE", _DUE, lambda: MEASURED)
def measured(file: Path, quick: bool) -> Iterator[Row]:
    """TPOT of mixtures of experts that serve clients in a closed loop, against measurements."""
    told = recorded(file)
    lacks = not any(setup.model.endswith("DeepSeek-R1") for setup in told)
    if quick:
        told = {setup: loads for setup, loads in told.items() if setup == _JUDGED}
    asked: dict[Host, dict[Load, None]] = {}
    for setup, loads in told.items():
        asked.setdefault(setup.host, {}).update(dict.fromkeys(loads))
    found = {host: under_load(host, tuple(loads)) for host, loads in asked.items()}
    for setup, loads in told.items():
        yield from _rows(setup, loads, found[setup.host])
    if lacks:
        yield _row(_DUE, None, None, "20 %", None, note="the measured set has no such row")


def recorded(file: Path) -> dict[Setup, dict[Load, Seen]]:
    """Medians over the repeated measurements of each load, by setup.

    Left out are models without a card here, and experts on more ranks than a tensor group has
    (attention with data parallelism).
    """
    repeats: dict[Setup, dict[Load, list[Seen]]] = defaultdict(lambda: defaultdict(list))
    with gzip.open(file, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            if (
                row["model_path"] not in _MODELS
                or row["system"] not in _PODS
                or row["mode"] != "agg"
            ):
                continue
            tensor, expert = int(row["tp_size"]), int(row["moe_ep_size"] or 1)
            if int(row["moe_tp_size"] or 1) * expert != tensor or int(row["pp_size"] or 1) > 1:
                continue
            setup = Setup(row["model_path"], row["system"], row["backend"], tensor, expert)
            load = Load(*(int(row[key]) for key in ("batch_size", "isl", "osl")))
            seen = Seen(*(float(row[key]) / 1e3 for key in ("silicon_tpot_ms", "silicon_ttft_ms")))
            repeats[setup][load].append(seen)
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


def _rows(setup: Setup, loads: dict[Load, Seen], found: dict[Load, Seen]) -> Iterator[Row]:
    """A setup's median error over its loads, and, where it is judged, that of the errors' sizes."""
    what = f"{setup}: TPOT under load"
    off = {
        load: found[load].tpot_s / seen.tpot_s - 1 for load, seen in loads.items() if load in found
    }
    if not off:
        yield _row(what, None, None, "", None, note="no request fits into the KV-cache")
        return
    errors = np.array(list(off.values()))
    within = f"{(np.abs(errors) <= 0.2).sum()} of {len(off)} within 20 %"
    yield _row(
        f"{what}, median error (loads: {len(off)})",
        0.0,
        float(np.median(errors)),
        "read beside",
        None,
        note=f"{within}; {errors.min():+.0%} to {errors.max():+.0%}",
    )
    if setup == _JUDGED:
        worst = max(off, key=lambda load: abs(off[load]))
        note = (
            "the stand-in for DeepSeek-R1, of the same family (latent attention, experts); "
            f"{within}, worst {off[worst]:+.0%} at {worst.clients} clients, {worst.prompt} + "
            f"{worst.output} tokens; {_NEW_TOKENS} new tokens in an iteration (RECALLED: vLLM's "
            "default), lengths and clients as InferenceMAX has them"
        )
        median = float(np.median(np.abs(errors)))
        yield _row(
            f"{what}, median size of the error", 0.0, median, "20 %", median <= 0.2, "", note
        )
