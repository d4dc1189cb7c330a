"""L2 as a set of named ranges: filled by reads and prefetches, emptied from the least recently used
end.

A pass reads each tensor front to back, so under true LRU a whole range stays or goes: its last byte
is as old as its first by the time it is read again. A part may be set aside: what is prefetched
goes there, what else is read does not, and once it has been read it is like any other. Not
modelled: associativity, dirty write-back (which costs HBM bandwidth on a real part), sharing
between cores, and the room that activations take (a few MB in decode; prefetching leaves it free by
its cap).
"""

from __future__ import annotations

from collections.abc import Hashable


class Residency:
    """Ranges in L2 with their bytes, least recently used first.  `wasted` counts prefetched bytes
    that went unread."""

    def __init__(self, capacity: float, set_aside: float = 0.0) -> None:
        self.capacity, self.set_aside = capacity, set_aside  # bytes, beside each other
        self.used = self.kept_bytes = 0.0
        self.kept: dict[Hashable, float] = {}  # in the part set aside, oldest first
        self.ranges: dict[Hashable, float] = {}
        self.unread: dict[Hashable, float] = {}  # prefetched and not yet read
        self.wasted = 0.0
        self.left_over: set[Hashable] = set()
        self.reused = False

    def begin(self) -> None:
        """A pass begins: `reused` tells from now on whether anything that was resident before
        served it."""
        self.left_over = {*self.ranges, *self.kept}
        self.reused = False

    def read(self, key: Hashable, nbytes: float) -> float:
        """Bytes of a read of `nbytes` that hit.  Afterwards the whole range is the most recently
        used one, if it fits."""
        ranges = self.ranges
        held = ranges.pop(key, 0.0)
        if self.kept and key in self.kept:
            kept = self.kept.pop(key)
            self.kept_bytes -= kept
            self.used += kept
            held += kept
        if held and key in self.left_over:
            self.left_over.discard(key)
            self.reused = True
        if self.unread:
            fetched = self.unread.pop(key, 0.0)
            if fetched > nbytes:
                self.wasted += fetched - nbytes
        if nbytes > self.capacity:  # streams through and leaves nothing behind but its own tail
            self.used -= held
            self._evict(0.0)
            return held if held < nbytes else nbytes
        ranges[key] = nbytes
        self.used += nbytes - held
        if self.used > self.capacity:
            self._evict(self.capacity)
        return held if held < nbytes else nbytes

    def held(self, key: Hashable) -> float:
        """Bytes of `key` resident now."""
        held = self.ranges.get(key, 0.0) + self.kept.get(key, 0.0)
        if held and key in self.left_over:
            self.reused = True
        return held

    def fill(self, key: Hashable, nbytes: float) -> None:
        """A prefetch brought the range up to its first `nbytes`."""
        if self.set_aside:
            self._keep(key, nbytes)
            return
        held = self.ranges.pop(key, 0.0)
        size = max(min(nbytes, self.capacity), held)
        self.wasted += max(nbytes - self.capacity, 0.0)
        self.unread[key] = self.unread.get(key, 0.0) + size - held
        self.ranges[key] = size
        self.used += size - held
        if self.used > self.capacity:
            self._evict(self.capacity)

    def _keep(self, key: Hashable, nbytes: float) -> None:
        """The same, into the part set aside, from which the oldest leaves."""
        kept, before = self.kept, self.kept.pop(key, 0.0)
        wanted = nbytes - self.ranges.get(key, 0.0)
        size = max(min(wanted, self.set_aside), before)
        self.wasted += max(wanted - size, 0.0)
        self.unread[key] = self.unread.get(key, 0.0) + size - before
        kept[key] = size
        self.kept_bytes += size - before
        while self.kept_bytes > self.set_aside:
            oldest = next(iter(kept))
            self.kept_bytes -= kept.pop(oldest)
            if oldest not in self.ranges:
                self.left_over.discard(oldest)
            self.wasted += self.unread.pop(oldest, 0.0)

    def _evict(self, room: float) -> None:
        ranges, unread = self.ranges, self.unread
        while self.used > room and ranges:
            key = next(iter(ranges))
            self.used -= ranges.pop(key)
            self.left_over.discard(key)
            if unread:
                self.wasted += unread.pop(key, 0.0)
        if not ranges:
            self.used = 0.0  # drop the float dust of many additions
