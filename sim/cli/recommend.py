"""`podscope recommend`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.text import console, plain, progress_line, say, warn, write


class Aim(StrEnum):
    """What is wanted of the settings."""

    chips = "chips"
    cost = "cost"
    goodput = "goodput"


def recommend(
    scenario: Annotated[
        str,
        typer.Argument(metavar="SCENARIO", help="Path of a scenario, or name of a shipped one."),
    ],
    goal: Annotated[
        Aim, typer.Option("--for", help="Fewest chips, lowest cost, or highest goodput.")
    ] = Aim.chips,
    overrides: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every candidate."),
    ] = [],  # noqa: B006  (typer copies it)
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY=VALUE,VALUE",
            help="What a key may be, e.g. parallel.tensor=2,4; default: the scenario's `sweep`, "
            "else what its pod and model allow.",
        ),
    ] = [],  # noqa: B006
    chips: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most chips in all; default: the pod's, up to 16."),
    ] = None,
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
    variant: Annotated[
        str, typer.Option(metavar="NAME", help="Which variant; default: the first.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the scenario with these settings.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that run candidates; default: one a core."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler or SLURM that does it instead."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Also more than 10,000 candidates, without being asked.")
    ] = False,
) -> None:
    """Find the settings that meet a limit with the fewest chips, at the lowest cost, or with the
    highest goodput.  Prints the best, why the next one fails, and flags of `vllm serve`."""
    from sim.explore.recommend import recommend as find

    if out is not None and not out.absolute().parent.is_dir():
        raise ValueError(f"{out} cannot be written: there is no folder {out.parent}")
    with progress_line() as tell:
        found = find(
            scenario,
            overrides,
            goal=goal,
            slo=slo,
            share=share,
            over=over,
            chips=chips,
            variant=variant,
            workers=workers,
            cluster=cluster,
            yes=yes,
            progress=tell,
        )
    for line in found.said:
        say(plain(line), stderr=True)
    if found.best is None:
        if found.near:
            console(stderr=True).print(found.table())
        say(plain(found.counted), stderr=True)
        warn([*(found.not_possible if found.near else ()), *found.warnings])
        raise ValueError(found.verdict)
    console().print(found.table())
    say(plain(found.verdict))
    say(plain(found.next_told))
    say(plain(found.counted))
    for line in found.served:
        say(plain(line))
    warn([*found.not_possible, *found.warnings])
    if out is not None and found.scenario is not None:
        write(out, found.scenario.resolved)
        say(f"wrote {plain(str(out))}")
