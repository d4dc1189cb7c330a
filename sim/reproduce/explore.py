"""What `recommend` and `capacity` find, beside what running everything, or theory, says (J6)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from sim.explore.capacity import Capacity, Limit, find, means
from sim.explore.rates import capacities
from sim.explore.recommend import recommend
from sim.reproduce.row import Progress, Row, near, rows_of, within
from sim.reproduce.serving import equal_requests, md_c_waiting
from sim.run import run
from sim.scenario import ScenarioError

_SYSTEM, _ID = "explore", "J6"
_SHARE = 0.99
_GRID = np.arange(0.9, 1.1, 0.01)  # of the capacity
Attempt = Callable[[float], tuple[np.ndarray, str]]


def reproduce(quick: bool = False, progress: Progress = lambda done_fraction: None) -> list[Row]:
    """Rows of the system `explore`."""
    parts: list[Callable[[bool], Iterable[Row]]] = [recommended, by_grid, by_theory]
    return rows_of((part(quick) for part in parts), len(parts), progress)


class Small(NamedTuple):
    """A space that is small enough to run whole."""

    what: str
    goal: str
    base: Mapping[str, Any]
    over: Mapping[str, list[Any]]
    listed: tuple[Mapping[str, Any], ...] = ({},)


_TRACE = {"file": "azure_conv_like", "limit": 300}
_PODS = {"dgx_h100": 3.0, "hgx_h20": 1.2}  # dollars an hour and chip, made up
_PRICE = "pod.change.device.price_per_hour"


def _base(rate: float, **slo: str) -> dict[str, Any]:
    return {
        "question": "Which settings?",
        "pod": {"topology": "dgx_h100"},
        "model": "llama3-8b",
        "workload": {"kind": "requests", "trace": {**_TRACE, "rate": rate}, "slo": slo},
    }


SPACES = (
    Small(
        "tensor, pipeline, replicas, chunk",
        "chips",
        _base(40.0, ttft="400 ms", tpot="20 ms"),
        {
            "parallel.tensor": [1, 2, 4],
            "parallel.pipeline": [1, 2],
            "workload.replicas": [1, 2, 3],
            "workload.max_batched_tokens": [512, 2048],
        },
    ),
    Small(
        "pod and its price, tensor, formats, batch",
        "cost",
        _base(12.0, ttft="1 s", tpot="15 ms"),
        {
            "parallel.tensor": [1, 2, 4],
            "precision.kv": ["fp16", "fp8"],
            "precision.weights": ["fp16", "fp8"],
            "workload.max_batch": [8, 256],
        },
        tuple({"pod.topology": name, _PRICE: price} for name, price in _PODS.items()),
    ),
    Small(
        "tensor, prefill:decode, batch",
        "goodput",
        _base(25.0, ttft="500 ms", tpot="12 ms"),
        {"parallel.tensor": [1, 2], "workload.max_batch": [32, 256]},
        (
            {"workload.replicas": 2, "workload.prefill": None},
            {"workload.replicas": 4, "workload.prefill": None},
            {"workload.replicas": 1, "workload.prefill.replicas": 1},
            {"workload.replicas": 3, "workload.prefill.replicas": 1},
            {"workload.replicas": 2, "workload.prefill.replicas": 2},
            {"workload.replicas": 1, "workload.prefill.replicas": 3},
        ),
    ),
)


def recommended(quick: bool = False) -> Iterator[Row]:
    """`recommend` on three small spaces, beside running every candidate of each."""
    for space in SPACES:
        section = {"over": space.over} | ({"list": space.listed} if space.listed != ({},) else {})
        asked = {**space.base, "sweep": section}
        found = recommend(asked, goal=space.goal, share=_SHARE, workers=1)
        value, points, count = every(space)
        assert found.best is not None
        best = found.best
        of = {"chips": float(best.takes.chips), "cost": best.takes.dollars_per_hour or 0.0}
        got = of.get(space.goal, best.goodput)
        same = dict(best.point) in points and abs(got / value - 1) < 1e-9
        yield Row(
            _SYSTEM,
            _ID,
            f"recommend, {space.goal}, over {space.what}: {count} candidates, all run",
            value,
            got,
            "equal, and the same settings",
            same,
            note=f"{found.words(best)}; {found.counted}",
        )


def every(space: Small) -> tuple[float, list[dict[str, Any]], int]:
    """The best of all candidates of a space, each run by itself: chips, cost or goodput, those that
    have it with the highest goodput, and how many candidates there are."""
    ranked = []
    count = 0
    for listed, *values in product(space.listed, *space.over.values()):
        point = {**dict(zip(space.over, values)), **listed}
        count += 1
        try:
            metrics = run(space.base, {**point, "record.enabled": False}).variants["run"]["metrics"]
        except ScenarioError:
            continue
        if metrics["slo_attainment"] < _SHARE - 1e-12:
            continue
        pools = point.get("workload.replicas", 1) + point.get("workload.prefill.replicas", 0)
        chips = point.get("parallel.tensor", 1) * point.get("parallel.pipeline", 1) * pools
        goodput = metrics["goodput_per_s"]
        cost = chips * point.get(_PRICE, 0.0)
        key = {"chips": float(chips), "cost": cost, "goodput": -goodput}[space.goal]
        ranked.append(((key, -goodput, chips), point))
    least = min(key for key, _ in ranked)
    return abs(least[0]), [point for key, point in ranked if key == least], count


def by_grid(quick: bool = False) -> Iterator[Row]:
    """`capacity` beside the first of many close rates that fails."""
    base = {**_base(5.0, ttft="1 s", tpot="50 ms"), "pod": {"topology": "atlas_800t_a2"}}
    count = 500 if quick else 1500
    base["workload"] |= {"trace": {**_TRACE, "limit": count, "rate": 5.0}, "max_batch": 64}
    for tensor in (2, 4):
        given = {"parallel.tensor": tensor}
        one = capacities(base, given)["run"]
        assert one.rate is not None
        held = [
            run(
                base, {**given, "workload.trace.rate": float(rate), "record.enabled": False}
            ).variants["run"]["metrics"]["slo_attainment"]
            for rate in one.rate * _GRID
        ]
        first = next(r for r, met in zip(one.rate * _GRID, held) if met < _SHARE - 1e-12)
        what = f"capacity of {tensor} chips, {count:,} requests, beside a grid of 1 %: requests/s"
        yield near(_SYSTEM, _ID, what, float(first), one.rate, 2, _interval(one))


def _interval(one: Capacity) -> str:
    assert one.width is not None
    return (
        f"95 % interval {one.low:.4g} to {one.high:.4g}, width {100 * one.width:.1f} %; bisection "
        "goes to 0.5 %"
    )


def queue(count: int, seed: int, servers: int = 1, service_s: float = 1.0) -> Attempt:
    """Tries of M/D/c, first come, first served: customer n follows n - c, so each server is a
    recursion of Lindley's own."""
    gaps = np.random.default_rng(seed).exponential(1.0, count)

    def attempt(rate: float) -> tuple[np.ndarray, str]:
        return waits(np.cumsum(gaps / rate), servers, service_s), ""

    return attempt


