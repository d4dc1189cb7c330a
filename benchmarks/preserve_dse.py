"""Draws where the optimum of L2 lies over what is not known:

python benchmarks/preserve_dse.py ROWS.json docs/preserve_dse.svg

ROWS.json is what `podscope reproduce preserve-dse --json ROWS.json` writes.
"""

from __future__ import annotations

import json
import re
import sys
from math import log2
from pathlib import Path

WIDE, HIGH, LEFT, TOP = 720, 400, 60, 24
GAINS = 1.0, 1.5
COLOURS = {"the card's first engine": "#009E73", "sdma": "#D55E00"}


def x(mib: float) -> float:
    """Sizes of 1 to 192 MiB, by their logarithm."""
    return LEFT + (WIDE - LEFT - 20) * log2(mib) / log2(192)


def y(gain: float) -> float:
    """Gains upwards."""
    low, high = GAINS
    return TOP + (HIGH - TOP - 50) * (high - gain) / (high - low)


def drawn(rows: list[dict]) -> str:
    """The figure: a dot a corner, the published point with its tolerance, and the nominal one."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDE}" height="{HIGH}" fill="white"/>',
        f'<rect x="{x(72):.1f}" y="{y(1.33):.1f}" width="{x(136) - x(72):.1f}" '
        f'height="{y(1.17) - y(1.33):.1f}" fill="#0072B2" fill-opacity="0.15"/>',
        f'<text x="{WIDE - 20}" y="{y(1.33) - 6:.1f}" text-anchor="end" fill="#0072B2">published'
        "</text>",
    ]
    for mib in (1, 2, 4, 8, 16, 32, 64, 104, 192):
        parts.append(f'<text x="{x(mib):.1f}" y="{HIGH - 30}" text-anchor="middle">{mib}</text>')
    for gain in (1.0, 1.1, 1.2, 1.3, 1.4, 1.5):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDE - 20}" y1="{y(gain):.1f}" y2="{y(gain):.1f}" '
            f'stroke="#ddd"/><text x="{LEFT - 8}" y="{y(gain) + 4:.1f}" text-anchor="end">'
            f"{gain:.1f}</text>"
        )
    for row in rows:
        told = re.fullmatch(
            r"llama3-70b, launch x (\S+), HBM x (\S+), (the card's first engine|sdma): .*",
            row["what"],
        )
        if told is None:
            continue
        sizes = re.match(r"best at (\d+) MiB without and (\d+) MiB", row["note"])
        assert sizes is not None, row["note"]
        launch, hbm, engine = told.groups()
        parts.append(
            f'<circle cx="{x(int(sizes[2])):.1f}" cy="{y(row["simulated"]):.1f}" '
            f'r="{3 + 1.5 * float(launch):.1f}" fill="{COLOURS[engine]}" fill-opacity="0.5">'
            f"<title>launch x {launch}, HBM x {hbm}, {engine}</title></circle>"
        )
    judged = [row for row in rows if row["ok"] is not None]
    parts.append(
        f'<circle cx="{x(judged[1]["simulated"]):.1f}" cy="{y(judged[2]["simulated"]):.1f}" r="5" '
        'fill="none" stroke="black" stroke-width="2"/>'
    )
    for place, (text, colour) in enumerate(
        [
            ("engine inferred (1.17 TB/s, 1 us)", COLOURS["the card's first engine"]),
            ("SDMA as measured (285 GB/s, 20 us)", COLOURS["sdma"]),
            ("ring: six models, as chosen beforehand; larger dots: slower all-reduces", "black"),
        ]
    ):
        parts.append(
            f'<text x="{LEFT + 10}" y="{TOP + 16 + 18 * place}" fill="{colour}">{text}</text>'
        )
    parts.append(
        f'<text x="{WIDE / 2}" y="{HIGH - 8}" text-anchor="middle">best L2 with prefetching, MiB; '
        "upwards: performance by area over the best without</text></svg>"
    )
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    target.write_text(drawn(json.loads(source.read_text("utf-8"))), "utf-8")
