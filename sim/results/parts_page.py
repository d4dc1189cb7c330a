"""What a workload is made of, as a table of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.results.metric import Metric
from sim.results.palette import escaped
from sim.results.table import Numbers, cell, columns


def parts_table(
    rows: Mapping[str, Metric],
    found: Mapping[str, Numbers],
    wanted: Sequence[str],
    noun: str,
    tips: Mapping[tuple[str, str], str] | None = None,
    words: Mapping[str, Mapping[tuple[str, str], str]] | None = None,
) -> str:
    """A row for each variant and part of it: those of the wanted metrics that any part has.

    `words` are columns of text before these, by heading.
    """
    some = columns(rows, found, wanted)
    head = "".join(f"<th>{heading}</th>" for heading in words or ())
    head += "".join(f"<th class=num>{escaped(row.label)}</th>" for row in some)
    lines = ""
    for variant, each in found.items():
        for name, mine in each.items():
            told = (texts[variant, name] for texts in (words or {}).values())
            cells = "".join(f"<td>{escaped(text)}</td>" for text in told)
            cells += "".join(f"<td class=num>{escaped(cell(row, mine))}</td>" for row in some)
            tip = (tips or {}).get((variant, name))
            title = f' title="{escaped(tip)}"' if tip else ""
            lines += f"<tr><td>{escaped(variant)}</td><td{title}>{escaped(name)}</td>{cells}</tr>"
    return (
        f'<div class="wide"><table class="dense jobs"><tr><th>Variant</th><th>{noun}</th>{head}'
        f"</tr>{lines}</table></div>"
    )
