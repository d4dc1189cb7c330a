"""A found network as a card, and with the weights that it was trained to."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from sim.dnn.found import EDGES, Found, dnn_of, edge_name
from sim.facts.version import VERSION
from sim.learn.durable import load_checkpoint
from sim.learn.images import Images
from sim.learn.nas.network import Network, of_found
from sim.learn.nas.plan import Plan
from sim.learn.nas.state import load
from sim.systolic.pod_array import PodArray
from sim.systolic.schedule import schedule
from sim.systolic.timing import simulate


def simulated(found: Found, array: PodArray) -> dict[str, Any]:
    """Cycles of one image through the array simulator, and multiply-accumulates over the cells'
    cycles."""
    made = schedule([dnn_of(found)], array)
    cycles = simulate(made).cycles
    return {"cycles": cycles, "utilisation": made.macs / (array.rows * array.cols * cycles)}


def card_of(
    found: Found, plan: Plan, accuracy: float, images: Images, command: str
) -> dict[str, Any]:
    """As `sim.catalog.dnn_cards` reads it."""
    return {
        "kind": "found_network",
        "version": 1,
        "name": found.name,
        "method": plan.method,
        "widths": "flexible" if plan.flexible else "fixed",
        "latency_weight": plan.latency_weight,
        "utilisation_weight": plan.utilisation_weight,
        "array": {"rows": plan.rows, "cols": plan.cols},
        "image": found.image,
        "classes": found.classes,
        "stem": found.stem,
        "cells": [
            {
                "operations": dict(zip(map(edge_name, EDGES), cell.operations)),
                "widths": dict(cell.widths),
                "pool": cell.pool,
            }
            for cell in found.cells
        ],
        "accuracy": accuracy,
        "data": {
            "images": images.source,
            "train": len(images.x),
            "test": len(images.x_test),
        },
        "simulated": simulated(found, plan.array),
        "seed": plan.seed,
        "command": command,
        "made_with": {
            "podscope": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def trained(found: Found, folder: Path) -> Network:
    """The network with the weights of the run in `folder`, ready to infer."""
    network = of_found(found)
    load(network, {}, load_checkpoint(folder / "training.npz")[0])
    return network.eval()


def result(folder: Path, name: str) -> dict[str, Any]:
    """A file of a run."""
    return dict(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