def waits(arrival_s: np.ndarray, servers: int, service_s: float) -> np.ndarray:
    """Waiting of each customer, in seconds."""
    found = np.empty(len(arrival_s))
    for server in range(servers):
        own = arrival_s[server::servers]
        lag = np.arange(len(own)) * service_s - own
        found[server::servers] = lag - np.minimum.accumulate(lag)
    return found


def by_theory(quick: bool = False) -> Iterator[Row]:
    """`capacity` where queueing theory knows it: equal requests, one at a time (Crommelin 1932).

    Long queues are Lindley's recursion, which the engine is first held to.
    """
    count = 20_000 if quick else 200_000
    for servers in (1, 3):
        serve, service_s = equal_requests(servers)
        arrival_s = np.cumsum(
            np.random.default_rng(4).exponential(service_s / 0.95 / servers, count)
        )
        off = np.abs(serve(arrival_s) - waits(arrival_s, servers, service_s)).max() / service_s
        what = f"M/D/{servers}, load 0.95, {count:,} requests: engine and recursion, worst, service"
        yield within(_SYSTEM, _ID, what, float(off), 1e-6)
    size, seeds = (20_000, 20) if quick else (200_000, 20)
    for servers, load in ((1, 0.5), (1, 0.95), (3, 0.8), (3, 0.95)):
        limit = Limit("wait", md_c_waiting(load, servers, 1.0))
        found = [find(queue(size, seed, servers), 0.3 * servers, limit) for seed in range(seeds)]
        close = 0.005  # as near as bisection goes
        low, high = load * servers * (1 - close), load * servers * (1 + close)
        covered = sum(one.low <= high and low <= one.high for one in found)
        width = 100 * float(np.mean([one.width for one in found]))
        yield Row(
            _SYSTEM,
            _ID,
            f"M/D/{servers}, load {load:g}: 95 % intervals of {size:,} requests that cover theory",
            0.95 * seeds,
            float(covered),
            f">= 17 of {seeds}",
            covered >= 17,
            note=f"mean width {width:.1f} %, beside 0.5 % of the rate to which bisection goes; 16 "
            f"or fewer of {seeds} would come once in 400 times",
        )
    size = 2_000_000 if quick else 8_000_000
    for servers in (1, 3):
        due = md_c_waiting(0.95, servers, 1.0)
        values, _ = queue(size, 5, servers)(0.95 * servers)
        what = f"M/D/{servers}, load 0.95, {size:,} requests: mean waiting, service times"
        half = 100 * means(values)[1] / due
        note = f"95 % interval +- {half:.1f} %"
        yield near(_SYSTEM, _ID, what, due, float(values.mean()), 2, note)
        limit = Limit("wait", due)
        one = find(queue(size, 5, servers), 0.3 * servers, limit)
        assert one.rate is not None
        what = f"capacity of M/D/{servers} at load 0.95, {size:,} requests: requests a service time"
        yield near(_SYSTEM, _ID, what, 0.95 * servers, one.rate, 2, _interval(one))
