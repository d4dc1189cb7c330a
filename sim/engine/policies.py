"""Admission policies: plain functions from what a scheduler may see to what it decides."""

from __future__ import annotations

from collections.abc import Sequence

from sim.workload.requests import Request


def first_come(
    waiting: Sequence[Request], free_kv_tokens: float, free_slots: int, max_new_tokens: int
) -> list[Request]:
    """Admit in arrival order while slots, the token budget of one iteration and the KV-cache hold them.

    The head of the line may block. A request reserves its prompt and its answer: the client's token limit, which a
    recording does not hold, is taken to be the answer's length. A prompt above the token budget is admitted alone.
    """
    admitted: list[Request] = []
    tokens = 0
    for request in waiting:
        need = request.prompt_tokens + request.output_tokens
        over = admitted and tokens + request.prompt_tokens > max_new_tokens
        if len(admitted) >= free_slots or need > free_kv_tokens or over:
            break
        free_kv_tokens -= need
        tokens += request.prompt_tokens
        admitted.append(request)
    return admitted
