"""Numbers of a static batch."""

from __future__ import annotations

from sim.facts.outcome import Outcome
from sim.results.metric import Metric, table_of


def _tpot_s(outcome: Outcome) -> float | None:
    phases = outcome.part
    return phases.decode_s / phases.decode_steps if phases.decode_steps else None


PHASES = table_of(
    [
        Metric(
            name="prefill_s",
            unit="s",
            better="lower",
            label="prefill",
            of="part of the wall time spent in prefill",
            value=lambda outcome: outcome.part.prefill_s,
        ),
        Metric(
            name="decode_s",
            unit="s",
            better="lower",
            label="decode",
            of="part of the wall time spent in decode steps",
            value=lambda outcome: outcome.part.decode_s,
        ),
        Metric(
            name="tpot_mean_s",
            unit="s",
            better="lower",
            label="TPOT mean",
            of="decode_s / decode steps of a sequence",
            value=_tpot_s,
        ),
    ]
)
