"""Hierarchical training for real, as recorded in `hierarchical_run`: accuracy of the exits, bytes
on the wire, and wall-clocks beside the simulation that is given the layer times measured there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from sim.kinds.training.plan import play, prepare
from sim.reproduce.row import Row
from sim.run import load
from sim.text.strict_yaml import dump

_SYSTEM = "hierarchical"
POINTS, PER_CENT = 1.5, 20.0


def recorded(name: str) -> dict[str, Any]:
    """A file of the record."""
    text = resources.files("sim.reproduce").joinpath("hierarchical_run", name).read_text("utf-8")
    return dict(json.loads(text))


def accuracy() -> Iterator[Row]:
    """H4: the cloud's exit against the same network trained end to end, a row a seed and set."""
    file = recorded("accuracy.json")
    for run in file["runs"]:
        plan = run["plan"]
        below = 100 * (run["end_to_end"] - run["cloud_exit"])
        others = ", ".join(
            f"{name.replace('_', ' ')} {100 * run[name]:.1f}"
            for name in ("cloud_exit", "end_to_end", "edge_exit", "split_learning", "edge_only")
        )
        note = f"{others} %; {plan['network']} x {plan['width']:g}, cut {plan['cut']}, "
        note += f"{run['epochs']} epochs of {run['trained_on']:,} images; {file['command']}"
        what = f"points of the cloud's exit below end to end, {run['images']}, seed {plan['seed']}"
        yield Row(_SYSTEM, "H4", what, None, below, f"<= {POINTS:g}", below <= POINTS, note=note)


def wall_clock() -> Iterator[Row]:
    """H4: wall-clock of two processes, and bytes, by cut and rate, none of them calibrated on."""
    file = recorded("wall_clock.json")
    exact = 0
    for run in file["runs"]:
        seconds, nbytes, link = simulated(file["record"], run)
        exact += nbytes == run["bytes"]
        off = 100 * (seconds / run["wall_s"] - 1)
        what = f"wall-clock of {run['batches']} batches, cut {run['cut']}, {run['link']}, s"
        note = (
            f"{off:+.1f} %; the link is {100 * link:.0f} % of it; load {file['load_at_start']:.1f}"
        )
        ok = abs(off) <= PER_CENT
        tolerance = f"{PER_CENT:g} %"
        yield Row(_SYSTEM, "H4", what, run["wall_s"], seconds, tolerance, ok, note=note)
    count = float(len(file["runs"]))
    what = "runs whose bytes on the wire are the simulation's"
    yield Row(_SYSTEM, "H4", what, count, float(exact), "equal", exact == count)


def simulated(record: Mapping[str, Any], run: Mapping[str, Any]) -> tuple[float, float, float]:
    """Seconds and bytes of a run by the kind `training`, given a record; the share of its link."""
    beside_s = record["link"]["overhead_s"]
    beside_s += record["link"]["overhead_s_per_byte"] * run["frame_bytes"]
    channel = {
        "up_bytes_per_s": f"{run['bytes_per_s']:.6f} B/s",
        "latency_s": f"{run['latency_s']:.9f} s",
        "overhead_s": f"{beside_s:.12f} s",
        "jitter_s": "0 s",
        "loss": 0.0,
    }
    work = {
        "kind": "training",
        "network": record["network"],
        "width": record["width"],
        "image": record["input"][1],
        "batch": record["batch"],
        "batches": run["batches"],
        "features": run["features"],
        "cut": run["cut"],
    }
    pod = {
        "measured": "record.json",
        "edges": {"edge": {"channel": "ethernet", "change": {"channel": channel}}},
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "record.json").write_text(json.dumps(record), encoding="utf-8")
        file = Path(folder) / "scenario.yaml"
        scenario = {"question": "how long?", "pod": pod, "workload": work}
        file.write_text(dump(scenario), encoding="utf-8")
        variant = next(iter(load(file).variants.values()))
        outcome = play(prepare(variant, 0))
    up_s = run["frame_bytes"] / run["bytes_per_s"] * run["batches"]
    return outcome.totals.seconds, outcome.part.played.up_bytes, up_s / outcome.totals.seconds
