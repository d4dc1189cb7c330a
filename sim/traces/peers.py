"""What other benchmarks save that is no trace, to be refused by its right name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Results of other benchmarks, by a key that they begin with.
_PEERS = {
    "experiments": "GenAI-Perf",
    "benchmarks": "GuideLLM",
    "number_input_tokens": "LLMPerf",
    "request_throughput": "a benchmark, without its details",
    "input_config": "AIPerf",
}


def peer(found: Mapping[str, Any]) -> str:
    """What to say of an object that another benchmark saves; "" of any other."""
    whose = next((name for key, name in _PEERS.items() if key in found), "")
    return whose and (
        f"is a result of {whose}, which is not read; a trace has arrival, prompt and output tokens "
        'of each request: {"arrival_s": 0.25, "prompt_tokens": 374, "output_tokens": 44}'
    )
