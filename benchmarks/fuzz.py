"""Readers of files from outside, under hostile inputs: `python benchmarks/fuzz.py --help`.

Each input of a reader follows from its number, so that `--first N --inputs 1` makes it again. A
reader may take an input, or refuse it: a ValueError or OSError that names the file. What else it
raises is a mistake of ours, and is shown with its traceback; so is an input that takes longer than
5 s or more than 1 GB. Refusals of values that the code did not foresee (`sim.text.outside.meeting`)
are right, but counted with their places: a check that knows what is due says it better.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import fuzz_inputs as inputs  # noqa: E402
from sim import catalog  # noqa: E402
from sim.catalog.channels import channel  # noqa: E402
from sim.catalog.dnn_cards import card as dnn_card  # noqa: E402
from sim.dnn.files import read_dnn  # noqa: E402
from sim.run import load, prepare  # noqa: E402
from sim.text.outside import UNFORESEEN  # noqa: E402
from sim.traces.description import described, figures  # noqa: E402
from sim.traces.reading import open_trace  # noqa: E402

MOST_S, MOST_BYTES = 5.0, 10**9


class Reader(NamedTuple):
    """What reads files of a name, and what makes them."""

    name: str
    make: Callable[[random.Random], bytes]
    read: Callable[[Path], object]


def _trace(path: Path) -> object:
    return figures(described(open_trace(path)))


def readers() -> dict[str, Reader]:
    """All of them by name; made when asked for, since seeds are read from the shipped files."""
    of = inputs.of_files
    found = (
        Reader("scenario.yaml", of("scenarios/*.yaml"), lambda path: prepare(load(path))),
        Reader("device.yaml", of("sim/catalog/devices/*.yaml"), catalog.device),
        Reader("library.yaml", of("sim/catalog/libraries/*.yaml"), catalog.library),
        Reader("topology.yaml", of("topologies/*.yaml"), catalog.pod),
        Reader("model.yaml", of("sim/catalog/models/*.yaml"), catalog.model),
        Reader("channel.yaml", of("sim/catalog/channels/*.yaml"), channel),
        Reader("card.json", of("sim/catalog/dnn/*.json", inputs.as_json), dnn_card),
        Reader("config.json", inputs.config, catalog.model),
        Reader("trace.csv", inputs.table, _trace),
        Reader("trace.jsonl", inputs.rows, _trace),
        Reader("trace.packed", inputs.packed, _trace),
        Reader("trace.parquet", inputs.parquet, _trace),
        Reader("clients.tar", inputs.servegen, _trace),
        Reader("gemms.csv", inputs.gemms, read_dnn),
        Reader("network.onnx", inputs.onnx_model, read_dnn),
    )
    return {reader.name: reader for reader in found}


class Tally:
    """What became of the inputs of one reader."""

    def __init__(self) -> None:
        self.taken = self.refused = 0
        self.slowest_s, self.slowest = 0.0, 0
        self.unforeseen: Counter[str] = Counter()
        self.faults: list[str] = []


class _TooLongError(BaseException):
    """The time of an input is over."""


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    def over(*_: Any) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(reader: Reader, first: int, count: int, folder: Path) -> Tally:
    """Reads so many inputs from number `first` on; each is written to the same file in `folder`."""
    found = Tally()
    path = folder / reader.name
    for number in range(first, first + count):
        path.write_bytes(reader.make(random.Random(f"{reader.name} {number}")))
        what = f"{reader.name} {number}: "
        start_s = time.perf_counter()
        try:
            with _within(4 * MOST_S):
                reader.read(path)
            found.taken += 1
        except (ValueError, OSError) as error:
            found.refused += 1
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UNFORESEEN):
                cause = cause.__cause__
            if cause is not None:
                at = traceback.extract_tb(cause.__traceback__)
                ours = [frame for frame in at if "/sim/" in frame.filename][-1]
                place = f"{Path(ours.filename).relative_to(ROOT)}:{ours.lineno}"
                found.unforeseen[f"{place} {type(cause).__name__}: {str(cause)[:60]}"] += 1
            if path.name not in str(error) and "/" not in str(error):
                found.faults.append(f"{what}the file is not named: {str(error)[:200]}")
        except _TooLongError:
            found.faults.append(f"{what}not done after {4 * MOST_S:.0f} s")
        except Exception:
            found.faults.append(what + traceback.format_exc()[-1500:])
        took_s = time.perf_counter() - start_s
        if took_s > found.slowest_s:
            found.slowest_s, found.slowest = took_s, number
        if took_s > MOST_S:
            found.faults.append(f"{what}took {took_s:.1f} s")
        if (most := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) > MOST_BYTES:
            found.faults.append(f"{what}with it, {most / 1e9:.2f} GB were taken")
            break  # the mark stays, so that of those behind it nothing can be said
    return found


def main() -> None:
    """Reads inputs, prints a line a reader, and ends with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("reader", nargs="*", help="names of readers; default: all")
    parser.add_argument("--inputs", type=int, default=10_000, help="of each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    asked = parser.parse_args()
    table = readers()
    wrong = 0
    for name in asked.reader or table:
        with tempfile.TemporaryDirectory() as folder:
            start_s = time.perf_counter()
            found = fuzz(table[name], asked.first, asked.inputs, Path(folder))
        share = found.taken / max(found.taken + found.refused, 1)
        print(
            f"{name}: {asked.inputs:,} inputs in {time.perf_counter() - start_s:.0f} s, "
            f"{100 * share:.0f} % taken, slowest {found.slowest_s:.2f} s ({found.slowest}), "
            f"{len(found.faults)} faults, {found.unforeseen.total()} unforeseen",
            flush=True,
        )
        for place, times in found.unforeseen.most_common(8):
            print(f"  unforeseen {times} times: {place}")
        for fault in found.faults[:6]:
            print("  " + fault.replace("\n", "\n  "))
        wrong += len(found.faults)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak / 1e9:.2f} GB, {wrong} faults")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
