"""What an attention works on, from which the FLOP and the bytes of its ops follow.

A technique that gives the work another pattern, another cache or other sequences changes what the
ops take, what the KV-cache occupies and what an iteration is priced by, all at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from sim.graph.batch import NO_SHARING, Attended, Pattern, Sequences, Shared, Sharing, attended_by
from sim.graph.model import Latent

SOFTMAX_FLOP = 5  # of a score; the exact count never bounds a kernel here
ROPE_FLOP = 6  # of a rotated element, likewise
SCORE_BYTES = 4.0  # of an entry, for each KV head
_OF_CACHE = ("kv", "kv_long", "kv_keys", "kv_values")


class Prepared(NamedTuple):
    """What a kernel does to each cached entry before it attends: FLOP of either engine for an entry
    of all KV heads that a rank has.

    The share `overlap` of it is done while the kernel waits for what it reads, the rest in turn
    with everything else.  How much that is hangs on how the kernel is written.
    """

    matrix: float
    vector: float
    overlap: float


@dataclass(frozen=True)
class AttentionWork:
    """What the ops of one rank's attention, or a part of it, work on.

    Each query of `sequences` meets the cached entries that `pattern` lets it see, with `heads`
    heads of `key` elements for a query and a key and `value` for a value. The cache holds `cached`
    elements of a token, each of `cache_bytes`; ranks that share it by its tokens are `parts`.
    `shared` are runs of context that several of the sequences have, of which the attention makes
    use by `sharing`. A technique may leave `elsewhere` query-entry pairs to another op, and
    read `unread` entries less: both are counted over all ranks that share the cache.
    """

    sequences: tuple[Sequences, ...]
    pattern: Pattern
    heads: int
    key: int
    value: int
    cached: int
    cache_bytes: float
    wide_bytes: float  # of an element that attention computes with
    parts: int = 1
    shared: tuple[Shared, ...] = ()
    sharing: Sharing = NO_SHARING
    latent: Latent | None = None  # of which keys and values are made, where the cache holds that
    elsewhere: float = 0.0
    unread: float = 0.0
    kv_heads: int = 0  # of a cache of keys and values
    key_share: float = 0.5  # of an entry's bytes, what its key takes
    prepared: tuple[Prepared, ...] = ()  # within the attention's own kernel
    apart: Prepared | None = None  # of the keys, by a kernel of its own that hands them on whole
    scored: bool = False  # the cache holds what attention each entry has got: `SCORE_BYTES` a head

    @cached_property
    def seen(self) -> Attended:
        """Sums over the sequences."""
        return attended_by(self.pattern, self.sequences)

    @property
    def pairs(self) -> float:
        """Query-entry pairs of a head on this rank, those left to another op among them."""
        return self.seen.pairs / self.parts

    def flop(self, pairs: float) -> float:
        """Of so many pairs of each head, before the ranks divide them."""
        score = SOFTMAX_FLOP + self.scored  # what is kept of it is added up
        each = (2 * (self.key + self.value) + score) * self.heads / self.parts
        left = 1.0 - self.elsewhere / self.parts / self.pairs if self.pairs else 1.0
        return each * pairs * left

    def preparing(self, within: bool) -> tuple[float, float]:
        """FLOP of the matrix and of the vector engine that prepare entries while the kernel waits
        (`within`), or else in turn."""
        entries = self.seen.entries / self.parts
        shares = [each.overlap if within else 1.0 - each.overlap for each in self.prepared]
        matrix = sum(share * each.matrix for share, each in zip(shares, self.prepared))
        vector = sum(share * each.vector for share, each in zip(shares, self.prepared))
        return matrix * entries, vector * entries

    @property
    def entry_bytes(self) -> float:
        """Of an entry of the cache."""
        scores = SCORE_BYTES * self.kv_heads if self.scored else 0.0
        return self.cached * self.cache_bytes + scores

    @property
    def expansion_flop(self) -> float:
        """To make keys and values of each head of all that is seen of a latent cache."""
        assert self.latent is not None
        m = self.latent
        return 2 * self.seen.entries * m.kv_rank * self.heads * (m.nope + m.value)

    def bytes_of(self, name: str) -> tuple[float, float | None] | None:
        """What is touched and what is occupied of the tensor `name`; None if that is no matter of
        the work's."""
        seen, entry = self.seen, self.entry_bytes
        if name in _OF_CACHE:
            if name in ("kv_keys", "kv_values"):
                entry *= self.key_share if name == "kv_keys" else 1.0 - self.key_share
            old = max(seen.entries - seen.new, 0.0) * entry / self.parts
            less = self.unread / self.parts * entry
            return old - less, seen.kept * entry / self.parts
        if name == "kv_new":  # a latent is made whole on every rank, and a part of it kept
            return seen.new * entry / (1 if self.latent else self.parts), None
        if name == "kv_whole_keys":
            whole = seen.entries * self.kv_heads * self.key * self.wide_bytes
            return whole / self.parts, None
        if name == "kv_scores":  # those that the pass has changed
            return seen.entries * self.kv_heads * SCORE_BYTES / self.parts, 0.0
        if name == "expanded":
            return seen.entries * self.heads * (self.key + self.value) * self.wide_bytes, None
        return None
