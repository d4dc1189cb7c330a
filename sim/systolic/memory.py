"""Rounds that wait for memory, cycle by cycle only then; plain Python that a compiler may take.

Tiles of W and X come in the order of rounds, so that what has come is a level: bytes from the
start. Partial sums that had to leave their bank come before them, as soon as a round misses them.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.systolic.placement import Ints

NO_ROOM = -(2**62)


class Sums(NamedTuple):
    """Every partial sum, of a tile op or an addition; by round, those made and those needed.

    Lists by round are flat: round t has `made[made_from[t] : made_from[t + 1]]`.
    """

    nbytes: Ints  # [sum]
    bank: Ints  # [sum]
    made_from: Ints  # [round + 1]
    made: Ints  # of tile ops, then of additions
    started_from: Ints
    started: Ints  # those that tile ops start from, by pod
    added_from: Ints
    added: Ints  # left operands, right operands, targets of additions, each by post-processor


class Banks(NamedTuple):
    """The banks of partial sums, each a queue from the sum it will give up first; -1 is none."""

    used: Ints  # [bank], bytes
    first: Ints  # [bank], sum
    last: Ints  # [bank]
    before: Ints  # [sum], its neighbours in the queue
    behind: Ints  # [sum]
    until: Ints  # [sum], the last round that it is known to be for; -1 if it is in no queue
    come: Ints  # [sum], bytes of it that came back so far
    here: Ints  # [sum], 1 if all of it is there


class Asked(NamedTuple):
    """A stack of what memory is to bring, the last first; as many as it has room for."""

    what: Ints  # [place], sum
    until: Ints  # [place], the round that asked for it
    count: Ints  # [0], places in use


class Stream(NamedTuple):
    """What comes from memory: by round, bytes due at its start, and bytes that may have come."""

    due: Ints
    within: Ints
    per_cycle: float


def play(lengths: Ints, stream: Stream, warm_up: int, starts: Ints, stalls: Ints) -> int:
    """When rounds start, and how long each waits at its end; returns the cycles before round 0.

    All sums stay in their banks: then a wait is one division.
    """
    fetched = min(warm_up * stream.per_cycle, stream.within[0])
    now = warm_up
    if stream.due[0] > fetched:
        waited = _cycles(stream.due[0] - fetched, stream.per_cycle)
        fetched = min(fetched + waited * stream.per_cycle, stream.within[0])
        now += waited
    first = now
    for t in range(len(lengths)):
        starts[t] = now
        fetched = min(fetched + lengths[t] * stream.per_cycle, stream.within[t])
        if t + 1 < len(lengths) and stream.due[t + 1] > fetched:
            stalls[t] = _cycles(stream.due[t + 1] - fetched, stream.per_cycle)
            fetched = min(fetched + stalls[t] * stream.per_cycle, stream.within[t])
        now += lengths[t] + stalls[t]
    return first


def play_full(
    lengths: Ints,
    stream: Stream,
    warm_up: int,
    sums: Sums,
    banks: Banks,
    bank_bytes: int,
    asked: Asked,
    starts: Ints,
    stalls: Ints,
    back: Ints,
) -> int:
    """The same where sums may have to leave their banks; bytes of sums brought back are added to
    `back[0]`.

    -1 - t cycles before round 0 if round t can never start, its banks being too small; NO_ROOM if
    `asked` is. Before a round all that it makes gets room, pushing out the oldest; what it reads
    must be there. In a cycle the first sum that tile ops miss is asked for, and all that additions
    miss; what was asked for last comes first.
    """
    first = 0
    now = warm_up
    fetched = min(warm_up * stream.per_cycle, stream.within[0])
    for t in range(-1, len(lengths) - 1):
        left = 0
        if t >= 0:
            starts[t] = now
            left = lengths[t]
            now += left
        r = max(t, 0)
        waited = 0
        made = sums.made_from[t + 1]
        while True:
            while left > 0 and asked.count[0] > 0:
                rest, moved = _bring(stream.per_cycle, r, asked, sums, banks, bank_bytes)
                back[0] += moved
                fetched = min(fetched + rest, stream.within[r])
                left -= 1
            fetched = min(fetched + left * stream.per_cycle, stream.within[r])
            left = 0
            known = made
            while made < sums.made_from[t + 2] and _give_room(
                sums.made[made], t + 1, t + 1, sums, banks, bank_bytes
            ):
                banks.here[sums.made[made]] = 1
                made += 1
            most = sums.added_from[t + 2] - sums.added_from[t + 1] + 1
            if asked.count[0] + most > len(asked.what):
                return NO_ROOM
            missing = _ask(t + 1, asked, sums, banks)
            if not missing and made == sums.made_from[t + 2] and stream.due[t + 1] <= fetched:
                break
            rest, moved = _bring(stream.per_cycle, r, asked, sums, banks, bank_bytes)
            if made == known and moved == 0.0 and (rest == 0.0 or stream.within[r] <= fetched):
                return -t - 2
            back[0] += moved
            fetched = min(fetched + rest, stream.within[r])
            waited += 1
            now += 1
        if t >= 0:
            stalls[t] = waited
        else:
            first = now
    starts[len(lengths) - 1] = now
    return first


def _ask(t: int, asked: Asked, sums: Sums, banks: Banks) -> bool:
    """Asks for what round t misses; whether it misses any."""
    before = asked.count[0]
    for at in range(sums.started_from[t], sums.started_from[t + 1]):
        if banks.here[sums.started[at]] == 0:
            _push(asked, sums.started[at], t)
            break
    for at in range(sums.added_from[t], sums.added_from[t + 1]):
        if banks.here[sums.added[at]] == 0:
            _push(asked, sums.added[at], t)
    return asked.count[0] > before


def _push(asked: Asked, what: int, t: int) -> None:
    asked.what[asked.count[0]] = what
    asked.until[asked.count[0]] = t
    asked.count[0] += 1


def _bring(
    nbytes: float, r: int, asked: Asked, sums: Sums, banks: Banks, bank_bytes: int
) -> tuple[float, float]:
    """A cycle of memory in round r: bytes left for W and X, and bytes of sums that came."""
    moved = 0.0
    while nbytes > 0.0 and asked.count[0] > 0:
        what, until = asked.what[asked.count[0] - 1], asked.until[asked.count[0] - 1]
        if banks.here[what] != 0:
            _queue(what, max(until, banks.until[what]), sums, banks)
            asked.count[0] -= 1
            continue
        if banks.come[what] == 0.0 and not _give_room(what, until, r, sums, banks, bank_bytes):
            return 0.0, moved
        part = min(nbytes, sums.nbytes[what] - banks.come[what])
        nbytes -= part
        moved += part
        banks.come[what] += part
        if banks.come[what] >= sums.nbytes[what]:
            banks.come[what] = 0.0
            banks.here[what] = 1
    return nbytes, moved


def _give_room(what: int, until: int, r: int, sums: Sums, banks: Banks, bank_bytes: int) -> bool:
    """Makes room for a sum in its bank, if those it pushes out are for rounds before r."""
    bank = sums.bank[what]
    while banks.used[bank] + sums.nbytes[what] > bank_bytes:
        oldest = banks.first[bank]
        if oldest < 0 or banks.until[oldest] >= r:
            return False
        _leave(oldest, bank, banks)
        banks.used[bank] -= sums.nbytes[oldest]
        banks.here[oldest] = 0
        banks.until[oldest] = -1
    banks.used[bank] += sums.nbytes[what]
    _queue(what, until, sums, banks)
    return True


def _queue(what: int, until: int, sums: Sums, banks: Banks) -> None:
    """Puts a sum at the end of its bank's queue."""
    bank = sums.bank[what]
    if banks.until[what] >= 0:
        _leave(what, bank, banks)
    banks.until[what] = until
    banks.before[what] = banks.last[bank]
    banks.behind[what] = -1
    if banks.last[bank] >= 0:
        banks.behind[banks.last[bank]] = what
    else:
        banks.first[bank] = what
    banks.last[bank] = what


def _leave(what: int, bank: int, banks: Banks) -> None:
    before, behind = banks.before[what], banks.behind[what]
    if before >= 0:
        banks.behind[before] = behind
    else:
        banks.first[bank] = behind
    if behind >= 0:
        banks.before[behind] = before
    else:
        banks.last[bank] = before


def _cycles(nbytes: float, per_cycle: float) -> int:
    return int(-(-nbytes // per_cycle))
