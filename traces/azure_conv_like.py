"""How azure_conv_like.csv was made: from the statistics of a recording that cannot be shipped.

python traces/azure_conv_like.py traces/azure_conv_like.csv
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim.traces.lengths import Lognormal, Quantiles, check, drawn


class Request(NamedTuple):
    """One request.  `arrival_s` counts from the first request of the trace."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class TraceStatistics:
    """What is known of a stream of requests: arrivals with Gamma gaps, and two lengths.

    Between two quantile points the logarithm of the length is linear in the probability, so that
    every point is met. Not modelled: correlation between prompt and output, between one request and
    the next, and a rate that changes over the day.
    """

    name: str
    rate_per_s: float
    interarrival_cv: float  # 1: Poisson; 0: a metronome
    prompt: Quantiles | Lognormal
    output: Quantiles | Lognormal
    source: str

    def __post_init__(self) -> None:
        if not (0 < self.rate_per_s < math.inf and 0 <= self.interarrival_cv < math.inf):
            raise ValueError(
                f"{self.name}: rate {self.rate_per_s} must be positive, CV "
                f"{self.interarrival_cv} not negative"
            )
        check(f"{self.name}: prompt", self.prompt)
        check(f"{self.name}: output", self.output)


def generate(statistics: TraceStatistics, count: int, seed: int) -> list[Request]:
    """`count` requests with these statistics, the first at 0; equal seeds give equal requests.

    Arrivals are whole microseconds, so that the last bit of a logarithm, which differs between
    processors, does not show. Errors: ValueError if `count` is below 1 or `seed` is negative.
    """
    if count < 1 or seed < 0:
        raise ValueError(f"count ({count}) must be 1 or more, seed ({seed}) 0 or more")
    dice = np.random.Generator(np.random.PCG64(seed))
    arrivals = np.concatenate(([0.0], np.cumsum(_gaps_s(statistics, count - 1, dice)))).round(6)
    prompts = drawn(statistics.prompt, count, dice)
    outputs = drawn(statistics.output, count, dice)
    columns = zip(arrivals.tolist(), prompts.tolist(), outputs.tolist())
    return [
        Request(i, arrival_s, prompt, output)
        for i, (arrival_s, prompt, output) in enumerate(columns)
    ]


def _gaps_s(statistics: TraceStatistics, count: int, dice: np.random.Generator) -> np.ndarray:
    mean_s, variance = (
        1 / statistics.rate_per_s,
        statistics.interarrival_cv**2,
    )  # of gaps in units of their mean
    if (
        variance < 1e-14
    ):  # no more than rounding; as a law, its numbers would leave the range of floats
        return np.full(count, mean_s)
    return dice.gamma(1 / variance, mean_s * variance, count)


_PROBABILITIES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
_PROMPT = (2, 29, 181, 207, 396, 703, 1020, 1071, 1130, 1315, 2734, 4083, 4142, 6179, 14050)
_OUTPUT = (7, 16, 41, 54, 85, 103, 129, 177, 384, 400, 424, 451, 601, 954, 1000)

AZURE_CONVERSATION = TraceStatistics(
    name="azure_conversation",
    rate_per_s=5.53,
    interarrival_cv=1.09,
    prompt=tuple(zip(_PROBABILITIES, _PROMPT)),
    output=tuple(zip(_PROBABILITIES, _OUTPUT)),
    source="Rate, CV and quantiles of AzureLLMInferenceTrace_conv.csv (Azure public dataset, "
    "2023, CC-BY-4.0): 19,366 "
    "requests in 58 minutes; mean prompt 1155, mean output 211 tokens. In the recording a long "
    "prompt goes with a "
    "shorter output, at a correlation of -0.11, which is left out here.",
)


def write_trace(path: Path, requests: Sequence[Request]) -> None:
    """Write requests as plain CSV, replacing the file whole; they read back equal if the first
    arrives at 0."""
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "w", encoding="ascii", newline="\n") as file:
        file.write("arrival_s,prompt_tokens,output_tokens\n")
        file.writelines(f"{r.arrival_s!r},{r.prompt_tokens},{r.output_tokens}\n" for r in requests)
    os.replace(partial, path)


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Write requests like those of the Azure conversation trace as CSV."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--count", type=int, default=2000, help="number of requests (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    given = parser.parse_args(arguments)
    try:
        write_trace(given.file, generate(AZURE_CONVERSATION, given.count, given.seed))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    _main()
