"""What one forward pass works on: sequences, how much of each is new, and what of their context
they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple


class Sequences(NamedTuple):
    """`number` sequences that each add `new` tokens to `past` cached ones in this pass."""

    number: float
    new: int
    past: int


class Shared(NamedTuple):
    """A run of `tokens` that stands in the cached context of `number` sequences, each with one new
    token: a node of the tree of their prefixes."""

    number: float
    tokens: float


class Sharing(NamedTuple):
    """Which prefixes that sequences of a batch share are made use of: those of `least` sequences or
    more, up to `most` tokens of them."""

    least: float = inf
    most: float = inf


NO_SHARING = Sharing()


class Pattern(NamedTuple):
    """Which cached entries a query sees: all ("dense"), the last `window` ("window"), those and one
    in `stride` of what lies before, shared by the query heads of a group ("blocksparse"), or all
    that the cache keeps of a sequence, `window` at most, and what its own pass adds ("kept")."""

    name: str = "dense"
    window: int = 0
    stride: int = 1

    def seen(self, entries: float) -> float:
        """Of so many entries up to the query's own."""
        if self.name == "dense" or entries <= self.window:
            return entries
        far = entries - self.window
        return self.window + (far / self.stride if self.name == "blocksparse" else 0.0)

    def kept(self, entries: float) -> float:
        """Of so many entries, those that the cache keeps after the pass."""
        return min(entries, self.window) if self.name == "kept" else entries


DENSE = Pattern()


@dataclass(frozen=True)
class Batch:
    """What one forward pass works on.  `logits`: how many sequences need a next token."""

    groups: tuple[Sequences, ...]
    logits: float
    shared: tuple[Shared, ...] = ()

    @property
    def tokens(self) -> float:
        """New tokens over all sequences."""
        return sum(g.number * g.new for g in self.groups)

    @property
    def lone(self) -> float:
        """Sequences with one query."""
        return sum(g.number for g in self.groups if g.new == 1)

    @property
    def mixed(self) -> bool:
        """Whether a sequence has more than one query."""
        return any(g.new > 1 for g in self.groups)

    def part(self, parts: int) -> Batch:
        """An equal part of the sequences, which need not be a whole number: the mean over ranks
        that share them."""
        if parts == 1:
            return self
        groups = tuple(g._replace(number=g.number / parts) for g in self.groups)
        return Batch(
            groups,
            self.logits / parts,
            tuple(s._replace(number=s.number / parts) for s in self.shared),
        )


def decode_batch(contexts: Iterable[int], shared: Iterable[Shared] = ()) -> Batch:
    """One new token for each sequence; `contexts` are the cached tokens of each before this
    step."""
    groups = tuple(Sequences(1, 1, past) for past in contexts)
    return Batch(groups, len(groups), tuple(shared))


def prefill_batch(prompts: Iterable[int]) -> Batch:
    """Whole prompts at once, nothing cached."""
    groups = tuple(Sequences(1, tokens, 0) for tokens in prompts)
    return Batch(groups, len(groups))


class Attended(NamedTuple):
    """Sums over sequences, of one pattern of attention: query-key pairs and distinct cached entries
    of those with more than one query, and the pairs, which are the entries, of those with one; new
    tokens, and tokens whose entries are kept."""

    long_pairs: float
    long_entries: float
    lone: float
    new: float
    kept: float

    @property
    def pairs(self) -> float:
        """Of all sequences."""
        return self.long_pairs + self.lone

    @property
    def entries(self) -> float:
        """Of all sequences."""
        return self.long_entries + self.lone


def attended_by(pattern: Pattern, sequences: tuple[Sequences, ...]) -> Attended:
    """What a layer of `pattern` attends to in one pass over `sequences`."""
    long_pairs = long_entries = lone = added = kept = 0.0
    for number, new, past in sequences:
        added += number * new
        kept += number * pattern.kept(new + past)
        if new == 1:
            lone += number * pattern.seen(past + 1)
        else:
            pairs, entries = attended(pattern, new, past)
            long_pairs += number * pairs
            long_entries += number * entries
    return Attended(long_pairs, long_entries, lone, added, kept)


def attended(pattern: Pattern, new: int, past: float) -> tuple[float, float]:
    """(query-key pairs, distinct cached entries read) of one sequence in a layer of `pattern`.

    Causal: query i of `new` sees past + i entries.
    """
    total = past + new
    if new == 1:
        return pattern.seen(total), pattern.seen(total)
    if pattern.name in ("dense", "kept"):
        past = pattern.kept(past)
        return new * past + new * (new + 1) / 2, past + new
    # Sum of `seen` over the queries: an arithmetic series below the window, another above it.
    knee = min(max(pattern.window - past, 0), new)
    below = knee * past + knee * (knee + 1) / 2
    first, last = pattern.seen(past + knee + 1), pattern.seen(total)
    above = (first + last) / 2 * (new - knee) if new > knee else 0.0
    return below + above, total
