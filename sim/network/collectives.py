"""Collectives and their algorithms: all that is known of each stands in its row.

A new algorithm is a plan (`sim.network.plans`) and a row among its collective's `algorithms`; a new
collective is a row in `COLLECTIVES`. What a scenario may name, what `auto` compares and what is
listed follow from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sim.network import plans
from sim.network.plans import Members, Plan


class Needs(NamedTuple):
    """What an algorithm needs of a group: in words, what to say of a group that lacks it, and
    whether one has it."""

    words: str
    lack: str
    has: Callable[[Members], bool]

    def __call__(self, who: Members) -> str:
        """What the group lacks; "" if nothing."""
        return "" if self.has(who) else self.lack.format(n=who.size)


NOTHING = Needs("", "", lambda who: True)
EVEN = Needs(
    "An even number of ranks",
    "a group of an even number of ranks, not {n}",
    lambda who: who.size % 2 == 0,
)
POWER_OF_TWO = Needs(
    "A power of two ranks",
    "a group of a power of two ranks, not {n}",
    lambda who: who.size.bit_count() == 1,
)
NODES = Needs(
    "Equally many chips on each of several nodes",
    "a group with equally many chips on each of several nodes",
    lambda who: len(who.dims) == 2 and min(who.dims) > 1,
)
BOX = Needs(
    "A group that fills a box of two or more dimensions",
    "a group that fills a box of two or more dimensions",
    lambda who: len(who.dims) > 1 and min(who.dims) > 1,
)
HUB = Needs(
    "A switch that all share",
    "a switch that all ranks of the group are wired to",
    lambda who: len(who.hubs) == 1,
)
HUBS = Needs(
    "A switch that all share, or one for each node",
    "a switch that all ranks of the group, or of each of its nodes, are wired to",
    lambda who: bool(who.hubs),
)


class Algorithm(NamedTuple):
    """One way to do a collective.

    `needs` says what a group lacks to be served by it, or "". `senders` is the share of the ranks
    that have something to send, where the others only receive. A `crowded` plan has a send or a
    round for every pair of ranks, or all its sends leave one chip: `auto` leaves it out of large
    groups. One that is `named_only` takes hardware that a library has to know of: `auto` takes it
    where the library names it.
    """

    plan: Callable[[Members, float], Plan]
    needs: Needs = NOTHING
    senders: float = 1.0
    crowded: bool = False
    named_only: bool = False

    @property
    def doc(self) -> str:
        """What it does: the first paragraph of what its plan says of itself."""
        return " ".join((self.plan.__doc__ or "").partition("\n\n")[0].split())


class Collective(NamedTuple):
    """An exchange among ranks, by the name that op graphs and scenarios give it.

    `bus` is the factor from bytes over time to nccl-tests' bus bandwidth, for so many ranks.
    """

    algorithms: dict[str, Algorithm]
    bus: Callable[[int], float] = lambda ranks: 1.0


COLLECTIVES: dict[str, Collective] = {
    "all_reduce": Collective(
        {
            "ring": Algorithm(plans.ring_all_reduce),
            "bidirectional_ring": Algorithm(plans.bidirectional_ring_all_reduce),
            "one_shot": Algorithm(plans.one_shot_all_reduce, crowded=True),
            "two_shot": Algorithm(plans.two_shot_all_reduce, crowded=True),
            "recursive_doubling": Algorithm(plans.recursive_doubling_all_reduce, POWER_OF_TWO),
            "halving_doubling": Algorithm(plans.halving_doubling_all_reduce, POWER_OF_TWO),
            "double_binary_tree": Algorithm(plans.double_binary_tree_all_reduce),
            "hierarchical": Algorithm(plans.hierarchical_all_reduce, NODES),
            "multi_dimensional": Algorithm(plans.multi_dimensional_all_reduce, BOX),
            "in_switch": Algorithm(plans.in_switch_all_reduce, HUBS, named_only=True),
        },
        lambda ranks: 2 * (ranks - 1) / ranks,
    ),
    "all_gather": Collective(
        {
            "ring": Algorithm(plans.ring_all_gather),
            "direct": Algorithm(plans.direct_all_gather, crowded=True),
            "recursive_doubling": Algorithm(plans.doubling_all_gather, POWER_OF_TWO),
            "hierarchical": Algorithm(plans.hierarchical_all_gather, NODES),
            "multi_dimensional": Algorithm(plans.multi_dimensional_all_gather, BOX),
            "in_switch": Algorithm(plans.in_switch_all_gather, HUBS, named_only=True),
        },
        lambda ranks: (ranks - 1) / ranks,
    ),
    "reduce_scatter": Collective(
        {
            "ring": Algorithm(plans.ring_reduce_scatter),
            "direct": Algorithm(plans.direct_reduce_scatter, crowded=True),
            "recursive_halving": Algorithm(plans.halving_reduce_scatter, POWER_OF_TWO),
            "hierarchical": Algorithm(plans.hierarchical_reduce_scatter, NODES),
            "multi_dimensional": Algorithm(plans.multi_dimensional_reduce_scatter, BOX),
            "in_switch": Algorithm(plans.in_switch_reduce_scatter, HUBS, named_only=True),
        },
        lambda ranks: (ranks - 1) / ranks,
    ),
    "all_to_all": Collective(
        {
            "direct": Algorithm(plans.direct_all_to_all, crowded=True),
            "pairwise": Algorithm(plans.pairwise_all_to_all, crowded=True),
            "ring": Algorithm(plans.ring_all_to_all, crowded=True),
            "hierarchical": Algorithm(plans.hierarchical_all_to_all, NODES, crowded=True),
            "multi_dimensional": Algorithm(plans.multi_dimensional_all_to_all, BOX, crowded=True),
        },
        lambda ranks: (ranks - 1) / ranks,
    ),
    "broadcast": Collective(
        {
            "binomial": Algorithm(plans.binomial_broadcast),
            "chain": Algorithm(plans.chain_broadcast),
            "direct": Algorithm(plans.direct_broadcast, crowded=True),
            "in_switch": Algorithm(plans.in_switch_broadcast, HUB, named_only=True),
        }
    ),
    "send_receive": Collective({"direct": Algorithm(plans.direct_send_receive)}),
    "send": Collective({"direct": Algorithm(plans.direct_send, EVEN, senders=0.5)}),
}


def collective(kind: str) -> Collective:
    """The row of a collective; ValueError if there is none."""
    if kind not in COLLECTIVES:
        raise ValueError(f"no plan for the collective {kind!r}; there are {', '.join(COLLECTIVES)}")
    return COLLECTIVES[kind]


class _Algorithms:
    """The rows of all algorithms by "collective.algorithm", as installed packages name theirs."""

    def __contains__(self, key: str) -> bool:
        kind, _, name = key.partition(".")
        return name in collective(kind).algorithms

    def __setitem__(self, key: str, row: Algorithm) -> None:
        kind, _, name = key.partition(".")
        collective(kind).algorithms[name] = row


ALGORITHMS = _Algorithms()


class _Names:
    """Every name that an algorithm of some collective has, once, as the rows are when asked."""

    def __iter__(self) -> Iterator[str]:
        return iter(
            dict.fromkeys(name for each in COLLECTIVES.values() for name in each.algorithms)
        )


ALGORITHM_NAMES = _Names()
AUTO = "auto"  # what may be asked for in place of an algorithm: the quickest of those that serve


def serving(kind: str, who: Members) -> list[str]:
    """Names of the algorithms that serve the group; ValueError if there is no such collective."""
    return [name for name, each in collective(kind).algorithms.items() if not each.needs(who)]


def algorithm(kind: str, name: str, who: Members) -> Algorithm:
    """The algorithm of that name, if it serves the group; ValueError otherwise, naming those that
    do."""
    able, there = serving(kind, who), COLLECTIVES[kind].algorithms
    if name not in able:
        what = (
            f"{kind} by {name} needs {there[name].needs(who)}"
            if name in there
            else f"no algorithm {name!r} for {kind}"
        )
        raise ValueError(f"{what}; those that serve this group: {', '.join(able)}")
    return there[name]
