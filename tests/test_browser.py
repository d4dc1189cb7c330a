"""The timeline in a real browser: 50,000 spans are drawn, zoom, and leave the console clean.

`benchmarks/timeline.py` times the same page.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sim.results.timeline import timeline_page
from sim.run import run
from tests.synthetic import outcome

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--window-size=1500,900",
]

# Reports when the first view is painted, zooms to a few layers, and reports again.
PROBE = """<script>
window.problems = [];
addEventListener("error", (e) => problems.push(String(e.message)));
(function wait() {
  const root = document.getElementById("timeline");
  if (!root || !document.documentElement.dataset.drawnMs) return setTimeout(wait, 10);
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const opened = performance.now();
    const boxes = () => root.querySelectorAll(".bars .point").length, all = boxes();
    root.on("plotly_redraw", () => requestAnimationFrame(() => requestAnimationFrame(() => {
      const names = [...root.querySelectorAll(".bars .bartext")].map((t) => t.textContent);
      const zoomed = performance.now() - opened;
      fetch("/done", { method: "POST", body: JSON.stringify({ opened, zoomed, all,
        few: boxes(), names, problems, hacked: window.hacked === 1,
        legend: root.querySelectorAll(".legendtext").length }) });
    })));
    Plotly.relayout(root, { "xaxis.range": [100, 100.4] });
  }));
})();
</script></head>"""


def opened(page: str, folder: str) -> tuple[dict, str]:
    """What the page says of itself, and the browser's log.  A fresh browser each time: nothing is
    cached."""
    answer: list[dict] = []
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = page.encode() if self.path == "/" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            answer.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    log_path = os.path.join(folder, "chromium.log")
    with open(log_path, "w") as log:
        where = f"http://127.0.0.1:{server.server_port}/"
        flags = [*FLAGS, f"--user-data-dir={folder}/profile", "--remote-debugging-port=0"]
        browser = subprocess.Popen(
            [CHROMIUM, *flags, where], stdout=log, stderr=log, start_new_session=True
        )
        try:
            done.wait(60)
        finally:
            os.killpg(browser.pid, 9)  # Chromium is a family of processes
            browser.wait()
            server.shutdown()
            server.server_close()
    with open(log_path) as log:
        text = log.read()
    if not answer:
        pytest.fail(f"the page never finished drawing; the browser said:\n{text[-2000:]}")
    return answer[0], text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def fifty_thousand_spans(evil: str = "") -> str:
    outcomes = {
        "vanilla": outcome(steps=25, layers=80),
        f"preserve{evil}": outcome(steps=25, layers=80, prefetch=True),
    }
    assert sum(len(o.timeline.spans) for o in outcomes.values()) >= 50_000
    return timeline_page(outcomes, "Does prefetching help?").replace("</head>", PROBE, 1)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_fifty_thousand_spans_are_drawn_and_leave_the_console_clean(tmp_path):
    said, log = opened(fifty_thousand_spans("<img src=x onerror=window.hacked=1>"), str(tmp_path))
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    assert not console and not said["problems"] and not said["hacked"], (console, said["problems"])
    assert said["legend"] == 7, "one entry a kind of op, over all variants"
    assert 500 < said["all"] < 4000, "the whole run is drawn in a bounded number of boxes"
    assert 40 < said["few"] < 200 and {"all-reduce", "gate_up", "attention"} <= set(said["names"])


# Names the layer under a point of the pods, then takes another schedule.
OF_PODS = """<script>
window.problems = [];
addEventListener("error", (e) => problems.push(String(e.message)));
(function wait() {
  const pods = document.getElementById("pods");
  if (!pods || !pods.querySelector(".heatmaplayer image")) return setTimeout(wait, 20);
  setTimeout(() => {
    const layer = pods.querySelector(".nsewdrag"), box = layer.getBoundingClientRect();
    const at = { clientX: box.left + 20, clientY: box.top + 20, bubbles: true, view: window };
    layer.dispatchEvent(new MouseEvent("mouseover", at));
    layer.dispatchEvent(new MouseEvent("mousemove", at));
    setTimeout(() => {
      const which = document.getElementById("which");
      const seen = document.getElementById("seen").textContent;
      which.value = 1;
      which.dispatchEvent(new Event("change"));
      setTimeout(() => fetch("/done", { method: "POST", body: JSON.stringify({ seen, problems,
        hacked: window.hacked === 1, legend: document.getElementById("legend").textContent,
        figures: document.querySelectorAll("#figures .main-svg").length,
        schedules: which.options.length }) }), 300);
    }, 300);
  }, 300);
})();
</script></head>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_pods_tell_their_layers_and_leave_the_console_clean(tmp_path):
    (tmp_path / "x.csv").write_text(
        "m,n,k,name\n900,64,64,<img src=x onerror=window.hacked=1>\n", "utf-8"
    )
    (tmp_path / "s.yaml").write_text(
        "question: q\npod: {array: {rows: 16, cols: 16, pods: 8}}\n"
        "workload: {kind: networks, networks: {x: {file: x.csv}, bert_tiny: {length: 20}}}\n"
        "variants: {alone: {}, both: {workload: {sharing: interleaved}}}\n",
        "utf-8",
    )
    page = run(tmp_path / "s.yaml").files()["figures.html"].decode().replace("</head>", OF_PODS, 1)
    said, log = opened(page, str(tmp_path))
    console = [line for line in log.splitlines() if "CONSOLE" in line]
    assert not console and not said["problems"] and not said["hacked"], (console, said["problems"])
    assert (
        said["seen"].startswith("pod 0, ")
        and "<img src=x onerror=window.hacked=1> of x" in said["seen"]
    ), said
    assert said["legend"] == "bert_tiny" and said["schedules"] == 3 and said["figures"] >= 1
