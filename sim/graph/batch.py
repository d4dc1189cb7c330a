"""What one forward pass works on: sequences, how much of each is new, and what of their context
they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sim.graph.model import Model


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
    """Sums over a batch, of one pattern of attention: query-key pairs and distinct cached entries
    of sequences with more than one query, and the pairs, which are the entries, of those with
    one."""

    long_pairs: float
    long_entries: float
    lone: float

    @property
    def pairs(self) -> float:
        """Of all sequences."""
        return self.long_pairs + self.lone

    @property
    def entries(self) -> float:
        """Of all sequences."""
        return self.long_entries + self.lone


def attended_by(model: Model, pattern: str, batch: Batch) -> Attended:
    """What a layer of `pattern` attends to in one pass over `batch`."""
    long_pairs = long_entries = lone = 0.0
    for group in batch.groups:
        pairs, entries = attended(model, pattern, group.new, group.past)
        if group.new == 1:
            lone += group.number * pairs
        else:
            long_pairs += group.number * pairs
            long_entries += group.number * entries
    return Attended(long_pairs, long_entries, lone)


def attended(model: Model, pattern: str, new: int, past: int) -> tuple[float, float]:
    """(query-key pairs, distinct cached entries read) of one sequence in a layer of `pattern`.

    Causal: query i of `new` sees past + i entries. A window sees the last `window_tokens`;
    block-sparse sees the window and one in `sparse_stride` of what lies before it, shared by the
    query heads of a group.
    """

    def seen(entries: float) -> float:
        if pattern == "dense" or entries <= model.window_tokens:
            return entries
        far = entries - model.window_tokens
        return model.window_tokens + (
            far / model.sparse_stride if pattern == "blocksparse" else 0.0
        )

    total = past + new
    if new == 1:
        return seen(total), seen(total)
    if pattern == "dense":
        return new * past + new * (new + 1) / 2, total
    # Sum of `seen` over the queries: an arithmetic series below the window, another above it.
    knee = min(max(model.window_tokens - past, 0), new)
    below = knee * past + knee * (knee + 1) / 2
    above = (seen(past + knee + 1) + seen(total)) / 2 * (new - knee) if new > knee else 0.0
    return below + above, total
