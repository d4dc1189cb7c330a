"""Which ranks layers get, against all ways there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from sim.learn.allocation import error_for, front, weights, within_budget, within_error

PAIRS = list(product((4, 6, 8), repeat=2))


def surfaces(seed: int, layers: int = 4) -> list[dict[tuple[int, int], float]]:
    """Losses that fall in both ranks."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(layers):
        a, b = draw.uniform(0.1, 2, 2)
        found.append({(k, v): float(a / k**2 + b / v) for k, v in PAIRS})
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("total", [32, 41, 50, 64])
def test_within_budget_is_the_best_of_all(seed: int, total: int) -> None:
    found, by = surfaces(seed), weights(4, weighted=True)

    def loss(pairs: tuple[tuple[int, int], ...]) -> float:
        return sum(w * s[p] ** 2 for w, s, p in zip(by, found, pairs))

    fits = (p for p in product(PAIRS, repeat=4) if sum(map(sum, p)) <= total)
    best = min(map(loss, fits))
    chosen = within_budget(found, total, by)
    assert sum(map(sum, chosen)) <= total
    assert loss(tuple(chosen)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(5))
def test_an_error_budget_is_kept_by_the_smallest_pairs(seed: int) -> None:
    found, by = surfaces(seed), weights(4, weighted=False)
    error = 0.25
    for surface, pair in zip(found, within_error(found, error, by)):
        fits = [p for p in PAIRS if surface[p] <= error]
        if fits:
            assert surface[pair] <= error
            assert sum(pair) == min(map(sum, fits))
        else:
            assert surface[pair] == min(surface.values())


@pytest.mark.parametrize("total", [32, 41, 50, 64])
def test_the_error_budget_for_a_size_is_the_least_that_fits(total: int) -> None:
    found, by = surfaces(1), weights(4, weighted=True)
    errors = sorted(w * loss for surface, w in zip(found, by) for loss in surface.values())
    ways = [within_error(found, error, by) for error in errors]
    fits = [way for way in ways if sum(map(sum, way)) <= total]
    assert error_for(found, total, by) == fits[0]


def test_more_weight_is_never_less_rank() -> None:
    same = [surfaces(0, 1)[0]] * 8
    pairs = within_budget(same, 8 * 12, weights(8, weighted=True))
    sizes = [sum(pair) for pair in pairs]
    assert min(sizes[:2]) >= max(sizes[2:6])
    assert min(sizes[6:]) >= max(sizes[2:6])


def test_a_front_has_no_pair_that_another_beats() -> None:
    surface = surfaces(3)[0]
    kept = front(surface)
    for pair in PAIRS:
        assert any(sum(k) <= sum(pair) and surface[k] <= surface[pair] for k in kept)
    assert [sum(k) for k in kept] == sorted({sum(k) for k in kept})
    assert [surface[k] for k in kept] == sorted((surface[k] for k in kept), reverse=True)


def test_a_budget_too_small_for_any_ranks() -> None:
    for way in (within_budget, error_for):
        with pytest.raises(ValueError, match=r"32 over all layers are the least .* budget is 31"):
            way(surfaces(0), 31, weights(4, weighted=False))
