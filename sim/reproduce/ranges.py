"""Whether ranges hold what was measured: every published or measured number that is neither fitted
nor exact by construction, with the constants drawn within what is known of them.

A row is covered if the number lies between the 10th and the 90th percentile of the draws (a Latin
hypercube over every constant that any of the rows reads). The ranges were written down before they
were judged; one rule, of overlaps, was changed after a first judgement (docs/ranges.md). What the
model leaves out (the engine's own time, say) is in no constant, so not in the interval.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

from sim.catalog.ranges import drawn
from sim.explore.ranges import hypercube
from sim.reproduce import hierarchical, measured, serving, silicon, typhoon
from sim.reproduce.row import Progress, Row

DRAWS, SEED = 20, 0
RECORD = Path(__file__).with_name("ranges_run") / "draws.json"
_COVERED, _WIDTH = 0.75, 0.25  # of rows at least; of a row, half of its interval at most

_row = partial(Row, "ranges", "J7")

Numbers = dict[str, tuple[float, float]]  # row -> what was published or measured, what is computed


def _of_rows(rows: Iterator[Row]) -> Numbers:
    """Those that are judged, have a published number, and none of whose constants was fitted to
    it."""
    return {
        f"{row.id}: {row.what}": (row.published, row.simulated)
        for row in rows
        if row.published and row.simulated is not None and row.ok is not None and not row.fitted
    }


def _typhoon() -> Numbers:
    parts = (typhoon.benchmark, typhoon.end_to_end, typhoon.asymptotes)
    return _of_rows(row for part in parts for row in part())


def _mixtures() -> Numbers:
    if not measured.MEASURED.exists():
        return {}
    _, off, _ = measured.errors(measured.MEASURED)
    return {
        f"MoE: {setup}: TPOT over what was measured, median over loads": (
            1.0,
            1.0 + median(errors.values()),
        )
        for setup, errors in off.items()
        if errors
    }


def _served() -> Numbers:
    # Kernels of that GPU are fitted to its microbenchmarks, nothing to these runs.
    return _of_rows(row._replace(fitted="") for row in serving.engine_runs())


def _silicon() -> Numbers:
    gains = (row for row in silicon.rows(True) if "gain in %" in row.what)
    return {  # of per cent, the times that these are
        what: (1 + published / 100, 1 + got / 100)
        for what, (published, got) in _of_rows(gains).items()
    }


def _trained() -> Numbers:
    return {
        f"H1: {each.network}, {each.image} px: share of the cloud's time that is saved": (
            each.published,
            hierarchical.reduced(each, {})[0],
        )
        for each in (*hierarchical.CIFAR, *hierarchical.TINY)
    }


PARTS: Mapping[str, Callable[[], Numbers]] = {
    "typhoon": _typhoon,
    "mixtures of experts": _mixtures,
    "vLLM": _served,
    "PRESERVE on silicon": _silicon,
    "hierarchical": _trained,
}


def computed(shares: Mapping[str, float]) -> tuple[dict[str, list[float]], list[str]]:
    """Every number with constants at these shares of their ranges, as [published, computed] by
    row; and the constants that were read, by name. For a process of its own: rows are cached."""
    with drawn(shares) as cards:
        found = {row: [*pair] for part in PARTS.values() for row, pair in part().items()}
    return found, sorted(cards.seen)


def draw(workers: int = 2, progress: Progress = lambda share: None) -> None:
    """Compute all draws anew, and write the record."""
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        nominal, names = pool.submit(computed, {}).result()
        shares = hypercube(len(names), DRAWS, SEED)
        asked = [pool.submit(computed, dict(zip(names, row))) for row in shares.tolist()]
        draws = []
        for done, future in enumerate(asked, 1):
            draws.append({row: pair[1] for row, pair in future.result()[0].items()})
            progress(done / DRAWS)
    found = {"seed": SEED, "constants": names, "nominal": nominal, "draws": draws}
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(found, indent=0, allow_nan=False) + "\n", encoding="utf-8")


def reproduce(quick: bool = False, progress: Progress = lambda share: None) -> list[Row]:
    """Rows of the system `ranges`, from the record of the draws
    (`python -m sim.reproduce.ranges` makes it anew)."""
    if not RECORD.exists():
        return [_row("draws", None, None, "", None, note="no record of draws")]
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    rows: list[Row] = []
    inside, widths = [], []
    for what, (published, nominal) in record["nominal"].items():
        values = [draw[what] for draw in record["draws"] if what in draw]
        low, high = np.percentile(values, (10, 90)).tolist()
        holds = low <= published <= high
        if high - low < 1e-9 * abs(nominal) and abs(nominal / published - 1) < 1e-6:
            continue  # exact by construction
        width = (high - low) / 2 / abs(nominal)
        inside.append(holds)
        widths.append(width)
        flips = _flips(published, nominal, values)
        note = f"80 % interval {low:.4g} to {high:.4g}, +-{100 * width:.0f} %{flips}"
        rows.append(
            Row("ranges", "J7", what, published, nominal, "in the interval", holds, "", note)
        )
    share, middle = sum(inside) / len(inside), median(widths)
    draws, constants = len(record["draws"]), len(record["constants"])
    over = (
        f"{len(inside)} rows, {draws} draws of {constants} constants; 23 % at a first judgement, "
        "with overlaps varied alone"
    )
    return [
        _row(
            "share of published and measured numbers that lie in their 80 % interval",
            _COVERED,
            share,
            "at least",
            share >= _COVERED,
            note=over,
        ),
        _row(
            "median half width of the intervals, of the computed number",
            _WIDTH,
            middle,
            "at most",
            middle <= _WIDTH,
            note=over,
        ),
        *rows,
    ]


def _flips(published: float, nominal: float, values: list[float]) -> str:
    """Where a gain is a loss in some draws, or a loss a gain."""
    other = sum((value > 1.0) != (nominal > 1.0) for value in values)
    if not other or not 0.5 < published < 10:
        return ""
    return f"; on the other side of 1 in {other} of {len(values)} draws"


if __name__ == "__main__":
    draw()
