"""Serving speed, end to end: read, simulate, metrics, write; and the loop as a ratio to bare SimPy
timeouts.

    python benchmarks/serving.py

A million requests through 16 replicas of Llama-3-8B on A100s, in chunks of 512 tokens; then two
replicas in pipeline stages, whose iterations are taken one by one, and the workload on which peers
were measured. Each run is a process of its own, so that its memory is its own; start-up (imports,
loading the compiled loop) is what ten requests take. Compile first: run it twice, and quote the
second. The limit: a request is at least an arrival, a prefill chunk or three, a completion and a
stretch of decode between each of those, each of which looks at every sequence of its batch once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCENARIO = """question: How fast?
pod: {{topology: dgx_a100}}
model: {model}
parallel: {{pipeline: {stages}}}
workload:
  kind: requests
  trace: {{file: {file}}}
  replicas: {replicas}
  policy: chunked
  kv: paged
  max_batch: 128
  max_batched_tokens: 512
record: {{enabled: false}}
"""


def one(scenario: str, folder: str) -> None:
    """Run a scenario and print what it took: in a process of its own."""
    import resource

    from sim import run

    start_s = time.perf_counter()
    run(scenario).save(folder)
    seconds = time.perf_counter() - start_s
    print(
        json.dumps(
            {"seconds": seconds, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        )
    )


def timeouts_per_s(count: int = 200_000) -> float:
    """Bare SimPy timeouts, one after the other."""
    import simpy

    env = simpy.Environment()

    def wait():
        for _ in range(count):
            yield env.timeout(1.0)

    env.process(wait())
    start_s = time.perf_counter()
    env.run()
    return count / (time.perf_counter() - start_s)


def measured(
    folder: Path, requests: int, rate: float, replicas: int, model: str, stages: int
) -> dict[str, float]:
    """Seconds and MiB of one run on a generated trace."""
    from sim.traces.arrivals import Arrivals
    from sim.traces.synthesis import TraceSpec, generated
    from sim.traces.writing import write_stream

    trace, scenario = folder / f"{requests}.csv", folder / f"{requests}.yaml"
    # Quantiles of the Azure conversation trace of 2023, capped so that Llama-2 can hold them.
    prompt = ((0.0, 10), (0.5, 1020), (0.9, 2300), (0.99, 3500), (1.0, 3500))
    output = ((0.0, 8), (0.5, 129), (0.9, 450), (0.99, 590), (1.0, 590))
    spec = TraceSpec(Arrivals(rate), prompt=prompt, output=output)
    write_stream(trace, generated(spec, requests, 0))
    scenario.write_text(SCENARIO.format(file=trace, replicas=replicas, model=model, stages=stages))
    command = [sys.executable, __file__, str(scenario), str(folder / "out")]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


def main() -> None:
    bare = timeouts_per_s()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, rate, replicas, model, stages, sizes in (
            (
                "16 replicas of Llama-3-8B",
                60.0,
                16,
                "llama3-8b",
                1,
                (10, 10_000, 100_000, 1_000_000),
            ),
            ("two Llama-3-8B in 4 stages", 20.0, 2, "llama3-8b", 4, (10, 10_000, 100_000)),
            ("one Llama-2-7B", 4.0, 1, "llama2-7b", 1, (10, 10_000)),
        ):
            started_s = 0.0
            for requests in sizes:
                found = measured(folder, requests, rate, replicas, model, stages)
                started_s = started_s or found["seconds"]
                each = requests / found["seconds"]
                later = requests / max(found["seconds"] - started_s, 1e-9) if requests > 10 else 0.0
                print(
                    f"{label}: {requests:9,} requests {found['seconds']:7.2f} s  "
                    f"{each:9,.0f}/s  after start-up "
                    f"{later:9,.0f}/s  {found['MiB']:5.0f} MiB  {bare / each:6.1f} bare "
                    "timeouts a request",
                    flush=True,
                )


if __name__ == "__main__":
    one(*sys.argv[1:]) if len(sys.argv) > 1 else main()
