"""`podscope sweep` and `podscope compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import console, plain, progress_line, say, warn

if TYPE_CHECKING:
    from sim.explore.drive import Tally
    from sim.results import Result
    from sim.scenario.schema import Ranging

_INTERRUPTED = 130


def sweep(
    scenario: Annotated[
        str,
        typer.Argument(metavar="SCENARIO", help="Path of a scenario, or name of a shipped one."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; default: sweeps/NAME.")
    ] = None,
    overrides: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every point."),
    ] = [],  # noqa: B006  (typer copies it)
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that compute points; default: one a core."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A Dask scheduler, tcp://..., or SLURM, slurm://?..., who does it instead.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what the folder holds.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Also more than 10,000 points, without being asked.")
    ] = False,
) -> None:
    """Compute every point of a scenario's section `sweep`.  Keeps each as it comes, and writes a
    table and a report."""
    from sim.explore.sweep import SweepStopped
    from sim.explore.sweep import sweep as compute

    folder = out or Path("sweeps") / Path(scenario).stem
    try:
        with progress_line() as tell:
            result = compute(
                scenario,
                overrides,
                folder,
                workers=workers,
                cluster=cluster,
                resume=resume,
                yes=yes,
                progress=lambda tally: tell(told(tally)),
            )
    except SweepStopped as stop:
        done = "" if stop.tally is None else f" at {told(stop.tally)}"
        say(plain(f"stopped{done}; --resume goes on with what is in {folder}/"), stderr=True)
        raise typer.Exit(_INTERRUPTED) from None
    result.save()
    console().print(result.table())
    warn(result.warnings)
    say(f"wrote {plain(str(folder))}/")


def ranged(
    scenario: str,
    overrides: list[str],
    result: Result,
    asked: Ranging,
    workers: int,
    cluster: str | None,
) -> Result:
    """The result with how sure its verdict is."""
    from dataclasses import replace

    from sim.explore.ranges import ranged as sure

    with progress_line() as tell:
        found = sure(
            scenario,
            overrides,
            result,
            draws=asked.draws,
            seed=asked.seed,
            workers=workers,
            cluster=cluster,
            progress=lambda what, tally: tell(f"{what}: {told(tally)}"),
        )
    return replace(result, sure=found)


def told(tally: Tally) -> str:
    """How far a sweep is, in words."""
    bad = ", ".join(
        f"{count:,} {status}"
        for status, count in tally.by_status.items()
        if count and status != "done"
    )
    left = tally.left_s
    return (
        f"{tally.ended:,} of {tally.size:,} points"
        + (f" ({bad})" if bad else "")
        + (f", {tally.per_s:.3g} points/s" if tally.computed else "")
        + (f", {_span(left)} left" if left else "")
    )


def _span(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole / 3600:.1f} h"


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; the first is the baseline.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page with figures here.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the metrics that `run` does not show.")
    ] = False,
) -> None:
    """Show runs side by side.  Their metrics, each with its ratio to the first run's."""
    from sim.cli.text import write
    from sim.kinds import KINDS
    from sim.results.compare import compared

    found = compared([os.fspath(run) for run in runs], KINDS, everything=everything)
    console().print(found.table())
    warn(found.warnings)
    if out is not None:
        write(out, found.page())
        say(f"wrote {plain(str(out))}")
