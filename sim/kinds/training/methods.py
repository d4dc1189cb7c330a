"""Methods of training over an edge and a cloud, as rows: which steps a batch has, and what they
wait for.  All run on one engine.

Formulas of a synchronous batch, with e edge, c cloud, h the exit's head, f forward, b backward:
hierarchical T_ef + max(T_hf + T_hb + T_eb, T_up + T_cf + T_cb); cloud only T_up + T_cf + T_cb;
split learning T_ef + T_up + T_cf + T_cb + T_down + T_eb. Source: Hierarchical training with early
exits, arXiv 2303.02384, whose own formula was not read; federated averaging: McMahan et al.,
AISTATS 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sim.engine.lanes import CLOUD, DOWN, EDGE, UP, Step
from sim.graph.graph import After

FORWARD, EXIT, BACKWARD = "edge forward", "edge exit", "edge backward"
UPLOAD, DOWNLOAD = "upload", "download"
CLOUD_FORWARD, CLOUD_BACKWARD = "cloud forward", "cloud backward"
LOCAL, AVERAGE = "local training", "average"


class Method(NamedTuple):
    """One way to train.

    `at`: how many stages are on the edge: "cut", "none" or "all". `returns`: something comes back
    that the next batch needs, so no batch can begin before. `robust`: the edge goes on without the
    cloud. `exits`: the edge has an exit. `rounds`: a step is a whole round of batches.
    """

    name: str
    what: str
    steps: tuple[Step, ...]
    at: str
    sent: str  # what goes up: "features", "input" or "parameters"
    returns: bool = False
    robust: bool = False
    exits: bool = False
    rounds: bool = False


def _step(name: str, lane: str, *after: str) -> Step:
    return Step(name, lane, tuple(After(each) for each in after))


_CLOUD = (
    _step(CLOUD_FORWARD, CLOUD, UPLOAD),
    _step(CLOUD_BACKWARD, CLOUD, CLOUD_FORWARD),
)

METHODS: Mapping[str, Method] = {
    row.name: row
    for row in (
        Method(
            "hierarchical",
            "each side trains its part with its own exit; feature maps go up and nothing back",
            (
                _step(FORWARD, EDGE),
                _step(UPLOAD, UP, FORWARD),
                _step(EXIT, EDGE, FORWARD),
                _step(BACKWARD, EDGE, EXIT),
                *_CLOUD,
            ),
            at="cut",
            sent="features",
            robust=True,
            exits=True,
        ),
        Method(
            "cloud_only",
            "the input goes up, and the cloud trains all",
            (_step(UPLOAD, UP), *_CLOUD),
            at="none",
            sent="input",
        ),
        Method(
            "split",
            "feature maps go up and their gradients come back; one exit, the cloud's",
            (
                _step(FORWARD, EDGE),
                _step(UPLOAD, UP, FORWARD),
                *_CLOUD,
                _step(DOWNLOAD, DOWN, CLOUD_BACKWARD),
                _step(BACKWARD, EDGE, DOWNLOAD),
            ),
            at="cut",
            sent="features",
            returns=True,
        ),
        Method(
            "edge_only",
            "the edge trains all by itself",
            (
                _step(FORWARD, EDGE),
                _step(EXIT, EDGE, FORWARD),
                _step(BACKWARD, EDGE, EXIT),
            ),
            at="all",
            sent="",
            exits=True,
        ),
        Method(
            "federated",
            "each edge trains all on its own batches; the cloud averages parameters every round",
            (
                _step(DOWNLOAD, DOWN),
                _step(LOCAL, EDGE, DOWNLOAD),
                _step(UPLOAD, UP, LOCAL),
                _step(AVERAGE, CLOUD, UPLOAD),
            ),
            at="all",
            sent="parameters",
            returns=True,
            exits=True,
            rounds=True,
        ),
    )
}


def steps_of(method: Method, pipelined: bool) -> tuple[Step, ...]:
    """The steps of a batch; where nothing overlaps, the first waits for all of the batch before, of
    a pipeline for those on its own lane."""
    first, *others = method.steps
    before = [
        After(step.name, back=1)
        for step in method.steps
        if not pipelined or step.lane == first.lane
    ]
    return (first._replace(after=tuple(before)), *others)
