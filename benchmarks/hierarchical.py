"""Hierarchical training over a connection, measured: accuracy of its exits against its baselines,
and wall-clock of two processes against what layer times predict.

    python benchmarks/hierarchical.py accuracy FILE.json    about 20 minutes of a core
    python benchmarks/hierarchical.py time FILE.json        about 4 minutes, on an idle machine
    python benchmarks/hierarchical.py compare FILE.json     what a file of `time` says; no torch

Both files that stand in `sim/reproduce/hierarchical_run` were made so.

Accuracy: three seeds, whose test images chose nothing. Networks, cuts and schedule were chosen on a
fifth of the training images, with seeds 10 and 11. What a run over a connection reaches is the
same to the bit (tests/learn/test_hierarchical.py), so these are in one process.

Time: layers and link are measured once, at the cut `pool1`, and predict the runs at two other cuts
and three rates. The closed form is the synchronous mini-batch,
T = T_ef + max(T_hf + T_hb + T_eb, T_up + T_cf + T_cb); what an optimiser's step takes is in the
backward times. Not modelled: checkpoints, and two processes that share cores.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

SEEDS = (0, 1, 2)
PRESETS: tuple[dict[str, Any], ...] = (
    {"images": "mnist-5k", "network": "vgg16", "width": 0.25, "cut": "pool3"},
    {"images": "mnist-5k", "network": "resnet18", "width": 0.5, "cut": "layer2.1"},
    {"images": "digits", "network": "vgg16", "width": 0.25, "cut": "pool2"},
)
EPOCHS, BATCH = 10, 32

CALIBRATED, CUTS = "pool1", ("pool2", "pool3")
RATES = ("5.85 Mb/s", "18.88 Mb/s", "200 Mb/s")  # 4G, Wi-Fi, and one at which cores decide
TIMED: dict[str, Any] = {"network": "vgg16", "width": 0.5, "batch": 64}
BATCHES = 24  # a multiple of the cloud's checkpoints, or it waits a quarter of a second for more


def accuracy(file: dict[str, Any], keep: Any) -> None:
    """Test accuracy of both exits, end to end, by split learning, and of the edge alone."""
    from sim.learn.hierarchical import edge_only, end_to_end, in_one_process, split_learning
    from sim.learn.images import read_images
    from sim.learn.split import Plan

    rows = file["runs"] = []
    for preset in PRESETS:
        data = read_images(preset["images"])
        network = {key: value for key, value in preset.items() if key != "images"}
        for seed in SEEDS:
            batches = EPOCHS * (len(data.x) // BATCH)
            plan = Plan(**network, batch=BATCH, batches=batches, seed=seed)
            began = time.process_time()
            found = in_one_process(plan, data)
            row = {
                "images": data.source,
                "trained_on": len(data.x),
                "tested_on": len(data.x_test),
                "epochs": EPOCHS,
                "plan": plan.data(),
                "cloud_exit": found["cloud"],
                "edge_exit": found["edge"],
                "end_to_end": end_to_end(plan, data),
                "split_learning": split_learning(plan, data),
                "edge_only": edge_only(plan, data),
            }
            rows.append(row | {"cpu_s": round(time.process_time() - began, 1)})
            keep()
            print({key: value for key, value in rows[-1].items() if key != "plan"}, flush=True)


def clock(file: dict[str, Any], keep: Any) -> None:
    """Layers and link, then two processes on each cut and rate."""
    from dataclasses import replace

    from sim.cli.hierarchical import _both
    from sim.learn.hierarchical import measured_link, record
    from sim.learn.split import Plan
    from sim.network.frames import frame_bytes
    from sim.text.units import parse

    plan = Plan(**TIMED, cut=CALIBRATED, batches=BATCHES)
    file["record"] = record(plan, measured_link(plan, None, 0.0), repeats=25)
    rows = file["runs"] = []
    for cut in CUTS:
        for link in RATES:
            at = replace(plan, cut=cut)
            with tempfile.TemporaryDirectory() as folder:
                said = _both(Path(folder) / "run", at, "mnist-5k", 2000, link, "0 s", 16, False)
            edge, cloud = said["edge"], said["cloud"]
            channels, rows_, columns = at.shape()
            row = {
                "cut": cut,
                "link": link,
                "bytes_per_s": parse(link, "B/s"),
                "latency_s": 0.0,
                "features": at.features,
                "elements": channels * rows_ * columns,
                "batches": BATCHES,
                "wall_s": edge["wall_s"],
                "edge_forward_s": median(edge["forward_s"]),
                "edge_backward_s": median(edge["backward_s"]),
                "edge_wait_s": median(edge["wait_s"]),
                "cloud_step_s": median(cloud["step_s"]),
                "bytes": edge["bytes"],
                "frame_bytes": frame_bytes(at.batch, channels * rows_ * columns, at.features),
            }
            rows.append(row)
            keep()
            print(told(file["record"], row), flush=True)


def predicted(layers: dict[str, Any], row: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a batch by a record, and of its upload within."""
    names = [layer["name"] for layer in layers["layers"]]
    at = names.index(row["cut"]) + 1

    def total(key: str, some: slice) -> float:
        return sum(layer[key] for layer in layers["layers"][some])

    exit_, last = layers["heads"][row["cut"]], layers["heads"][names[-1]]
    edge, cloud = slice(0, at), slice(at, None)
    link = layers["link"]
    up = row["frame_bytes"] / row["bytes_per_s"] + row["latency_s"]
    beside = link["overhead_s"] + link["overhead_s_per_byte"] * row["frame_bytes"]
    there = total("cloud_forward_s", cloud) + total("cloud_backward_s", cloud) + sum(last.values())
    here = sum(exit_.values()) + total("edge_backward_s", edge)
    return total("edge_forward_s", edge) + max(here, up + beside + there), up


def told(layers: dict[str, Any], row: dict[str, Any]) -> str:
    """A row beside its prediction."""
    each, up = predicted(layers, row)
    wall = row["batches"] * each
    exact = row["bytes"] == row["batches"] * row["frame_bytes"]
    return (
        f"{row['cut']}, {row['link']}: wall-clock {row['wall_s']:.2f} s, predicted {wall:.2f} s "
        f"({100 * (wall / row['wall_s'] - 1):+.1f} %), link {100 * up / each:.0f} % of it, "
        f"bytes {'as predicted' if exact else 'DIFFER'}"
    )


def main() -> None:
    parts = {"accuracy": accuracy, "time": clock}
    if len(sys.argv) != 3 or sys.argv[1] not in (*parts, "compare"):
        sys.exit(__doc__)
    part, path = sys.argv[1], Path(sys.argv[2])
    if part == "compare":
        file = json.loads(path.read_text(encoding="utf-8"))
        print("\n".join(told(file["record"], row) for row in file["runs"]))
        return
    import torch

    torch.set_num_threads(1)
    file = {
        "command": shlex.join(["python", "benchmarks/hierarchical.py", part, path.name]),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("podscope", "torch", "numpy")},
            **{name: version(name) for name in ("scikit-learn", "mlxtend")},
        },
        "machine": f"{_processor()}, {os.cpu_count()} cores, one thread of torch a process",
        "load_at_start": os.getloadavg()[0],
    }
    parts[part](file, lambda: path.write_text(json.dumps(file, indent=1) + "\n"))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")


if __name__ == "__main__":
    main()
