"""`podscope capacity`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import console, plain, progress_line, say, warn, write

if TYPE_CHECKING:
    from rich.table import Table

    from sim.explore.capacity import Capacity


def capacity(
    scenario: Annotated[
        str,
        typer.Argument(metavar="SCENARIO", help="Path of a scenario, or name of a shipped one."),
    ],
    overrides: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every variant."),
    ] = [],  # noqa: B006  (typer copies it)
    slo: Annotated[
        str,
        typer.Option(
            metavar="LIMIT",
            help="What must hold, e.g. 'ttft_p99_s <= 500 ms'; default: the scenario's slo.",
        ),
    ] = "",
    share: Annotated[
        float,
        typer.Option(min=0.5, max=1.0, help="Of the requests, that meet the scenario's slo."),
    ] = 0.99,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the scenario, played at what it takes."),
    ] = None,
) -> None:
    """Find the highest request rate that meets a limit.  Prints it with its 95 % interval, what
    fails first, and the settings as flags of `vllm serve`."""
    from sim.explore.rates import as_scenario, capacities
    from sim.explore.vllm import commands
    from sim.run import load

    with progress_line() as tell:
        found = capacities(
            scenario,
            overrides,
            slo=slo,
            share=share,
            progress=lambda name, rate: tell(f"{name}: {rate:.4g} requests/s"),
        )
    console().print(table(found))
    for name, one in found.items():
        say(plain(f"{name}: {told(one)}"))
    for name, variant in load(scenario, overrides).variants.items():
        for command in commands(variant):
            say(plain(f"{name}: {command}"))
    warn(dict.fromkeys(f"{n}: {what}" for n, one in found.items() for what in one.warnings))
    if out is not None:
        write(out, as_scenario(scenario, overrides, found))
        say(f"wrote {plain(str(out))}")


def table(found: Mapping[str, Capacity]) -> Table:
    """A row a variant: what it takes, and how sure that is."""
    from rich.text import Text

    from sim.results.table import grid_of

    grid = grid_of()
    for title in ("", "requests/s", "95 % interval", "width", "runs"):
        grid.add_column(title, justify="left" if not title else "right")
    for name, one in found.items():
        width = one.width
        cells = [
            name,
            "none" if one.rate is None else f"{one.rate:.4g}",
            "" if one.rate is None else f"{one.low:.4g} to {one.high:.4g}",
            "" if width is None else f"{100 * width:.1f} %",
            f"{len(one.probes)}",
        ]
        grid.add_row(*map(Text, cells))
    return grid


def told(one: Capacity) -> str:
    """What fails first, in a sentence."""
    if one.rate is None:
        return one.why
    at = one.at
    assert at is not None
    why = f" ({at.note})" if at.note else ""
    return f"at {at.rate:.4g}/s {one.limit.what} is {at.mean:.4g}, limit {one.limit.most:.4g}{why}"
