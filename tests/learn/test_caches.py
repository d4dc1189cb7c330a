"""Other ways to a smaller cache: closed forms, and that bytes are the techniques'."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test-learn)")

from sim.learn.bases import Bases, LowRank  # noqa: E402
from sim.learn.caches import HeavyHitters, Quantised, Sinks  # noqa: E402
from sim.learn.decoder import WHOLE, Sizes, causal  # noqa: E402
from sim.techniques.kv_quantised import Options, _bytes_of  # noqa: E402

SIZES = Sizes("any", 2, 4, 2, 64, 100, 1e4, 1e-5, "halves", 512)


def qkv(tokens: int = 40, d: int = 64) -> tuple:
    torch.manual_seed(0)
    return tuple(torch.randn(2, heads, tokens, d) for heads in (4, 2, 2))


@pytest.mark.parametrize(("form", "bits"), [("int4", 4), ("int2", 2)])
def test_a_number_is_off_by_half_a_step_at_most(form: str, bits: int) -> None:
    _, k, v = qkv(64)
    cache = Quantised(form, 32)
    for x, got, along in ((k, cache.turned(0, k), 2), (v, cache.values(0, v), 3)):
        groups = x.unfold(along, 32, 32)
        step = (groups.amax(-1) - groups.amin(-1)) / (2**bits - 1)
        off = (got - x).unfold(along, 32, 32).abs().amax(-1)
        assert bool((off <= 0.5 * step * 1.01 + 4e-3).all())  # 16 bits of scale and zero point
        assert int(got.unfold(along, 32, 32)[0, 0, 0, 0].unique().numel()) <= 2**bits


def test_fp8_keeps_three_bits_of_mantissa() -> None:
    _, k, _ = qkv()
    got = Quantised("fp8").turned(0, k)
    large = k.abs() > k.abs().max() / 1000
    assert float(((got - k).abs() / k.abs())[large].max()) <= 2**-4 * 1.001
    torch.testing.assert_close(Quantised("fp8").keys(0, k), k)  # before RoPE: as they are


@pytest.mark.parametrize("form", ["fp8", "int4", "int2"])
@pytest.mark.parametrize("group", [16, 32, 128])
def test_bytes_are_those_of_the_technique(form: str, group: int) -> None:
    options = Options(format=form, group=None if form == "fp8" else group)
    got = Quantised(form, group).bytes_per_token(SIZES, 100)
    assert got == pytest.approx(2 * 2 * 64 * sum(_bytes_of(options, 64)))


def test_coordinates_are_quantised_in_a_low_rank() -> None:
    _, k, v = qkv(64)
    eye = torch.eye(64)[:, :32]
    low = LowRank([Bases(eye, eye.expand(2, 64, 32))] * 2)
    both = Quantised("int4", 32, low)
    assert bool((both.keys(0, k)[..., 32:] == 0).all())
    torch.testing.assert_close(
        both.values(0, v)[..., :32], Quantised("int4", 32).values(0, v[..., :32])
    )
    whole = Quantised("int4", 32).bytes_per_token(SIZES, 100)
    assert both.bytes_per_token(SIZES, 100) == whole / 2


def test_sinks_see_the_first_and_the_newest() -> None:
    q, k, v = qkv()
    got = Sinks(window=6, first=3).attend(0, q, k, v)
    for t in (0, 5, 9, 30):
        seen = sorted({*range(min(3, t + 1)), *range(max(t - 6, 0), t + 1)})
        weights = (k[0, 1, seen] @ q[0, 3, t] / math.sqrt(64)).softmax(0)
        torch.testing.assert_close(got[0, 3, t], weights @ v[0, 1, seen])


def test_heavy_hitters_by_a_plain_loop() -> None:
    q, k, v = qkv(24)
    got = HeavyHitters(8).attend(0, q, k, v)
    kept: list[int] = []
    score = dict.fromkeys(range(24), 0.0)
    for t in range(24):
        kept.append(t)
        rows = [(k[0, 1, kept] @ q[0, head, t] / math.sqrt(64)).softmax(0) for head in (2, 3)]
        torch.testing.assert_close(got[0, 3, t], rows[1] @ v[0, 1, kept], atol=1e-5, rtol=1e-5)
        for row in rows:
            for at, weight in zip(kept, row.tolist()):
                score[at] += weight
        if len(kept) > 8:
            old = [at for at in kept if at <= t - 4]
            kept.remove(min(old, key=lambda at: score[at]))


@pytest.mark.parametrize("way", [Sinks(40, 4), HeavyHitters(40)])
def test_a_cache_that_holds_all_changes_nothing(way: Sinks) -> None:
    q, k, v = qkv()
    torch.testing.assert_close(way.attend(0, q, k, v), causal(q, k, v), atol=1e-5, rtol=1e-5)
    assert way.bytes_per_token(SIZES, 40) == WHOLE.bytes_per_token(SIZES, 40)
    assert way.bytes_per_token(SIZES, 400) == pytest.approx(
        WHOLE.bytes_per_token(SIZES, 400) * way.kept / 400
    )


def test_eviction_on_top_of_a_low_rank_has_the_bytes_of_both() -> None:
    sizes = replace(SIZES, layers=1)
    eye = torch.eye(64)[:, :16]
    low = LowRank([Bases(eye, eye.expand(2, 64, 16))])
    assert Sinks(96, 4, low).bytes_per_token(sizes, 400) == 2 * 2 * (16 + 16) / 4
