"""L2 residency against a plain list in order of use, and the roofline against arithmetic by
hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import DEVICE, MODEL, replace

from sim.graph.batch import decode_batch
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.hardware.cost import (
    Alone,
    Sizes,
    cost,
    hbm_bytes_per_s,
    kernel_of,
    matrix_flop_per_s,
    with_kernel,
)
from sim.hardware.device import Kernel
from sim.hardware.residency import Residency

SIZES = [10.0, 25.0, 40.0, 5.0, 60.0, 33.0]  # a tensor's size is its own
READS = st.lists(st.integers(0, len(SIZES) - 1), max_size=60)
TOUCHES = st.lists(
    st.tuples(st.booleans(), st.integers(0, len(SIZES) - 1), st.floats(0.1, 1.0)), max_size=60
)


def hits(capacity: float, reads: list[int]) -> list[float]:
    cache = Residency(capacity)
    return [cache.read(key, SIZES[key]) for key in reads]


@settings(max_examples=200)
@given(st.floats(1.0, 250.0), READS)
def test_reads_hit_what_lru_over_whole_ranges_holds(capacity, reads):
    order: list[int] = []  # most recently used last
    for key, hit in zip(reads, hits(capacity, reads)):
        assert hit == (SIZES[key] if key in order else 0.0)
        order = [each for each in order if each != key] + [key]
        while sum(SIZES[each] for each in order) > capacity:
            order.pop(0)


@settings(max_examples=300)
@given(st.floats(1.0, 250.0), st.floats(1.0, 250.0), st.lists(st.integers(0, 7), max_size=80))
def test_equal_ranges_hit_no_less_in_a_larger_cache(one, other, reads):
    """LRU inclusion: with ranges of one size a larger cache holds all that the smaller one
    holds."""

    def hit(capacity: float) -> list[float]:
        cache = Residency(capacity)
        return [cache.read(key, 25.0) for key in reads]

    assert all(small <= large for small, large in zip(hit(min(one, other)), hit(max(one, other))))


@settings(max_examples=300)
@given(st.floats(1.0, 250.0), TOUCHES)
def test_laws_of_any_mix_of_reads_and_prefetches(capacity, touches):
    cache = Residency(capacity)
    fetched = used = 0.0
    for prefetch, key, share in touches:
        before = cache.held(key)
        if prefetch:
            target = share * SIZES[key]
            if target > before:
                cache.fill(key, target)
                fetched += target - before
        else:
            fresh = cache.unread.get(key, 0.0)
            hit = cache.read(key, SIZES[key])
            assert hit == min(before, SIZES[key])
            used += min(fresh, SIZES[key])
        assert cache.used <= capacity * (1 + 1e-12)
        assert cache.used == pytest.approx(sum(cache.ranges.values()), abs=1e-9)
        # A fetched byte has been read, has been wasted, or waits in the cache: one of the three.
        assert fetched == pytest.approx(used + cache.wasted + sum(cache.unread.values()), abs=1e-9)
        assert all(cache.unread[each] <= cache.ranges[each] * (1 + 1e-12) for each in cache.unread)


def test_a_prefetch_makes_the_read_hit_and_is_not_wasted():
    cache = Residency(100.0)
    cache.fill("w", 60.0)
    assert cache.read("w", 80.0) == 60.0
    assert cache.read("w", 80.0) == 80.0
    assert cache.wasted == 0.0


def test_a_prefetch_that_is_pushed_out_is_wasted():
    cache = Residency(100.0)
    cache.fill("w", 60.0)
    cache.read("other", 70.0)
    assert cache.wasted == 60.0
    assert cache.read("w", 60.0) == 0.0


def test_a_range_larger_than_the_cache_leaves_nothing():
    cache = Residency(100.0)
    cache.read("small", 10.0)
    assert cache.read("stream", 101.0) == 0.0
    assert (cache.used, cache.held("small"), cache.held("stream")) == (0.0, 0.0, 0.0)


def took(device, engine, dtype, kind, flop, hbm, l2=0.0, lone_flop=0.0) -> Alone:
    """An op with the chip to itself."""
    return cost(Sizes(kind, engine, dtype, flop, lone_flop), device).alone(hbm, l2, device)


@settings(max_examples=100)
@given(st.floats(0, 1e13), st.floats(0, 1e10), st.floats(0, 1e9))
def test_roofline_is_the_largest_of_its_parts_and_a_fixed_cost(flop, hbm, l2):
    parts = {"compute": flop / 400e12, "HBM": hbm / 1e12, "L2": l2 / 5e12}
    found = took(DEVICE, "matrix", "fp16", "matmul", flop, hbm, l2)
    assert found.seconds == pytest.approx(4e-6 + max(parts.values()), rel=1e-12)
    assert found.bound == (
        "latency" if max(parts.values()) <= 4e-6 else max(parts, key=lambda name: parts[name])
    )


def test_efficiencies_and_formats():
    device = with_kernel(
        replace(DEVICE, matrix_efficiency=0.5, hbm_efficiency=0.8), "attention", hbm_efficiency=0.4
    )
    assert matrix_flop_per_s(device, "int8") == 400e12
    assert matrix_flop_per_s(device, "int4") == 400e12, "computed in the next wider format"
    narrow = with_kernel(device, "experts", matrix_efficiency_8bit=0.25)
    assert [matrix_flop_per_s(narrow, dtype, "experts") for dtype in ("int8", "fp16")] == [
        200e12,
        200e12,
    ]
    assert matrix_flop_per_s(narrow, "int8") == 400e12, "of that kind alone"
    assert hbm_bytes_per_s(device) == 0.8e12
    assert took(device, "matrix", "fp16", "matmul", 0, 8e9).seconds == pytest.approx(10e-3 + 4e-6)
    assert took(device, "matrix", "fp16", "attention", 0, 8e9).seconds == pytest.approx(
        20e-3 + 4e-6
    )
    assert took(device, "vector", "fp16", "norm", 10e9, 0).seconds == pytest.approx(1e-3 + 5e-6)
    with pytest.raises(ValueError, match="multiplies none of fp16"):
        matrix_flop_per_s(replace(DEVICE, matrix_flop_per_s={"int4": 1.0}), "fp16")


def test_what_a_gemm_does_not_hide_and_what_a_lone_query_costs():
    device = replace(
        DEVICE, kernels={"matmul": Kernel(overlap=0.75), "attention": Kernel(9e-6, 0.5, tile=64.0)}
    )
    assert took(device, "matrix", "fp16", "matmul", 400e9, 4e9).seconds == pytest.approx(
        4e-3 + 0.25e-3 + 4e-6
    )
    assert took(device, "matrix", "fp16", "matmul", 4e12, 4e9).seconds == pytest.approx(
        10e-3 + 1e-3 + 4e-6
    )
    assert took(device, "matrix", "fp16", "attention", 400e9, 1e9).seconds == pytest.approx(
        2e-3 + 9e-6
    )
    alone = took(device, "matrix", "fp16", "attention", 0.4e9, 1e9).seconds
    assert alone == pytest.approx(1e-3 + 9e-6), "a decode on its own waits for HBM"
    beside = took(device, "matrix", "fp16", "attention", 40e9, 1e9, lone_flop=20e9).seconds
    assert beside == pytest.approx((40e9 + 63 * 20e9) / 200e12 + 9e-6), (
        "beside prefill, each query costs a tile"
    )


def test_kinds_without_a_kernel_of_their_own_are_like_others():
    device = replace(
        DEVICE,
        kernels={"matmul": Kernel(overlap=0.75), "attention": Kernel(9e-6), "naive": Kernel()},
    )
    found = {
        kind: kernel_of(device, kind)
        for kind in ("absorb", "naive", "head_matmul", "experts", "norm")
    }
    assert found["absorb"] == Kernel(9e-6) and found["naive"] == found["norm"] == Kernel()
    assert found["head_matmul"] == found["experts"] == Kernel(overlap=0.75)
    own = with_kernel(device, "experts", hbm_efficiency=0.5)
    assert kernel_of(own, "experts") == Kernel(overlap=0.75, hbm_efficiency=0.5), (
        "what it was like, it stays"
    )
    assert kernel_of(own, "matmul") == Kernel(overlap=0.75)


def test_weights_that_are_unpacked_first_may_have_a_kernel_of_their_own():
    chip = with_kernel(
        with_kernel(DEVICE, "experts", overhead_s=1e-6), "experts@int4", overhead_s=9e-6
    )
    assert kernel_of(chip, "experts@int4").overhead_s == 9e-6
    assert kernel_of(chip, "experts@fp8") == kernel_of(chip, "experts"), (
        "those that the card does not tell of"
    )
    assert kernel_of(chip, "matmul@int4") == kernel_of(chip, "matmul")
    packed = Precision("int4", "bf16", "bf16", "bf16")
    layer = transformer(MODEL, packed, Parallel(), decode_batch([10])).layers[1]
    assert layer.op("qkv").kernel == "matmul@int4" and layer.op("attention").kernel == "attention"
    plain = transformer(
        MODEL, replace(packed, weights="bf16"), Parallel(), decode_batch([10])
    ).layers[1]
    assert plain.op("qkv").kernel == "matmul"
