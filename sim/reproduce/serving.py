"""Serving at fleet scale: fidelities, peers, prefix caches, queues, generated traces, vLLM runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sim.calibrate.work import BF16
from sim.graph.parallel import Parallel
from sim.kinds import KINDS
from sim.reproduce.host import RULES, Host, one_replica
from sim.reproduce.row import Progress, Row, absent, near, reads, rows_of, within
from sim.results.metrics import metrics
from sim.serving.fleet import POLICIES, Rules, number, replica_of
from sim.serving.router import ROUTERS
from sim.traces.columns import Columns
from sim.traces.reading import open_trace
from sim.traces.stream import gathered
from sim.traces.synthesis import calibrated, generated

REQUESTS, RUNS = Path("../shared/data/requests"), Path("../shared/data/end_to_end")
SERVED = KINDS["requests"]
AZURE = REQUESTS / "AzureLLMInferenceTrace_conv.csv.gz"
MOONCAKE = REQUESTS / "mooncake_conversation_trace.jsonl.gz"


def reproduce(quick: bool = False, progress: Progress = lambda done_fraction: None) -> list[Row]:
    """Rows of the system `serving`; those without their data say so and are not judged."""
    parts: list[Callable[[bool], Iterable[Row]]] = [
        fidelities,
        peers,
        prefix_cache,
        queues,
        traces,
        engine_runs,
    ]
    return rows_of((part(quick) for part in parts), len(parts), progress)


_row = partial(Row, "serving")
_absent = partial(absent, "serving")
_reads = partial(reads, "serving")


# V1: step is op.


_APART = "largest relative difference of step and op in first- and last-token times"


@_reads("V1", _APART, lambda: AZURE)
def fidelities(file: Path, quick: bool) -> Iterator[Row]:
    """Every request's first and last token at both fidelities, on Azure's conversations."""
    columns = gathered(open_trace(file, limit=30 if quick else 500, max_tokens=8192))
    tokens = Host("atlas_800t_a2", "llama3-8b", Parallel(2)).kv_tokens(8192)
    cases: list[tuple[str, tuple[str, ...], Columns, np.recarray, Rules]] = [
        ("vanilla", (), columns, one_replica("prefill_first", 64, 8192, tokens), RULES),
        ("PRESERVE", ("preserve",), columns, one_replica("prefill_first", 64, 8192, tokens), RULES),
        ("chunked prefill", (), columns, one_replica("chunked", 64, 512, tokens), RULES),
        ("preemption", (), columns, one_replica("chunked", 64, 2048, 6_000), RULES),
        (
            "prefix caching",
            (),
            _with_prefixes(columns),
            one_replica("chunked", 64, 2048, 40_000),
            RULES._replace(unit_tokens=64),
        ),
    ]
    for name, techniques, asked, replica, rules in cases:
        host = Host("atlas_800t_a2", "llama3-8b", Parallel(2), techniques)
        step, op = host.serve(asked, replica, rules), host.serve(asked, replica, rules, op=True)
        worst = max(
            _most_apart(getattr(step.requests, column), getattr(op.requests, column))
            for column in ("first_token_s", "last_token_s")
        )
        note = (
            f"{len(asked)} requests, {step.part.preemptions} preemptions, "
            f"{step.part.blocks_found} blocks found"
        )
        yield within("serving", "V1", f"{name}: {_APART}", worst, 1e-6, note)


def _most_apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.nanmax(np.abs(a / b - 1), initial=0.0))


def _with_prefixes(columns: Columns) -> Columns:
    """Prefix caches: each request begins with one of eight long system prompts.

    The recording itself names no prefixes.
    """
    count = columns.prompt_tokens // 64
    family = np.random.default_rng(0).integers(0, 8, len(columns))
    edges = np.concatenate([[0], np.cumsum(count)])
    place = np.arange(edges[-1]) - np.repeat(edges[:-1], count)
    own = 1000 + np.arange(edges[-1])
    blocks = np.where(place < 12, np.repeat(family, count) * 12 + place, own)
    return Columns(
        columns.arrival_s,
        columns.prompt_tokens,
        columns.output_tokens,
        block_from=edges,
        blocks=blocks,
    )


# V3: the workload on which peers were measured.

_PEERS = (
    ("requests_per_s", "requests/s", {"Vidur": 4.21, "BLIS": 4.21}),
    ("ttft_mean_s", "mean TTFT, s", {"Vidur": 0.54, "BLIS": 0.12}),
    ("tpot_mean_s", "mean TPOT, s", {"Vidur": 0.0457, "BLIS": 0.0245}),
)


_PEERS_RAN = "Llama-2-7B on one A100, chunked prefill 512"


@_reads("V3", _PEERS_RAN, lambda: AZURE)
def peers(file: Path, quick: bool) -> Iterator[Row]:
    """10,000 conversations on Llama-2-7B and one A100: two simulators, which disagree, and we."""
    recorded = gathered(open_trace(file, limit=1000 if quick else 10_000))
    prompt = np.minimum(recorded.prompt_tokens, 4095)
    gaps = np.random.default_rng(0).exponential(0.25, len(recorded))
    asked = Columns(
        np.cumsum(gaps) - gaps[0], prompt, np.minimum(recorded.output_tokens, 4096 - prompt)
    )
    host = Host("dgx_a100", "llama2-7b")
    replica = one_replica("chunked", 128, 512, host.kv_tokens(512))
    found = metrics(host.serve(asked, replica), SERVED)
    note = "decode beside prefill chunks, blocks paged, no time for the engine itself"
    for key, name, values in _PEERS:
        for peer, value in values.items():
            yield _row(
                "V3",
                f"{_PEERS_RAN}: {name}, {peer}",
                value,
                found[key],
                "read beside",
                None,
                note=note,
            )


# V4: prefix caches.

_HITS = {1_000: 4.5, 5_000: 11.0, 10_000: 21.1, 30_000: 32.6, 50_000: 35.5, 100_000: 36.4}


@_reads("V4", "prefix-cache hits", lambda: MOONCAKE)
def prefix_cache(file: Path, quick: bool) -> Iterator[Row]:
    """Hit rates of the Mooncake conversations in the engine's prefix cache, one request at a time.

    The published rates count the last block of a prompt, which is not full, as a block: so do the
    rows by capacity, where prompts are rounded up to whole blocks. The engine itself shares full
    blocks only, as the last row does.
    """
    recorded = gathered(open_trace(file))
    assert recorded.block_from is not None
    apart = Columns(
        np.arange(len(recorded)) * 1e4,
        recorded.prompt_tokens,
        np.ones(len(recorded), np.int64),
        block_from=recorded.block_from,
        blocks=recorded.blocks,
    )
    whole = Columns(
        apart.arrival_s,
        np.diff(recorded.block_from) * 512 + 1,
        apart.output_tokens,
        block_from=apart.block_from,
        blocks=apart.blocks,
    )
    host = Host("dgx_a100", "smollm2-135m")
    rules = RULES._replace(unit_tokens=512, tail_first=False)
    for capacity, published in _HITS.items():
        found = _hits(host, whole, capacity, rules)["prefix_block_hit_rate"] * 100
        what = f"block hits, LRU of {capacity:,} blocks, %"
        yield _row("V4", what, published, found, "0.5 points", abs(found - published) <= 0.5)
    found = _hits(host, apart, 300_000, rules)["prefix_hit_rate"] * 100
    what = "token hits, endless cache, %"
    yield _row("V4", what, 37.4, found, "0.5 points", abs(found - 37.4) <= 0.5)


def _hits(host: Host, columns: Columns, blocks: int, rules: Rules) -> dict[str, float]:
    # Two more blocks than the cache is said to have: those of the request's own last tokens.
    replica = replica_of(POLICIES["prefill_first"], 1, 8192, 512, blocks + 2)
    return metrics(host.serve(columns, replica, rules), SERVED)


# V5: queues.


def equal_requests(servers: int) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
    """What serves equal requests, one at a time on each of some replicas, from their arrivals to
    their waiting; and how long one takes, in seconds."""
    host = Host("dgx_a100", "llama2-7b")
    rules = RULES._replace(router=number(ROUTERS, "oracle_least_work"))
    one = replica_of(POLICIES["prefill_first"], 1, 512, 16, 1000)

    def served(arrival_s: np.ndarray, count: int) -> np.ndarray:
        same = np.full(len(arrival_s), 100)
        replicas = np.concatenate([one] * count).view(np.recarray)
        asked = Columns(arrival_s, same, np.ones_like(same))
        found = host.serve(asked, replicas, rules).requests
        return np.stack(
            [found.scheduled_s - found.arrival_s, found.last_token_s - found.scheduled_s]
        )

    service_s = float(served(np.zeros(1), 1)[1, 0])
    return lambda arrival_s: served(arrival_s, servers)[0], service_s


def queues(quick: bool = False) -> Iterator[Row]:
    """Mean waiting of equal requests, served one at a time, against M/D/1 and M/D/3 queues."""
    count = 100_000 if quick else 1_000_000
    for servers, load in ((1, 0.3), (1, 0.7), (3, 0.7)):
        waits, service_s = equal_requests(servers)
        gaps = np.random.default_rng(3).exponential(service_s / load / servers, count)
        found = float(waits(np.cumsum(gaps)).mean())
        due = md_c_waiting(load, servers, service_s)
        what = f"M/D/{servers}, load {load:g}, {count:,} requests: mean waiting, s"
        yield near("serving", "V5", what, due, found, 2, "Crommelin 1932")


def md_c_waiting(load: float, servers: int, service_s: float) -> float:
    """Mean wait of M/D/c in the long run (Crommelin 1932).

    The number present a service time later is what exceeds `servers` now and who has come since,
    iterated to its steady state.
    """
    size = 400
    steps = np.arange(size)
    arrivals = np.exp(
        steps * np.log(load * servers) - load * servers - np.cumsum(np.log(np.maximum(steps, 1)))
    )
    present = np.eye(1, size)[0]
    for _ in range(5000):
        left = np.concatenate([[present[: servers + 1].sum()], present[servers + 1 :]])
        present = np.convolve(left, arrivals)[:size]
    return float((np.maximum(steps - servers, 0) * present).sum() / (load * servers / service_s))


# V6: generated traces.


def traces(quick: bool = False) -> Iterator[Row]:
    """A trace generated after a recorded one: rate, CV of the gaps, quantiles of the lengths."""
    for file in (AZURE, MOONCAKE):
        if not file.exists():
            yield from _absent("V6", "generated traces", file)
            continue
        recorded = gathered(open_trace(file))
        made = gathered(generated(calibrated(recorded), 20_000 if quick else 200_000, seed=0))
        true, simulated = _statistics(recorded), _statistics(made)
        worst = max(true, key=lambda name: abs(simulated[name] / true[name] - 1))
        off = abs(simulated[worst] / true[worst] - 1)
        what = f"{file.name.split('.')[0]}: largest relative error of a generated trace, in {worst}"
        note = "the generator is fitted to the recording"
        yield _row("V6", what, 0.0, off, "5 %", off <= 0.05, note=note)


def _statistics(columns: Columns) -> dict[str, float]:
    gaps = np.diff(columns.arrival_s)
    found = {"rate": 1 / float(gaps.mean()), "CV": float(gaps.std() / gaps.mean())}
    for name, values in (("prompt", columns.prompt_tokens), ("output", columns.output_tokens)):
        points: Sequence[float] = np.percentile(values, (50, 90, 99)).tolist()
        found |= {f"{name} p{percent}": value for percent, value in zip((50, 90, 99), points)}
    return found


# V7: recorded runs of an engine.

_ENGINES = (
    ("Llama-3.1-8B", Host("rtx_pro_6000_x2", "llama3.1-8b", precision=BF16), True),
    ("Qwen3-32B", Host("rtx_pro_6000_p2p", "qwen3-32b", Parallel(2), precision=BF16), True),
    ("Qwen3-32B", Host("rtx_pro_6000_x2", "qwen3-32b", Parallel(2), precision=BF16), False),
)


def engine_runs(quick: bool = False) -> Iterator[Row]:
    """Two runs of vLLM, with its settings, on a card fitted to nothing of them but kernels."""
    for name, host, judged in _ENGINES:
        file = RUNS / f"RTXPRO6000__{name}__vllm__requests.jsonl"
        settings = f"{RUNS}/vllm_e2e__RTXPRO6000__{name}__"
        what = f"vLLM, {name} on {host.parallel.ranks} x RTX PRO 6000"
        if not file.exists():
            yield from _absent("V7", what, file)
            continue
        engine = json.loads(Path(f"{settings}vllm__meta.json").read_text())["engine_kwargs"]
        nodes = json.loads(Path(f"{settings}config.json").read_text())["nodes"]
        tokens = engine["max_num_batched_tokens"]
        room = host.kv_tokens(tokens, nodes[0]["instances"][0]["npu_mem"]["mem_util"])
        replica = one_replica("chunked", engine["max_num_seqs"], tokens, room)
        found = metrics(host.serve(gathered(open_trace(file)), replica), SERVED)
        link = (
            ""
            if host.parallel.ranks == 1
            else "; the link is PCIe 5 by its data sheet, and collectives as others measured them"
            if judged
            else "; the link is that of the run's config.json, a simulator's setting: no part of "
            "the bar"
        )
        for key, measured in _stamps(file).items():
            off = found[key] / measured - 1
            yield _row(
                "V7",
                f"{what}: {key}",
                measured,
                found[key],
                "15 %",
                abs(off) <= 0.15 if judged else None,
                "kernels only",
                f"{100 * off:+.1f} %; no time for the engine itself, no prefix shared{link}",
            )


def _stamps(file: Path) -> dict[str, float]:
    """Means and makespan of a recorded run."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    queued, first, last = (
        np.array([row[f"{name}_ts"] for row in rows])
        for name in ("queued", "first_token", "last_token")
    )
    tokens = np.array([row["output_toks"] for row in rows])
    return {
        "tpot_mean_s": float(((last - first) / (tokens - 1)).mean()),
        "ttft_mean_s": float((first - queued).mean()),
        "makespan_s": float(last.max() - queued.min()),
    }
