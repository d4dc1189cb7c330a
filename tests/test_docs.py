"""The docs say what the tables in the code say; run as a script, this writes what is derived."""

from __future__ import annotations

import re
from pathlib import Path

from sim.catalog.installed import TABLES
from sim.kinds import KINDS
from sim.results.metrics import part_rows_of, rows_of

ROOT = Path(__file__).resolve().parent.parent
METRICS = ROOT / "docs" / "metrics.md"
BEGIN = "<!-- from the rows of the metrics: do not edit below this line -->\n"


def tables_of_metrics() -> str:
    """A table for each kind of work, and one for what it is made of; a row is written out once."""
    lines: list[str] = []
    known: dict[tuple[str, str], str] = {}
    for name, kind in KINDS.items():
        for part, rows in (("", rows_of(kind)), (kind.part, part_rows_of(kind))):
            if not rows:
                continue
            of = f"Of a {part} of `{name}`" if part else f"`kind: {name}`: {kind.summary}"
            lines += ["", f"{'###' if part else '##'} {of}", ""]
            again = [row for row in rows.values() if (row.name, row.of) in known]
            fresh = [row for row in rows.values() if (row.name, row.of) not in known]
            if fresh:
                lines += ["| metric | unit | better | definition |", "|---|---|---|---|"]
                lines += [
                    f"| `{row.name}` | {row.unit} | {row.better} | {row.of} |" for row in fresh
                ]
            if again:
                lines += ["", "As above: " + ", ".join(f"`{row.name}`" for row in again) + "."]
            known |= {(row.name, row.of): name for row in fresh}
    return "\n".join(lines).strip() + "\n"


def test_the_page_of_metrics_is_that_of_the_rows() -> None:
    text = METRICS.read_text(encoding="utf-8").partition(BEGIN)[2]
    assert text.strip() == tables_of_metrics().strip(), "run python tests/test_docs.py"


def test_the_table_of_where_to_add_has_every_table_and_its_place_is_there() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.partition("## Where to add")[2].partition("```")[0]
    named = set(re.findall(r"`(\w+)\.+[A-Z]", table))
    assert named == set(TABLES)
    for place in re.findall(r"`(sim/[\w/]+(?:\.py)?)`", table):
        assert (ROOT / place).exists(), place
    for row, place in re.findall(r"row of `([A-Z]+)` in `(sim/[\w/.]+)`", table):
        file = ROOT / place
        text = (file / "__init__.py" if file.is_dir() else file).read_text("utf-8")
        assert re.search(rf"^{row}\b", text, re.M), f"{row} is not in {place}"


def test_every_module_that_the_docs_name_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")]
    pages = [page for page in pages if page.name != "CHANGELOG.md"]
    missing = [
        f"{page.name}: {name}"
        for page in pages
        for name in re.findall(r"`((?:sim|tests|benchmarks|traces)/[\w/.]+\.py)`", page.read_text())
        if not (ROOT / name).exists()
    ]
    assert missing == []


if __name__ == "__main__":
    head = METRICS.read_text(encoding="utf-8").partition(BEGIN)[0]
    METRICS.write_text(head + BEGIN + "\n" + tables_of_metrics(), encoding="utf-8")
