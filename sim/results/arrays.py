"""Numbers of arrays of pods and of the networks on them; of each network, definitions stand in
`OF_NETWORKS`."""

from __future__ import annotations

import numpy as np

from sim.facts.array import ArrayRecord, GridRecord, NetworkRecord
from sim.facts.outcome import Outcome
from sim.facts.requests import Requests
from sim.results.statistics import jain, request_metrics

OF_ARRAY: dict[str, str] = {
    "effective_ops_per_s": "operations asked for, two a MAC, / time: of networks each by "
    "itself the harmonic mean over "
    "them, as if each had as much to do; of tenants all operations / makespan_s",
    "effective_ops_per_s_at_power": "effective_ops_per_s x `power` / peak_power_w: scaled "
    "linearly, as in SOSA",
    "ops_per_joule": "effective_ops_per_s / peak_power_w",
    "peak_ops_per_s": "two a MAC, all cells of all pods in every cycle",
    "peak_power_w": "all cells and ports busy; without memory, leakage and post-processors",
    "array_utilisation": "effective_ops_per_s / peak_ops_per_s",
    "busy_pods": "pods with a tile / pods, mean over rounds",
    "memory_stalls": "time in which all pods wait for memory / time that the schedules take",
    "rounds": "rounds of all schedules that were played",
    "tile_ops": "tile products of all schedules that were played",
    "dram_bytes": "bytes from memory in all schedules that were played: weights, the networks' "
    "inputs, partial sums",
    "array_idle": "time in which no pod has a schedule / makespan_s, where inferences are "
    "asked for by traces",
    "sharing_gain": "sum of the times of the networks, each with the whole array to itself / "
    "makespan_s; not of traces",
}
OF_GRID: dict[str, str] = {
    "best_rows": "rows of the array with most operations a joule, of those in the grid",
    "best_cols": "its columns",
    "best_pods": "its pods: as many as `power` allows",
    "best_ops_per_joule": "its operations a joule: harmonic mean over families, networks and "
    "sizes, by the closed form",
    "ops_per_joule": "the same of the array that `pod.array` says; elsewhere "
    "effective_ops_per_s / peak_power_w",
    "share_of_best": "ops_per_joule / best_ops_per_joule",
}
OF_NETWORKS: dict[str, str] = {
    "inference_s": "time of an inference; of tenants from the start of the first schedule to "
    "its own end, with traces "
    "from the start of its own schedule, mean over its inferences",
    "alone_s": "time of an inference with the whole array to itself",
    "slowdown": "inference_s / alone_s; of those with traces the mean over inferences of "
    "end-to-end latency / the same "
    "with the whole array to itself",
    "slowdown_p99": "99th percentile of that ratio over its inferences",
    "effective_ops_per_s": "operations of its inferences / inference_s; of those with traces / "
    "makespan_s",
    "effective_ops_per_s_at_power": "that x `power` / peak_power_w",
    "array_utilisation": "effective_ops_per_s / peak_ops_per_s of the whole array",
    "pods": "pods that it may use",
    "ops": "operations of an inference, two a MAC",
}


def array_metrics(outcome: Outcome, array: ArrayRecord) -> dict[str, float]:
    """What an array did, as a whole."""
    wall_s, runs = outcome.totals.seconds, array.runs
    if outcome.sharing == "alone":
        speed = len(array.networks) / sum(each.seconds / each.ops for each in array.networks)
    else:
        speed = sum(run.ops * run.times for run in runs) / wall_s
    pod_s = sum(run.seconds * run.pods * run.times for run in runs)
    pod_rounds = sum(run.rounds * run.pods * run.times for run in runs)
    found = {
        "effective_ops_per_s": speed,
        "effective_ops_per_s_at_power": speed * array.power_w / array.peak_power_w,
        "ops_per_joule": speed / array.peak_power_w,
        "peak_ops_per_s": array.peak_ops_per_s,
        "peak_power_w": array.peak_power_w,
        "array_utilisation": speed / array.peak_ops_per_s,
        "busy_pods": sum(run.tile_ops * run.times for run in runs) / pod_rounds,
        "memory_stalls": sum(run.parts_s["memory"] * run.pods * run.times for run in runs) / pod_s,
        "rounds": float(sum(run.rounds * run.times for run in runs)),
        "tile_ops": float(sum(run.tile_ops * run.times for run in runs)),
        "dram_bytes": float(sum(run.dram_bytes * run.times for run in runs)),
    }
    traced = [each.requests for each in array.networks if each.requests]
    if traced:
        found |= _together(array) | {"requests_per_s": sum(map(len, traced)) / wall_s}
        found["array_idle"] = outcome.totals.idle_s / wall_s
    elif outcome.sharing != "alone":
        found["sharing_gain"] = sum(each.alone_s for each in array.networks) / wall_s
    if outcome.sharing != "alone":
        slow = [_slowdowns(each).mean() for each in array.networks]
        found |= {"slowdown_max": float(max(slow)), "fairness": jain(1 / each for each in slow)}
    return {name: float(value) for name, value in found.items()}


def network_metrics(outcome: Outcome, array: ArrayRecord) -> dict[str, dict[str, float]]:
    """The numbers of each network, by name."""
    found = {}
    for each in array.networks:
        mine = {
            "inference_s": each.seconds,
            "alone_s": each.alone_s,
            "pods": float(each.pods),
            "ops": each.ops,
        }
        speed = each.ops / each.seconds
        if each.requests is not None:
            speed = each.ops * len(each.requests) / outcome.totals.seconds
            mine |= request_metrics(each.requests)
            mine["requests_per_s"] = len(each.requests) / outcome.totals.seconds
            mine["slowdown_p99"] = float(np.percentile(_slowdowns(each), 99))
        if outcome.sharing != "alone":
            mine["slowdown"] = float(_slowdowns(each).mean())
        mine["effective_ops_per_s"] = speed
        mine["effective_ops_per_s_at_power"] = speed * array.power_w / array.peak_power_w
        mine["array_utilisation"] = speed / array.peak_ops_per_s
        found[each.name] = mine
    return found


def _slowdowns(network: NetworkRecord) -> np.ndarray:
    """Of one inference, or of each that was asked for."""
    if network.requests is None:
        return np.array([network.seconds / network.alone_s])
    return (network.requests.last_token_s - network.requests.arrival_s) / network.alone_e2e_s


def _together(array: ArrayRecord) -> dict[str, float]:
    """Latencies of all inferences, whosever they are."""
    return request_metrics(
        Requests.joined([each.requests for each in array.networks if each.requests])
    )


def grid_metrics(grid: GridRecord, family: str = "") -> dict[str, float]:
    """The best size, and what the array at hand is beside it; of one family, or of all."""
    values = grid.families[family] if family else grid.ops_per_joule
    r, c = np.unravel_index(int(values.argmax()), values.shape)
    best, here = float(values[r, c]), grid.here_ops_per_joule[family]
    return {
        "best_rows": float(grid.rows[r]),
        "best_cols": float(grid.cols[c]),
        "best_pods": float(grid.pods[r, c]),
        "best_ops_per_joule": best,
        "ops_per_joule": here,
        "share_of_best": here / best,
    }
