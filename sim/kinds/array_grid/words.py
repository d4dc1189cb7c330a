"""A grid of sizes of an array as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping

from sim.facts.outcome import Outcome
from sim.kinds.array_grid.facts import GRID, best, families
from sim.results.parts_page import parts_table
from sim.results.table import Numbers

_SHOWN = (
    "best_rows",
    "best_cols",
    "best_pods",
    "best_ops_per_joule",
    "ops_per_joule",
    "share_of_best",
)


def grid_section(outcomes: Mapping[str, Outcome]) -> str:
    """The best size of an array for each family, and what the one at hand is beside it."""
    found = {variant: families(outcome) for variant, outcome in outcomes.items()}
    text = (
        "Harmonic means, by the closed form that has no schedule: all tiles that fit run at once."
    )
    grid = parts_table(GRID, found, _SHOWN, "Family")
    return f'<h2>Families</h2><p class="soft">{text}</p>{grid}'


def verdict(outcomes: Mapping[str, Outcome], metrics: Numbers, comparison: Numbers) -> str:
    """Which size is the best, of each variant."""
    said = []
    for variant, outcome in outcomes.items():
        top, (rows, cols) = best(outcome.part), outcome.part.here
        said.append(
            f"{variant}: {top.rows:.0f} x {top.cols:.0f} does most a joule, "
            f"{GRID['best_ops_per_joule'].text(top.ops_per_joule)} with {top.pods:,.0f} pods in "
            f"{outcome.part.power_w:,.4g} W; {rows} x {cols} has "
            f"{100 * (top.here_ops_per_joule / top.ops_per_joule):.1f} % of that"
        )
    return f"{'; '.join(said)}."
