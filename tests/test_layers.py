"""The architecture, read from the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx

from sim.kinds import KINDS

ROOT = Path(__file__).resolve().parent.parent
# What a folder must never import, by itself.
NEVER = {
    "sim/text": {"simpy", "plotly", "sim.facts", "sim.scenario", "sim.catalog", "sim.network"},
    "sim/facts": {"simpy", "yaml", "plotly", "sim.engine", "sim.scenario", "sim.results"},
    "sim/hardware": {"simpy", "yaml", "sim.graph", "sim.engine", "sim.scenario"},
    "sim/network": {"simpy", "yaml", "sim.engine", "sim.scenario"},
    "sim/graph": {"simpy", "yaml", "sim.engine", "sim.hardware", "sim.scenario"},
    "sim/dnn": {"simpy", "yaml", "sim.engine", "sim.hardware", "sim.scenario"},
    "sim/traces": {"simpy", "yaml", "sim.engine", "sim.hardware", "sim.scenario", "sim.graph"},
    "sim/learn": {"simpy", "yaml", "sim.engine", "sim.scenario", "sim.results", "sim.catalog"},
    "sim/techniques": {"simpy", "yaml", "sim.hardware", "sim.engine"},
    "sim/serving": {"simpy", "yaml", "plotly", "sim.hardware", "sim.graph", "sim.traces"},
    "sim/systolic": {"simpy", "yaml", "plotly", "networkx", "sim.hardware", "sim.catalog"},
    "sim/engine": {"yaml", "plotly", "sim.scenario", "sim.results", "sim.catalog"},
    "sim/workers": {"simpy", "yaml", "sim.run", "sim.scenario", "sim.results", "sim.explore"},
    "sim/explore": {"simpy", "yaml", "plotly", "sim.engine", "sim.hardware", "sim.serving"},
}
# What a folder must not reach by any chain of imports: results and scenario see rows of kinds, and
# through none of them an engine.
NEVER_REACHES = {
    "sim.results": ("sim.kinds", "sim.engine", "sim.scenario", "sim.run", "simpy"),
    "sim.scenario": ("sim.kinds", "sim.engine", "sim.run", "simpy", "plotly"),
    "sim.serving": ("sim.engine", "sim.scenario", "sim.results"),
    "sim.systolic": ("sim.engine", "sim.scenario", "sim.results", "sim.serving"),
    "sim.engine": ("sim.kinds", "sim.scenario", "sim.results", "sim.run"),
    "sim.workers": ("sim.kinds", "sim.scenario", "sim.results", "sim.run", "sim.explore"),
    "sim.run": ("sim.explore", "sim.cli"),
}
# Only these may import the module; everywhere else in sim it is banned.
ONLY_IN = {
    "torch": ("sim/learn/",),
    "pandas": ("sim/results/frame.py",),
    "optuna": ("sim/explore/search.py",),
    "sqlite3": ("sim/explore/store.py",),
    "distributed": ("sim/workers/dask.py",),
    "submitit": ("sim/workers/slurm.py",),
    "yaml": ("sim/text/strict_yaml.py", "sim/scenario/", "sim/catalog/"),
}
ROOMS, LINES, COLUMNS = 24, 500, 100


def imports(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, at the top or within functions; relative imports
    start with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def modules(root: Path) -> dict[str, Path]:
    """Every module of `sim` by its dotted name."""
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted(root.glob("sim/**/*.py"))
    }


def broken_layers(root: Path) -> Iterator[str]:
    for name, file in modules(root).items():
        place = file.relative_to(root).as_posix()
        banned = {
            name
            for folder, names in NEVER.items()
            if place.startswith(f"{folder}/")
            for name in names
        }
        banned |= {name for name, homes in ONLY_IN.items() if not place.startswith(homes)}
        if not name.startswith(("sim.kinds", "sim.reproduce")):
            banned |= {f"sim.kinds.{folder.name}" for folder in _kinds(root)}
        for line, imported in imports(file.read_text(encoding="utf-8")):
            if imported.startswith(".") or _within(imported, banned):
                yield f"{place}:{line}: imports {imported}"


def _kinds(root: Path) -> list[Path]:
    return [path for path in (root / "sim" / "kinds").glob("*") if (path / "__init__.py").exists()]


def _within(name: str, folders: set[str] | tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{folder}.") for folder in folders)


def graph_of(found: Mapping[str, Path]) -> nx.DiGraph:
    """Which module imports which; what is not of `sim` by its first name."""
    graph = nx.DiGraph()
    graph.add_nodes_from(found)
    for name, file in found.items():
        for _, imported in imports(file.read_text(encoding="utf-8")):
            stem = imported.rpartition(".")[0]
            target = imported if imported in found else stem if stem in found else None
            target = target or imported.split(".")[0]
            if target != name:
                graph.add_edge(name, target)
    return graph


def test_layers() -> None:
    assert not list(broken_layers(ROOT))


def test_what_is_out_of_reach() -> None:
    graph = graph_of(modules(ROOT))
    for folder, banned in NEVER_REACHES.items():
        inside = [name for name in graph if _within(name, (folder,))]
        assert inside
        for name in inside:
            reached = [other for other in nx.descendants(graph, name) if _within(other, banned)]
            assert not reached, f"{name} reaches {sorted(reached)[:3]}"


def test_no_file_imports_itself_in_a_circle() -> None:
    graph = graph_of(modules(ROOT))
    assert [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1] == []


def test_a_circle_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "sim" / "engine"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("from sim.engine.b import x\n")
    (folder / "b.py").write_text("def f():\n    from sim.engine import a\n")
    graph = graph_of(modules(tmp_path))
    assert [len(part) for part in nx.strongly_connected_components(graph) if len(part) > 1] == [2]


def asks_for_a_kind(source: str) -> Iterator[int]:
    """Lines that compare a kind with a name of one, look one up by name, or test an instance of a
    class of one."""
    specs = {kind.spec.partition(":")[2] for kind in KINDS.values()}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = {
                each.value
                for side in sides
                for each in ast.walk(side)
                if isinstance(each, ast.Constant)
            }
            if texts & {*KINDS} and any("kind" in ast.unparse(side) for side in sides):
                yield node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            if {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)} & specs:
                yield node.lineno
        elif isinstance(node, ast.Subscript) and ast.unparse(node).startswith("KINDS['"):
            yield node.lineno


def test_nothing_outside_kinds_asks_which_kind_it_has() -> None:
    found = [
        f"{name}:{line}"
        for name, file in modules(ROOT).items()
        if not _within(name, ("sim.kinds", "sim.reproduce"))
        for line in asks_for_a_kind(file.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_who_asks_is_seen() -> None:
    lines = [
        "if outcome.kind == 'decode': pass",
        "if variant.workload.kind in ('x', 'tenants'): pass",
        "if isinstance(work, Collectives): pass",
        "x = KINDS['requests']",
        "if phase == 'decode': pass",
        "if isinstance(work, dict): pass",
    ]
    assert [len([*asks_for_a_kind(line)]) for line in lines] == [1, 1, 1, 1, 0, 0]


def test_a_broken_layer_is_seen(tmp_path: Path) -> None:
    for folder, text in (
        ("engine", "from sim import scenario\nimport torch.nn\nfrom . import flows\n"),
        ("results", "from sim.kinds.static.plan import prepare\n"),
        ("kinds/static", "def f():\n    import yaml, pandas\n"),
    ):
        (tmp_path / "sim" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "sim" / folder / "plan.py").write_text(text)
        (tmp_path / "sim" / folder / "__init__.py").touch()
    found = {line.split("imports ")[1] for line in broken_layers(tmp_path)}
    assert found == {
        "sim.scenario",
        "torch.nn",
        "..flows",
        "yaml",
        "pandas",
        "sim.kinds.static.plan.prepare",
    }


def test_every_layer_has_code() -> None:
    assert [folder for folder in NEVER if not any((ROOT / folder).glob("**/*.py"))] == []


def test_the_house_stays_small() -> None:
    found = modules(ROOT)
    rooms = {name.split(".")[1] for name in found if "." in name}
    assert len(rooms) <= ROOMS, sorted(rooms)
    texts = {name: file.read_text(encoding="utf-8") for name, file in found.items()}
    long = {name: text.count("\n") for name, text in texts.items() if text.count("\n") > LINES}
    assert not long
    wide = [
        f"{name}:{number}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > COLUMNS
    ]
    assert not wide
    assert sum(text.count("# fmt: skip") for text in texts.values()) <= 20
