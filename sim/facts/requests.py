"""What happened to requests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np


class RequestRecord(NamedTuple):
    """What happened to one request.  Times in seconds from the start of the replay."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    scheduled_s: float  # first iteration that works on it starts
    first_token_s: float
    last_token_s: float


@dataclass(frozen=True, eq=False)
class Requests:
    """What happened to the requests of a run, in columns, by id.  Times are NaN, and `replica` -1,
    of one turned away."""

    id: np.ndarray
    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    scheduled_s: np.ndarray
    first_token_s: np.ndarray
    last_token_s: np.ndarray
    replica: np.ndarray
    hit_tokens: np.ndarray  # of the prompt, found in the prefix cache
    preemptions: np.ndarray
    retries: np.ndarray  # times that a replica failed under it
    priority: np.ndarray  # class of the queue, 0 first

    def __len__(self) -> int:
        return len(self.id)

    def finished(self) -> Requests:
        """Those that were served."""
        served = self.replica >= 0
        return Requests(*(getattr(self, each.name)[served] for each in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Requests]) -> Requests:
        """Those of all parts, one behind the other."""
        return Requests(
            *(
                np.concatenate([getattr(part, each.name) for part in parts])
                for each in fields(Requests)
            )
        )

    @staticmethod
    def of(records: Iterable[RequestRecord]) -> Requests:
        """Records as columns, of one replica without a prefix cache."""
        columns = np.array([*records], float).reshape(-1, 7).T
        id, prompt, output = (columns[i].astype(np.int64) for i in (0, 2, 3))
        none = np.zeros(columns.shape[1], np.int64)
        return Requests(
            id, columns[1], prompt, output, columns[4], columns[5], columns[6], *[none] * 5
        )
