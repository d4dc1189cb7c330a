"""Hierarchical training over a connection, measured: accuracy of both exits against end-to-end
training, and wall-clock against what its own layer times predict.

    python benchmarks/hierarchical.py FILE.json [accuracy|time ...]

Accuracy: three seeds. Time: two processes on two cuts and three rates; layers are timed once, at no
cut in particular. The prediction is the synchronous mini-batch,
T = T_ef + max(T_hf + T_hb + T_eb, T_up + T_cf + T_cb), written out here; what an optimiser's step
takes is in the backward times. Not modelled: two processes that share cores.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from sim.cli.hierarchical import _both
from sim.learn.hierarchical import end_to_end, in_one_process, measured_link, record
from sim.learn.images import read_images
from sim.learn.split import Plan
from sim.network.frames import frame_bytes

SEEDS, CUTS = (0, 1, 2), ("pool2", "pool3")
RATES = {"1.1 Mb/s": 1.1e6 / 8, "5.85 Mb/s": 5.85e6 / 8, "200 Mb/s": 200e6 / 8}
BATCHES = 12


def accuracy(file: dict[str, Any]) -> None:
    rows = file["accuracy"] = []
    for seed in SEEDS:
        data = read_images("mnist-5k", most=2000)
        plan = Plan(cut="pool3", batches=3 * (len(data.x) // 32), seed=seed, features="fp32")
        found = in_one_process(plan, data)
        rows.append(
            {
                "plan": plan.data(),
                "images": data.source,
                **found,
                "end_to_end": end_to_end(plan, data),
            }
        )
        print(rows[-1], flush=True)


def predicted(layers: dict[str, Any], plan: Plan, bytes_per_s: float) -> tuple[float, float]:
    """Seconds of a batch, and of its upload."""
    names = [layer["name"] for layer in layers["layers"]]
    at = names.index(plan.cut) + 1

    def total(key: str, some: slice) -> float:
        return sum(layer[key] for layer in layers["layers"][some])

    exit_, last = layers["heads"][plan.cut], layers["heads"][names[-1]]
    edge, cloud = slice(0, at), slice(at, None)
    up = frame_bytes(plan.batch, math.prod(plan.shape()), plan.features) / bytes_per_s
    up += measured_link(plan, bytes_per_s, 0.0)["overhead_s"]
    there = total("cloud_forward_s", cloud) + total("cloud_backward_s", cloud) + sum(last.values())
    here = sum(exit_.values()) + total("edge_backward_s", edge)
    return total("edge_forward_s", edge) + max(here, up + there), up


def clock(file: dict[str, Any]) -> None:
    rows = file["time"] = []
    layers = record(Plan(), {"bytes_per_s": 1.0, "latency_s": 0.0, "overhead_s": 0.0}, repeats=9)
    file["record"] = layers
    for cut in CUTS:
        for name, bytes_per_s in RATES.items():
            plan = Plan(cut=cut, batches=BATCHES)
            with tempfile.TemporaryDirectory() as folder:
                said = _both(Path(folder) / "run", plan, "mnist-5k", 2000, name, "0 s", 16, False)
            edge = said["edge"]
            columns = zip(edge["forward_s"], edge["backward_s"], edge["wait_s"])
            each = sorted(sum(parts) for parts in [*columns][2:])
            measured = each[len(each) // 2]
            told, up = predicted(layers, plan, bytes_per_s)
            simulated = BATCHES * frame_bytes(plan.batch, math.prod(plan.shape()), plan.features)
            rows.append(
                {
                    "cut": cut,
                    "link": name,
                    "measured_s": measured,
                    "predicted_s": told,
                    "ratio": told / measured,
                    "link_share": up / told,
                    "bytes": edge["bytes"],
                    "bytes_predicted": simulated,
                }
            )
            print(rows[-1], flush=True)


def main() -> None:
    torch.set_num_threads(1)
    path, parts = Path(sys.argv[1]), sys.argv[2:] or ["accuracy", "time"]
    file = json.loads(path.read_text()) if path.exists() else {}
    file["command"] = f"python benchmarks/hierarchical.py {path.name} {' '.join(parts)}"
    file["load_at_start"] = os.getloadavg()[0]
    for part in parts:
        {"accuracy": accuracy, "time": clock}[part](file)
        path.write_text(json.dumps(file, indent=1) + "\n")


if __name__ == "__main__":
    main()
