"""`podscope trace`: what a request trace is like, in another format, or made up.  Errors and exit
codes: `sim.cli`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.text import console, plain, say, warn, write

if TYPE_CHECKING:
    from sim.traces.arrivals import Arrivals
    from sim.traces.stream import TraceStream

trace = typer.Typer(
    no_args_is_help=True, help="Request traces: describe, convert, merge, generate."
)


class BadRows(StrEnum):
    """What to do with a row that is not right."""

    error = "error"
    skip = "skip"


File = Annotated[
    str, typer.Argument(metavar="FILE", help="A trace file, or a ServeGen folder or archive.")
]
Format = Annotated[
    str, typer.Option("--format", help="Format of the file; default: told by its first line.")
]
First = Annotated[int, typer.Option(min=0, help="Skip so many rows.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Read so many rows.")]
Bad = Annotated[
    BadRows,
    typer.Option("--bad-rows", help="Stop at a row that is not right, or skip and count it."),
]
Spread = Annotated[
    bool, typer.Option("--spread/--ticks", help="Spread requests that were recorded in ticks.")
]
Tick = Annotated[
    float | None,
    typer.Option(min=1e-9, help="Seconds of a tick, where the recorder rounded to others."),
]
BlockTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens of a prefix block; default: as the format has.")
]
Clock = Annotated[
    str | None, typer.Option(help="Unit of the times: s, ms, us or ns; default: as the format has.")
]
Rate = Annotated[
    float | None,
    typer.Option(help="Requests a second, at Poisson times instead of those of the file."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of what is drawn.")]


@trace.command()
def describe(
    file: File,
    html: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write an interactive page.")
    ] = None,
    format: Format = "auto",
    first: First = 0,
    limit: Limit = None,
    bad_rows: Bad = BadRows.error,
    spread: Spread = True,
    tick: Tick = None,
    block_tokens: BlockTokens = None,
    clock: Clock = None,
    rate: Rate = None,
    seed: Seed = 0,
) -> None:
    """Show how many requests come when, how long they are, and how much of their prompts came
    before."""
    from sim.cli.listing import pairs
    from sim.results import trace_page
    from sim.traces.description import described, figures

    found = described(
        _opened(
            file,
            format,
            first,
            limit,
            1.0,
            bad_rows,
            tick or spread,
            block_tokens,
            clock,
            rate,
            seed,
        )
    )
    console().print(pairs(found.name, figures(found)))
    warn(found.warnings)
    if html is not None:
        write(html, trace_page.page(found))
        say(f"wrote {plain(str(html))}")


@trace.command()
def convert(
    file: File,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="NAME.csv, .jsonl (each also .gz or .zst) or .parquet."),
    ],
    format: Format = "auto",
    merge: Annotated[
        list[str],
        typer.Option(
            metavar="OTHER", help="Add the requests of another trace; may be given again."
        ),
    ] = [],  # noqa: B006  (typer copies it)
    speed: Annotated[
        float, typer.Option(help="2 sends the requests twice as fast, 0.5 half as fast.")
    ] = 1.0,
    first: First = 0,
    limit: Limit = None,
    bad_rows: Bad = BadRows.error,
    spread: Spread = True,
    tick: Tick = None,
    block_tokens: BlockTokens = None,
    clock: Clock = None,
    rate: Rate = None,
    seed: Seed = 0,
) -> None:
    """Write a trace in podscope's own columns: cut, sped up, merged with others.  The options apply
    to each trace."""
    from sim.traces.stream import merged
    from sim.traces.writing import write_stream

    streams = [
        _opened(
            each,
            format,
            first,
            limit,
            speed,
            bad_rows,
            tick or spread,
            block_tokens,
            clock,
            rate,
            seed,
        )
        for each in [file, *merge]
    ]
    stream = merged(streams) if merge else streams[0]
    _tell(write_stream(out, stream), out, stream.warnings)


@trace.command()
def generate(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="NAME.csv, .jsonl (each also .gz or .zst) or .parquet."),
    ],
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 10_000,
    seed: Seed = 0,
    like: Annotated[
        str | None, typer.Option(metavar="FILE", help="A trace to be like: rate, gaps, lengths.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Mean requests a second; with sessions, new ones.")
    ] = None,
    cv: Annotated[
        float, typer.Option(help="Coefficient of variation of gaps: 1 Poisson, more is burstier.")
    ] = 1.0,
    on_share: Annotated[
        float | None,
        typer.Option(help="Requests come only in bursts, which fill this share of the time."),
    ] = None,
    on_s: Annotated[float, typer.Option(help="Mean length of a burst in seconds.")] = 30.0,
    swing: Annotated[
        float | None, typer.Option(help="The rate rises and falls by this share over the day.")
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="lognormal:MEDIAN:SIGMA, fixed:TOKENS, quantiles:0=1,0.5=20,1=90, or a mixture."
        ),
    ] = "lognormal:1000:1.0",
    output: Annotated[str, typer.Option(help="The same for answers.")] = "lognormal:150:0.8",
    turns: Annotated[
        float | None, typer.Option(min=1.0, help="Conversations of so many turns on average.")
    ] = None,
    think_s: Annotated[
        float, typer.Option(help="Median time to think between turns, in seconds.")
    ] = 20.0,
    system_tokens: Annotated[
        int, typer.Option(min=0, help="Length of the prompt that conversations share.")
    ] = 0,
    system_prompts: Annotated[
        int, typer.Option(min=1, help="How many such prompts there are.")
    ] = 1,
    block_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prefix block.")] = 16,
) -> None:
    """Make up a trace: from laws, or like a recorded one."""
    from sim.traces.lengths import Lognormal, law_of
    from sim.traces.reading import open_trace
    from sim.traces.stream import gathered
    from sim.traces.synthesis import SessionLaw, TraceSpec, calibrated, generated
    from sim.traces.writing import write_stream

    sessions = None
    if turns is not None:
        sessions = SessionLaw(
            turns, Lognormal(think_s, 1.0), 5.0, system_prompts, system_tokens, block_tokens
        )
    if like is not None:
        if rate is not None or on_share is not None or swing is not None or turns is not None:
            raise ValueError(
                "--like takes arrivals and lengths from the trace; leave out --rate and the "
                "other laws"
            )
        recorded = open_trace(like)
        spec, warnings = calibrated(gathered(recorded)), recorded.warnings
    else:
        arrivals = _arrivals(5.0 if rate is None else rate, cv, on_share, on_s, swing)
        spec, warnings = TraceSpec(arrivals, law_of(prompt), law_of(output), sessions=sessions), []
    _tell(write_stream(out, generated(spec, requests, seed)), out, warnings)


def _arrivals(
    rate: float, cv: float, on_share: float | None, on_s: float, swing: float | None
) -> Arrivals:
    from sim.traces.arrivals import Arrivals, diurnal, on_off

    if on_share is not None and swing is not None:
        raise ValueError("--on-share and --swing cannot be combined")
    if on_share is not None:
        return on_off(rate, on_share, on_s, cv=cv)
    return Arrivals(rate, cv) if swing is None else diurnal(rate, swing, cv=cv)


def _opened(
    file: str,
    format: str,
    first: int,
    limit: int | None,
    speed: float,
    bad_rows: BadRows,
    ticks: bool | float,
    block_tokens: int | None,
    clock: str | None,
    rate: float | None,
    seed: int,
) -> TraceStream:
    from sim.traces.arrivals import Arrivals
    from sim.traces.reading import open_trace

    return open_trace(
        file,
        format=format,
        first=first,
        limit=limit,
        speed=speed,
        bad_rows=bad_rows.value,
        ticks=ticks,
        block_tokens=block_tokens,
        clock=clock,
        arrivals=None if rate is None else Arrivals(rate),
        seed=seed,
    )


def _tell(count: int, out: Path, warnings: list[str]) -> None:
    warn(warnings)
    say(f"wrote {count:,} requests to {plain(str(out))}")
