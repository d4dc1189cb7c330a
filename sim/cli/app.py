"""The command line.  It reads arguments, prints and sets the exit code; everything else is done by
the module it calls.

Exit codes: 0 done, 2 the user's input is wrong, 3 an expectation of the scenario failed, 130
interrupted. Imports that take long stand in the functions that need them, so that `podscope
--version` and `podscope check` answer at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from sim.cli import interrupts
from sim.cli.capacity import capacity
from sim.cli.explore import compare, ranged, sweep
from sim.cli.hierarchical import cloud, edge, hierarchical
from sim.cli.interrupts import INTERRUPTED
from sim.cli.learn import learn
from sim.cli.nas import nas, nas_study
from sim.cli.new import new
from sim.cli.recommend import recommend
from sim.cli.text import console, plain, progress_bar, say, visible, warn, write
from sim.cli.trace import trace
from sim.facts.version import VERSION

if TYPE_CHECKING:
    from sim.scenario import Fault, Scenario

WRONG_INPUT, CLAIM_FAILED = 2, 3


class _Group(TyperGroup):
    """Turns the user's mistakes into a message and an exit code; a mistake of ours keeps its
    traceback."""

    def invoke(self, ctx: Any) -> Any:
        from sim.text.strict_yaml import ScenarioError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("podscope: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise  # `podscope list devices | head`: not worth a message
        except (ValueError, OSError) as error:
            if interrupts.heard():  # which a library below has turned into this
                typer.echo("podscope: interrupted", err=True)
                raise typer.Exit(INTERRUPTED) from None
            if isinstance(error, ScenarioError):
                typer.echo(visible(str(error)), err=True)
                raise typer.Exit(WRONG_INPUT) from None
            if ctx.params.get("traceback"):
                raise
            typer.echo(visible(f"podscope: {error}"), err=True)
            raise typer.Exit(WRONG_INPUT) from None


app = typer.Typer(
    name="podscope",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich takes longer to load than all else that help needs
    help="A discrete-event simulator of the machines that run AI models.",
)
app.add_typer(trace, name="trace")
app.add_typer(new, name="new")
learn.command()(hierarchical)
learn.command()(nas)
learn.command("nas-study")(nas_study)
app.add_typer(learn, name="learn")
app.command()(sweep)
app.command()(compare)
app.command()(capacity)
app.command()(recommend)
app.command()(edge)
app.command()(cloud)
Scenarios = Annotated[
    list[str],
    typer.Argument(metavar="SCENARIO", help="Path of a scenario, or name of a shipped one."),
]
Override = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key of every variant, e.g. workload.batch=8."
    ),
]


def main() -> None:
    """Run the command that the arguments name, and end the process."""
    code: object = 1
    interrupts.kept()
    try:
        app(prog_name="podscope")
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt:  # outside a command; within one, the group above sees it first
        code = INTERRUPTED
    except Exception:
        if not interrupts.heard():
            raise
        code = INTERRUPTED
    if code == INTERRUPTED:
        interrupts.leave(INTERRUPTED)
    interrupts.done()
    raise SystemExit(code)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"podscope {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the program an error came from.")
    ] = False,
) -> None:
    """Options before the command."""


class Fidelity(StrEnum):
    """How closely requests are simulated."""

    step = "step"
    op = "op"


@app.command()
def run(
    scenarios: Scenarios,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; default: runs/NAME.")
    ] = None,
    overrides: Override = [],  # noqa: B006  (typer copies it)
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes that share the variants, or the replicas of the only one; default: "
            "one a core.",
            show_default=False,
        ),
    ] = os.cpu_count() or 1,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler whose workers do it instead."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the report in a browser.")
    ] = False,
    record: Annotated[
        str | None,
        typer.Option(
            metavar="FROM..UNTIL",
            help="Window whose ops the timeline shows, e.g. 10s..10.2s; 10s.. for the default "
            "length from there on. Of requests and collectives.",
        ),
    ] = None,
    fidelity: Annotated[
        Fidelity | None,
        typer.Option(help="Of requests: step prices iterations, op plays every op of each."),
    ] = None,
    known: Annotated[
        bool,
        typer.Option(
            "--range", help="Also how sure the verdict is, by what is known of constants."
        ),
    ] = False,
) -> None:
    """Run every variant of a scenario.  Prints the comparison, writes the run folder."""
    window = _window(record) if record is not None else []
    depth = [f"workload.fidelity={fidelity.value}"] if fidelity else []
    overrides = [*overrides, *window, *depth]
    loaded = _load(scenarios, overrides, {"--record": window, "--fidelity": depth})
    folders = _folders(loaded, out)
    from sim.run import Interrupted
    from sim.run import run as simulate
    from sim.scenario.schema import Ranging

    held = True
    for name, scenario, folder in zip(scenarios, loaded, folders):
        if scenario.sweep is not None:
            say(f"{plain(name)}: its section sweep is for `podscope sweep`", stderr=True)
        try:
            with progress_bar() as progress:
                result = simulate(
                    name, overrides, progress=progress, workers=workers, cluster=cluster
                )
        except Interrupted as stop:
            result = stop.result
            folder = _beside(folder)
        result.save(folder)
        asked = scenario.range or (Ranging() if known else None)
        if asked and not result.partial:
            result = ranged(name, overrides, result, asked, workers, cluster)
            result.save(folder)
        console().print(result.table())
        held = held and all(claim["ok"] for claim in result.expect)
        warn(result.warnings)
        if result.ran:
            say(f"loops: {plain('; '.join(result.ran))}", stderr=True)
        say(f"wrote {plain(str(folder))}/")
        if result.partial:
            raise typer.Exit(INTERRUPTED)
        if show:
            typer.launch(str((folder / "report.html").resolve()))
    if not held:
        raise typer.Exit(CLAIM_FAILED)


@app.command()
def check(scenarios: Scenarios, overrides: Override = []) -> None:  # noqa: B006
    """Validate scenarios without running them.  The file, and that its parts fit together."""
    from sim.run import prepare

    for name, scenario in zip(scenarios, _load(scenarios, overrides)):
        prepare(scenario)
        points = ""
        if scenario.sweep is not None:
            from sim.explore.plan import planned

            points = f", {planned(name, overrides).size:,} points of a sweep"
        typer.echo(
            f"{scenario.name}: ok, {len(scenario.variants)} variant(s) "
            f"({', '.join(scenario.variants)}), {len(scenario.expect)} expectation(s){points}"
        )


@app.command()
def schema() -> None:
    """Print the JSON Schema of a scenario, for editors."""
    from sim.kinds import KINDS
    from sim.scenario import json_schema

    specs = {name: kind.spec.found for name, kind in KINDS.items()}
    typer.echo(json.dumps(json_schema(specs), indent=2, ensure_ascii=False))


Kind = StrEnum(  # what `podscope list` can list
    "Kind",
    [
        "devices",
        "channels",
        "models",
        "networks",
        "libraries",
        "topologies",
        "kv_cards",
        "dnn_cards",
        "shapes",
        "collectives",
        "techniques",
        "scenarios",
        "kinds",
        "metrics",
        "formats",
        "interconnects",
        "dataflows",
    ],
)


@app.command("list")
def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table; numbers in SI units.")
    ] = False,
) -> None:
    """List what there is.  With its main numbers and where they come from."""
    from sim.cli.listing import rows, table

    if as_json:
        typer.echo(json.dumps(rows(kind.value), indent=2, ensure_ascii=False))
    else:
        console().print(table(kind.value))


@app.command()
def topology(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of a shipped topology, or path of a file.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write an interactive picture.")
    ] = None,
) -> None:
    """Show how a pod is wired.  Its figures, and with --out a picture of its links."""
    from sim import catalog
    from sim.catalog.installed import add_installed
    from sim.cli.listing import pairs
    from sim.results import topology_page

    add_installed()
    pod = catalog.pod(name)
    graph = pod.graph()
    console().print(
        pairs(f"{pod.name}: {pod.shape.replace('_', ' ')}", topology_page.figures(graph))
    )
    if out is not None:
        write(out, topology_page.page(pod.name, graph, pod.facts))
        say(f"wrote {plain(str(out))}")


@app.command()
def reproduce(
    system: Annotated[
        str | None, typer.Argument(metavar="[SYSTEM]", help="One published system; default: all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer points, for a first look.")] = False,
    file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the rows as JSON.")
    ] = None,
    rerun: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Of nas: make its searches again in DIR, as learn nas-study does, and judge those "
            "in place of the record: most of an hour, can be resumed, needs torch.",
        ),
    ] = None,
) -> None:
    """Rerun published experiments.  Prints published, simulated, tolerance, and whether a constant
    was fitted."""
    from sim.cli.experiments import record, table, tally
    from sim.reproduce import SYSTEMS
    from sim.text.strict_yaml import nearest

    if system is not None and system not in SYSTEMS:
        raise ValueError(
            f"no system {system!r}{nearest(system, SYSTEMS)}; choose one of {', '.join(SYSTEMS)}"
        )
    if file is not None:
        # Whether it can be written: find out now, not after minutes of work.
        from sim.text.replacing import temporary

        temporary(file).unlink()
    more = {}
    if rerun is not None:
        if system != "nas":
            raise ValueError("--rerun is of nas alone: podscope reproduce nas --rerun DIR")
        from sim.cli.nas import studied

        more["searched"] = studied(rerun)
    done: list[dict[str, Any]] = []
    for name in [system] if system else SYSTEMS:
        with progress_bar() as progress:
            tell = partial(progress, label=f"reproduce {name}")
            made = SYSTEMS[name](quick=quick, progress=tell, **more)
            new = [record(row._asdict()) for row in made]
        done += new
        console().print(table(name, new))
    if file is not None:
        write(file, json.dumps(done, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    for line in tally(done):
        say(plain(line))


def _load(
    names: list[str], overrides: list[str], options: Mapping[str, list[str]] = {}
) -> list[Scenario]:
    """All scenarios, or one error with the faults of all; some overrides are said by `options`."""
    from sim.run import load
    from sim.scenario import ScenarioError

    loaded, faults = [], []
    for name in names:
        try:
            loaded.append(load(name, overrides))
        except ScenarioError as error:
            faults += [_of_option(fault, name, options) for fault in error.faults]
    if faults:
        raise ScenarioError(dict.fromkeys(faults))
    return loaded


def _of_option(fault: Fault, scenario: str, options: Mapping[str, list[str]]) -> Fault:
    """`fault`, or if it is of a key that an option stands for, that the option has no meaning."""
    from sim.scenario.layers import OVERRIDES

    said = ((name, text) for name, texts in options.items() for text in texts)
    for option, text in said if fault.file == OVERRIDES else ():
        if f"{text.partition('=')[0]}.".startswith(f"{fault.key}."):
            what = f"{scenario} has a workload that does not read {fault.key}; take this option out"
            return fault._replace(file=option, key="", what=what)
    return fault


def _window(text: str) -> list[str]:
    """`--record` as overrides; ValueError where it is no window."""
    from sim.text.units import parse

    ends = [end.strip() for end in text.split("..")]
    try:
        if len(ends) != 2:
            raise ValueError(f"{text!r} is no window")
        from_s, until_s = parse(ends[0], "s"), parse(ends[1], "s") if ends[1] else float("inf")
        if not 0 <= from_s < until_s:
            raise ValueError(f"{text!r} ends before it begins, or begins before 0 s")
    except ValueError as error:
        what = str(error).partition(";")[0]
        raise ValueError(f"--record: {what}; write it like 10s..10.2s, or 10s..") from None
    return [f"record.from_s={ends[0]}", f"record.until_s={ends[1] or 'null'}"]


def _folders(scenarios: list[Scenario], out: Path | None) -> list[Path]:
    """A run folder for each scenario, each free to be written or replaced."""
    from sim.results import check_folder

    names = [scenario.name for scenario in scenarios]
    if len(set(names)) < len(names):
        raise ValueError(
            f"two of the scenarios have one name, and would share a run folder: {', '.join(names)}"
        )
    folders = [out if out and len(names) == 1 else (out or Path("runs")) / name for name in names]
    for folder in folders:
        check_folder(folder)
    return folders


def _beside(folder: Path) -> Path:
    """Where an interrupted run goes: a complete one is not replaced by it."""
    from sim.results.folder import MARK

    held = folder / MARK
    whole = held.is_file() and not json.loads(held.read_text(encoding="utf-8")).get("partial")
    return folder.with_name(f"{folder.name}.partial") if whole else folder
