"""What the author of a scenario claims: lines like `preserve.speedup >= 1.2`, parsed before a run, checked after."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sim.results.metrics import DEFINITIONS

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LINE = re.compile(
    rf"(?P<variant>\S.*)\.(?P<metric>\w+)\s*(?P<op>>=|<=|==|>|<)\s*(?P<value>{_NUMBER})"
    rf"(?:\s*(?:±|\+/?-)\s*(?P<tolerance>{_NUMBER}))?"
)
_EXAMPLES = "write it like 'preserve.speedup >= 1.2' or 'preserve.ttft_p99_s == 0.35 ± 0.02'"
_EXACT = 1e-9  # relative: how far `==` without a tolerance may be off


class Expect(NamedTuple):
    """One claim: `variant`'s `metric` stands in relation `op` to `value`; `tolerance` belongs to `==` only."""

    variant: str
    metric: str
    op: str
    value: float
    tolerance: float | None = None
    text: str = ""

    def holds(self, found: float) -> bool:
        """Whether `found` satisfies the claim.  `==` without a tolerance allows a relative 1e-9 for rounding."""
        if self.op == "==":
            allowed = self.tolerance if self.tolerance is not None else _EXACT * max(abs(self.value), abs(found))
            return abs(found - self.value) <= allowed * (1 + 1e-12)
        return {
            ">=": found >= self.value,
            "<=": found <= self.value,
            ">": found > self.value,
            "<": found < self.value,
        }[self.op]


def parse(text: str) -> Expect:
    """The claim in `text`; ValueError with an example if it is not one.

    The grammar is `variant.metric OP number` with OP one of >= <= > < ==, and `variant.metric == number ± tolerance`
    (also written `+-`). Times are in seconds, as the metric's name says. A ratio to the baseline is `metric_ratio`.

    >>> parse("preserve.speedup == 1.61 ± 0.10")[:5]
    ('preserve', 'speedup', '==', 1.61, 0.1)
    """
    match = _LINE.fullmatch(text.strip()) if isinstance(text, str) else None
    if not match:
        raise ValueError(f"{text!r} is not an expectation; {_EXAMPLES}")
    tolerance = None if match["tolerance"] is None else float(match["tolerance"])
    if tolerance is not None and match["op"] != "==":
        raise ValueError(f"{text!r}: a tolerance goes with '==' only; {_EXAMPLES}")
    value = float(match["value"])
    if (tolerance is not None and tolerance < 0) or not all(map(math.isfinite, (value, tolerance or 0.0))):
        raise ValueError(f"{text!r}: numbers must be finite and a tolerance at least zero; {_EXAMPLES}")
    return Expect(match["variant"], match["metric"], match["op"], value, tolerance, text.strip())


def check(
    expects: Iterable[Expect],
    metrics: Mapping[str, Mapping[str, float]],
    comparison: Mapping[str, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Each claim with the value found and whether it holds: [{"text", "value", "ok"}].

    `metrics[variant][metric]` are the absolute numbers, `comparison[variant][metric]` the ratios to the baseline:
    `speedup` and any `<metric>_ratio` are looked up there. ValueError, with the nearest name, for what is not there.
    """
    rows = []
    for e in expects:
        if e.variant not in metrics:
            raise ValueError(f"expect: no variant {e.variant!r}{_nearest(e.variant, metrics)}")
        known = dict(metrics[e.variant])
        ratios = comparison.get(e.variant, {})
        known |= {"speedup": ratios["speedup"]} if "speedup" in ratios else {}
        known |= {f"{name}_ratio": ratio for name, ratio in ratios.items() if name != "speedup"}
        if e.metric not in known:
            why = "has no value in this run" if e.metric in DEFINITIONS else "is not a metric"
            raise ValueError(f"expect: {e.metric!r} of {e.variant!r} {why}{_nearest(e.metric, known)}")
        value = known[e.metric]
        rows.append({"text": e.text or _text(e), "value": value, "ok": e.holds(value)})
    return rows


def _text(e: Expect) -> str:
    within = "" if e.tolerance is None else f" ± {e.tolerance!r}"
    return f"{e.variant}.{e.metric} {e.op} {e.value!r}{within}"


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, 1)
    shown = [n for n in names if not n.endswith("_ratio")]
    return f"; nearest is {close[0]!r}" if close else f"; choose one of {', '.join(shown)}"
