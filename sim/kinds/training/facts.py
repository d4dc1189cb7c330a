"""Numbers of edges and a cloud that train together, and of the cuts they could have."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping

import numpy as np

from sim.facts.outcome import Outcome
from sim.facts.training import Cut, PlayedTraining, TrainingRecord
from sim.results.metric import Metric, measured, table_of


def _of(value: Callable[[TrainingRecord, PlayedTraining], float | None]) -> Callable[..., object]:
    return lambda outcome: value(outcome.part, outcome.part.played)


def _share(seconds: float, whole_s: float) -> float | None:
    return seconds / whole_s if whole_s else None


TRAINING = table_of(
    [
        Metric(
            name="samples_per_s",
            unit="/s",
            better="higher",
            label="samples",
            of="samples of all edges, in batches that are done on all sides / makespan_s",
            value=_of(lambda r, p: _share(r.samples, p.seconds)),
        ),
        Metric(
            name="batch_s",
            unit="s",
            better="lower",
            label="a batch",
            of="makespan_s x edges / batches that are done: time an edge has a batch on its hands",
            value=_of(
                lambda r, p: (
                    p.seconds * len(p.edges.names) * r.batch / r.samples if r.samples else None
                )
            ),
        ),
        Metric(
            name="edge_busy",
            unit="share",
            better="",
            label="edges compute",
            of="time in which an edge's processor is busy / makespan_s, mean over the edges",
            value=_of(lambda r, p: _share(float(p.edges.busy_s.mean()), p.seconds)),
        ),
        Metric(
            name="cloud_busy",
            unit="share",
            better="",
            label="cloud computes",
            of="time in which the cloud is busy / makespan_s",
            value=_of(lambda r, p: _share(p.cloud_busy_s, p.seconds)),
        ),
        Metric(
            name="up_bytes",
            unit="B",
            better="lower",
            label="sent up",
            of="bytes that went up from all edges: headers, labels and what was sent again counted",
            value=_of(lambda r, p: p.up_bytes),
        ),
        Metric(
            name="down_bytes",
            unit="B",
            better="lower",
            label="sent down",
            of="bytes that came down to all edges, acknowledgements not counted",
            value=_of(lambda r, p: p.down_bytes),
        ),
        Metric(
            name="up_bytes_per_sample",
            unit="B",
            better="lower",
            label="sent up, a sample",
            of="up_bytes / samples in batches that are done",
            value=_of(lambda r, p: p.up_bytes / r.samples if r.samples else None),
            shown=False,
        ),
        Metric(
            name="most_uploads",
            unit="count",
            better="",
            label="most uploads at once",
            of="messages that were on the way up at once, at most",
            value=_of(lambda r, p: p.most_uploads),
        ),
        Metric(
            name="edge_memory_bytes",
            unit="B",
            better="lower",
            label="memory on an edge",
            of="weights, gradients, the optimiser's state and the activations that are kept, of "
            "the part on an edge",
            value=_of(lambda r, p: sum(r.memory.values())),
        ),
        Metric(
            name="edge_energy_j",
            unit="J",
            better="lower",
            label="energy of an edge",
            of="its card's power while it computes, its radio's while it sends and receives; mean "
            "over the edges; while it is idle what its card says of that, which may be nothing",
            value=_of(lambda r, p: float(p.edges.joules.mean())),
        ),
        Metric(
            name="batches_done",
            unit="count",
            better="higher",
            label="batches done",
            of="batches of all edges that were trained on all sides that the method has, or on the "
            "edge alone",
            value=_of(lambda r, p: float(p.edges.done.sum())),
        ),
        Metric(
            name="batches_alone",
            unit="count",
            better="lower",
            label="trained on the edge alone",
            of="batches for which there was no room while the cloud was out of reach",
            value=_of(lambda r, p: float(p.edges.alone.sum())),
        ),
        Metric(
            name="batches_late",
            unit="count",
            better="lower",
            label="not waited for",
            of="batches that were not done at the deadline of their round, or when a battery was "
            "empty",
            value=_of(lambda r, p: float(p.edges.late.sum())),
        ),
        Metric(
            name="batches_again",
            unit="count",
            better="lower",
            label="trained again on the edge",
            of="batches that an edge trained again after it was killed",
            value=_of(lambda r, p: float(p.edges.again.sum())),
        ),
        Metric(
            name="rounds_absent",
            unit="count",
            better="lower",
            label="rounds absent",
            of="rounds that an edge was not there for, summed over the edges",
            value=_of(lambda r, p: float(p.edges.absent.sum())),
        ),
        Metric(
            name="batteries_empty",
            unit="count",
            better="lower",
            label="batteries empty",
            of="edges whose battery was empty before the end",
            value=_of(lambda r, p: float(np.isfinite(p.edges.empty_s).sum())),
        ),
    ]
)
CUTS = table_of(
    [
        Metric(
            name="cut_batch_s",
            unit="s",
            better="lower",
            label="a batch",
            of="time of one synchronous batch of every edge, delays being what they are in the "
            "mean",
            value=lambda cut: cut.batch_s,
        ),
        Metric(
            name="ratio",
            unit="x",
            better="lower",
            label="feature map / input",
            of="elements of the feature map that goes up / elements of the input",
            value=lambda cut: cut.ratio,
        ),
        Metric(
            name="cut_energy_j",
            unit="J",
            better="lower",
            label="energy of an edge",
            of="the same batch's energy on an edge, as edge_energy_j",
            value=lambda cut: cut.edge_joules,
        ),
        Metric(
            name="cut_memory_bytes",
            unit="B",
            better="lower",
            label="memory on an edge",
            of="as edge_memory_bytes",
            value=lambda cut: cut.memory_bytes,
        ),
        Metric(
            name="cut_accuracy",
            unit="",
            better="higher",
            label="accuracy",
            of="per cent, as the scenario says that it was measured",
            value=lambda cut: cut.accuracy,
        ),
    ]
)


_RANKED = 5  # cuts on a terminal; the report has all


def cuts(outcome: Outcome) -> dict[str, dict[str, float]]:
    """The numbers of the cuts, the best first, and of the one that is used; one that cannot be
    chosen says so in its name."""
    record = outcome.part
    ordered = sorted(record.cuts, key=lambda cut: (bool(cut.why_not), cut.batch_s))
    some = [cut for n, cut in enumerate(ordered) if n < _RANKED or cut.name == record.cut]
    return {_named(cut, record): measured(CUTS, cut) for cut in some}


def _named(cut: Cut, record: TrainingRecord) -> str:
    if cut.why_not:
        return f"{cut.name} (no: {cut.why_not})"
    return f"{cut.name} *" if cut.name == record.cut else cut.name


def wall_parts(outcome: Outcome) -> dict[tuple[str, str], float]:
    """The wall time by the steps on the way to its end; they add up to it."""
    return {(name, ""): seconds for name, seconds in outcome.part.played.path_s.items()}


def edges_csv(outcomes: Mapping[str, Outcome]) -> dict[str, bytes]:
    """A row an edge and variant."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    columns = ["end_s", "busy_s", "sending_s", "receiving_s", "joules", "done", "alone", "late"]
    columns += ["absent", "again", "empty_s"]
    lines.writerow(["variant", "edge", "group", *columns])
    for variant, outcome in outcomes.items():
        edges = outcome.part.played.edges
        values = zip(*(getattr(edges, column).tolist() for column in columns))
        for name, group, row in zip(edges.names, edges.group, values):
            cells = ["" if value == float("inf") else repr(value) for value in row]
            lines.writerow([variant, name, group, *cells])
    return {"edges.csv": text.getvalue().encode()}
