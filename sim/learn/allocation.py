"""Which ranks each layer gets, from what its output loses at each pair of ranks.

A surface is {(r_K, r_V): loss} of a layer. Two ways: the smallest pair within an error budget, one
for all layers (v1 of the paper); the least sum of losses within a budget of cache, exactly, by
dynamic programming. Weights make a layer's loss count more. How a layer's loss enters the sum, and
which layers are early and late, the paper leaves open: losses are squared, as errors that are
independent add up, and a quarter of the layers is early, another late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Ranks = tuple[int, int]
Surface = Mapping[Ranks, float]
EARLY, LATE = 2.0, 1.75  # the paper's weights


def front(surface: Surface) -> list[Ranks]:
    """Pairs that no pair of less or equal total rank beats, by total rank."""
    kept: list[Ranks] = []
    for pair in sorted(surface, key=lambda pair: (sum(pair), surface[pair])):
        if not kept or surface[pair] < surface[kept[-1]]:
            kept.append(pair)
    return kept


def weights(layers: int, weighted: bool) -> list[float]:
    """Of each layer's loss."""
    share = layers // 4
    if not weighted:
        return [1.0] * layers
    return [EARLY] * share + [1.0] * (layers - 2 * share) + [LATE] * share


def within_error(surfaces: Sequence[Surface], error: float, by: Sequence[float]) -> list[Ranks]:
    """The smallest pair of each layer whose weighted loss is within `error`; its best if none."""
    chosen = []
    for surface, weight in zip(surfaces, by):
        pairs = front(surface)
        fits = [pair for pair in pairs if weight * surface[pair] <= error]
        chosen.append(fits[0] if fits else pairs[-1])
    return chosen


def error_for(surfaces: Sequence[Surface], total: int, by: Sequence[float]) -> list[Ranks]:
    """`within_error` at the least error budget whose ranks sum to no more than `total`.

    ValueError: no budget does.
    """
    errors = sorted(w * loss for surface, w in zip(surfaces, by) for loss in surface.values())
    low, high = 0, len(errors) - 1
    while low < high:
        middle = (low + high) // 2
        size = sum(map(sum, within_error(surfaces, errors[middle], by)))
        low, high = (low, middle) if size <= total else (middle + 1, high)
    chosen = within_error(surfaces, errors[low], by)
    _check(sum(map(sum, chosen)), total)
    return chosen


def within_budget(surfaces: Sequence[Surface], total: int, by: Sequence[float]) -> list[Ranks]:
    """The pairs of least weighted sum of squared losses whose ranks sum to `total` at most.

    ValueError: the smallest pairs are already more.
    """
    _check(sum(min(map(sum, surface)) for surface in surfaces), total)
    best: dict[int, tuple[float, tuple[Ranks, ...]]] = {0: (0.0, ())}
    for surface, weight in zip(surfaces, by):
        after: dict[int, tuple[float, tuple[Ranks, ...]]] = {}
        for pair in front(surface):
            for size, (loss, chosen) in best.items():
                held, sum_ = size + sum(pair), loss + weight * surface[pair] ** 2
                if held <= total and (held not in after or sum_ < after[held][0]):
                    after[held] = sum_, (*chosen, pair)
        best = after
    return list(min(best.values())[1])


def _check(least: int, total: int) -> None:
    if least > total:
        raise ValueError(
            f"ranks that sum to {least} over all layers are the least here, and the budget is "
            f"{total}"
        )
