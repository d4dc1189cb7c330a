"""Requests: what users asked of a service, read from a recording or made by a generator."""

from __future__ import annotations

from typing import NamedTuple


class Request(NamedTuple):
    """One request.  `arrival_s` counts from the first request of the trace."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
