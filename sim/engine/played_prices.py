"""Iterations that have no closed form, at fidelity `step`: played once, and then known.

A pass takes a time that depends on the sums over its batch only, if every size in the graph does.
So a batch whose sums have been seen is looked up; where sizes depend on more, only the same batch
is. Decode steps go on along a line: between two
contexts at which the pass takes the same decisions in the same order, its time is a straight line
(`sim.engine.steps` says why), so the steps in between are told without being played. The contexts
looked at lie on one grid for all batches of a size, so that they are met again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.engine.group import Group
from sim.engine.replay import Answer, Player, batch_of
from sim.engine.steps import Numbers, Sums, bends, play, sizes_of
from sim.graph.batch import DENSE, Batch, Pattern, Sequences, decode_batch
from sim.serving.fleet import LOGITS, LONE_PAIRS, PATTERN, SHARED_PAIRS, TOKENS, Fleet

_GRID = 1.3  # ratio of neighbouring contexts on the grid


def in_stages(stages: Sequence[PlayedPrices]) -> Player:
    """Answers for a replica in pipeline stages, each known from what it has played."""
    return lambda fleet, r: Answer(0.0, stage_s=tuple(stage(fleet, r).base_s for stage in stages))


class PlayedPrices:
    """Answers for the iterations of one kind of replica, and what they add to the sums of one
    rank."""

    def __init__(self, group: Group, patterns: Sequence[Pattern]) -> None:
        self.group, self.dense = group, set(patterns) == {DENSE}
        self.by_sums = _by_sums(group, patterns)
        self._seen: dict[object, Sums] = {}
        self._at: dict[tuple[int, int], tuple[Sums, tuple]] = {}
        self._straight: dict[tuple[int, int, int], bool] = {}
        self.sums: Sums = {}
        self._under_way: dict[
            int, tuple[Sums, Sums, int]
        ] = {}  # replica: first step, change from each to the next

    def __call__(self, fleet: Fleet, r: int) -> Answer:
        """The iterations that replica `r` is about to begin."""
        self.settle(fleet, r)
        me = fleet.replicas[r]
        first, change, steps = (
            self._decode(fleet, r) if self._decodes(fleet, r) else (self._whole(fleet, r), {}, 1)
        )
        self._under_way[r] = first, change, int(me.iterations)
        return Answer(first["seconds",], change.get(("seconds",), 0.0), steps)

    def settle(self, fleet: Fleet, r: int) -> None:
        """Add what was done of the iterations that replica `r` asked about last."""
        if r not in self._under_way:
            return
        first, change, before = self._under_way.pop(r)
        steps = int(fleet.replicas[r].iterations) - before
        for key, value in first.items():
            up = change.get(key, 0.0) * (steps * (steps - 1) / 2)
            self.sums[key] = self.sums.get(key, 0.0) + steps * value + up

    def _whole(self, fleet: Fleet, r: int) -> Sums:
        key: object = tuple(fleet.features[r].tolist()) if self.by_sums else batch_of(fleet, r)
        if key not in self._seen:
            self._seen[key] = self._played(batch_of(fleet, r))[0]
        return self._seen[key]

    def _decodes(self, fleet: Fleet, r: int) -> bool:
        """Whether every sequence of the batch makes one token from all of its context."""
        count = int(fleet.features[r, TOKENS])
        grows = fleet.growth[r, PATTERN + LONE_PAIRS]
        alone = fleet.features[r, SHARED_PAIRS] == 0.0
        sums = self.dense and self.by_sums and alone
        return sums and fleet.features[r, LOGITS] == count == grows

    def _decode(self, fleet: Fleet, r: int) -> tuple[Sums, Sums, int]:
        """(first step, change, steps for which it holds) of a decode batch, by the sum of its
        contexts."""
        count, total = int(fleet.features[r, TOKENS]), int(fleet.features[r, PATTERN + LONE_PAIRS])
        low = 1
        while count * _next(low) <= total:
            low = _next(low)
        low, high = count * low, count * _next(low)
        while not self._is_straight(count, low, high):
            middle = (low + high) // 2
            low, high = (low, middle) if total < middle else (middle, high)
        (a, _), (b, _) = self._point(count, low), self._point(count, high)
        share = (total - low) / max(high - low, 1)
        keys = dict.fromkeys([*a, *b])
        first = {key: a.get(key, 0.0) + share * (b.get(key, 0.0) - a.get(key, 0.0)) for key in keys}
        change = {
            key: (b.get(key, 0.0) - a.get(key, 0.0)) * count / max(high - low, 1) for key in keys
        }
        return first, change, (high - total) // count + 1

    def _is_straight(self, count: int, low: int, high: int) -> bool:
        key = count, low, high
        if key not in self._straight:
            middle = (low + high) // 2
            ends = [sizes_of(self.group, _contexts(count, at)) for at in (low, middle, high)]
            same = self._point(count, low)[1] == self._point(count, high)[1]
            self._straight[key] = high - low <= 1 or (
                same and not bends(ends[0], ends[1], ends[2], (middle - low) / (high - low))
            )
        return self._straight[key]

    def _point(self, count: int, total: int) -> tuple[Sums, tuple]:
        if (count, total) not in self._at:
            self._at[count, total] = self._played(_contexts(count, total))
        return self._at[count, total]

    def _played(self, batch: Batch) -> tuple[Sums, tuple]:
        found = play(self.group, batch)
        if self.group.chips[
            0
        ].residency.reused:  # then it matters how the pass before left L2: like this one
            found = play(self.group, batch)
        return found


def _by_sums(group: Group, patterns: Sequence[Pattern]) -> bool:
    """Whether sizes depend on the sums over a batch alone: batches of equal sums have equal sizes,
    with all contexts within the windows, and with all beyond them."""
    windows = [pattern.window for pattern in patterns if pattern != DENSE]
    near, far, up = max(min(windows, default=1) // 2 - 1, 0), max(windows, default=0), 100_000
    pairs = [
        (((1, 0), (1, 2 * near)), ((1, near), (1, near))),
        (((1, far), (1, far + 2 * up)), ((1, far + up), (1, far + up))),
        (
            ((10, far), (20, far + 2 * up), (30, far)),
            ((10, far + up), (20, far), (30, far + up)),
        ),
    ]

    def sizes(some: Sequence[tuple[int, int]]) -> Numbers:
        groups = tuple(Sequences(1, new, past) for new, past in some)
        return sizes_of(group, Batch(groups, len(groups)))

    return not any(bends(sizes(a), sizes(b), sizes(a), 0.5) for a, b in pairs)


def _next(context: int) -> int:
    return max(context + 1, int(context * _GRID))


def _contexts(count: int, total: int) -> Batch:
    """A decode batch of `count` sequences whose contexts, the new token included, have this sum."""
    each, over = divmod(total, count)
    return decode_batch([each - 1] * (count - over) + [each] * over)
