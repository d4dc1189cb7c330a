"""The architecture, read from the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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
    "sim/serving": {
        "simpy",
        "yaml",
        "plotly",
        "sim.engine",
        "sim.hardware",
        "sim.scenario",
        "sim.results",
        "sim.graph",
        "sim.traces",
    },
    "sim/systolic": {
        "simpy",
        "yaml",
        "plotly",
        "networkx",
        "sim.engine",
        "sim.hardware",
        "sim.scenario",
        "sim.results",
        "sim.catalog",
        "sim.serving",
    },
    "sim/engine": {"yaml", "plotly", "sim.scenario", "sim.results", "sim.catalog"},
    "sim/results": {"simpy", "yaml", "sim.engine", "sim.scenario"},
    "sim/scenario": {"simpy", "plotly", "sim.engine", "sim.run", "sim.cli"},
    "sim": {"pandas"},
}
# Only these may import the module; everywhere else in sim it is banned.
ONLY_IN = {
    "torch": ("sim/learn/",),
    "yaml": ("sim/text/strict_yaml.py", "sim/scenario/", "sim/catalog/"),
}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, at the top or within functions; relative imports
    start with a dot."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def broken_layers(root: Path) -> Iterator[str]:
    for file in sorted(root.glob("sim/**/*.py")):
        place = file.relative_to(root).as_posix()
        banned = {
            name
            for folder, names in NEVER.items()
            if place.startswith(f"{folder}/")
            for name in names
        }
        banned |= {name for name, homes in ONLY_IN.items() if not place.startswith(homes)}
        for line, name in imports(file.read_text(encoding="utf-8")):
            if name.startswith(".") or any(f"{name}.".startswith(f"{ban}.") for ban in banned):
                yield f"{place}:{line}: imports {name}"


def test_layers() -> None:
    assert not list(broken_layers(ROOT))


def test_a_broken_layer_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "sim" / "engine"
    folder.mkdir(parents=True)
    source = (
        "from sim import scenario\nimport torch.nn\nfrom . import flows\ndef f():\n    "
        "import yaml, pandas\n"
    )
    (folder / "chip.py").write_text(source)
    found = [line.split("imports ")[1] for line in broken_layers(tmp_path)]
    assert sorted(found) == sorted(["sim.scenario", "torch.nn", "..flows", "yaml", "pandas"])


def test_every_layer_has_code() -> None:
    assert [folder for folder in NEVER if not any((ROOT / folder).glob("**/*.py"))] == []
