"""How long a timeline of 50,000 spans takes to open in a fresh headless Chromium, beside a page
with Plotly alone.

    python benchmarks/timeline.py

Both pages are opened in turn, each in a browser that has cached nothing. The limit is the second
page: reading and running plotly.js, which every Plotly page pays.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from plotly.offline import get_plotlyjs

sys.path[:0] = [
    str(Path(__file__).resolve().parent.parent),
    str(Path(__file__).resolve().parent.parent / "tests"),
]

from tests.test_browser import CHROMIUM, PROBE, fifty_thousand_spans, opened  # noqa: E402

EMPTY = """<!doctype html><html><head>{probe}<script>{plotly}</script></head>
<body><div id="timeline"></div><script>
const root = document.getElementById("timeline");
const data = [{{ y: [1, 2], type: "scatter" }}];
Plotly.newPlot(root, data, {{ xaxis: {{ range: [0, 1] }} }}).then(() => {{
  root.on("plotly_relayout", () => root.emit("plotly_redraw"));
  document.documentElement.dataset.drawnMs = "1";
}});
</script></body></html>"""


def main(rounds: int = 5) -> None:
    if CHROMIUM is None:
        sys.exit("no Chromium on this machine")
    full = fifty_thousand_spans()
    empty = EMPTY.format(probe=PROBE.removesuffix("</head>"), plotly=get_plotlyjs())
    times: dict[str, list[float]] = {"50,000 spans": [], "Plotly alone": []}
    for _ in range(rounds):
        for name, page in zip(times, (full, empty)):
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(opened(page, folder)[0]["opened"])
    for name, taken in times.items():
        print(f"{name}: median {median(taken):,.0f} ms, {min(taken):,.0f} to {max(taken):,.0f}")
    print(
        f"ratio of the medians: {median(times['50,000 spans']) / median(times['Plotly alone']):.2f}"
    )


if __name__ == "__main__":
    main()
