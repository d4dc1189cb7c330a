"""Numbers of a static batch."""

from __future__ import annotations

from sim.facts.outcome import Outcome
from sim.results.metric import Metric, table_of
from sim.results.metrics import chip_s


def _tpot_s(outcome: Outcome) -> float | None:
    phases = outcome.part
    return phases.decode_s / phases.decode_steps if phases.decode_steps else None


def _a_token(outcome: Outcome, each_s: float | None) -> float | None:
    """What a chip takes each second, of the whole run, for each output token."""
    return each_s * chip_s(outcome) / outcome.tokens if outcome.tokens and each_s else None


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
COSTS = table_of(
    [
        Metric(
            name="joules_per_token",
            unit="J",
            better="lower",
            label="energy per output token",
            of="rated power of a chip x chip-seconds / output tokens; chips draw less when idle",
            value=lambda o: _a_token(o, o.paid.watts),
        ),
        Metric(
            name="dollars_per_million_tokens",
            unit="$",
            better="lower",
            label="cost per million tokens",
            of="price of the chip-seconds / output tokens x 1e6",
            value=lambda o: _a_token(o, (o.paid.dollars_per_hour or 0.0) / 3600 * 1e6),
        ),
    ]
)
