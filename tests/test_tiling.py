"""What a GEMM reads from HBM, by what L2 holds of its operands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import DEVICE, MODEL, graph, group, network, replace, seconds

from sim.engine.lines import features_of_batch
from sim.engine.pricing import pricing
from sim.graph.batch import decode_batch, prefill_batch
from sim.hardware.tiling import Tiles, operand_bytes
from sim.serving.fleet import ROW_SUMS
from sim.serving.step_time import steps_seconds

TILES = Tiles(128, 256, 24)
CHIP = replace(DEVICE, tile_rows=128.0, tile_columns=256.0, cores=24.0)


def read(rows, inner, columns, l2_bytes):
    return float(operand_bytes(rows, columns, rows * inner, inner * columns, l2_bytes, TILES))


def test_by_hand():
    """Of 7,680 x 7,168 with K = 8,192 in int8 a wave is 6 x 4 tiles: panels of 768 rows and 1,024
    columns, 14.7 MB."""
    a, b = 7_680 * 8_192, 8_192 * 7_168
    panels = (768 + 1_024) * 8_192
    assert read(7_680, 8_192, 7_168, b) == a + b
    wave, blocks = a * 7_168 / 1_024 + b * 7_680 / 768, min(a, b) + a * b / panels
    assert read(7_680, 8_192, 7_168, panels) == pytest.approx(min(wave, blocks))
    alone = a * 28 + b * 60
    assert read(7_680, 8_192, 7_168, panels / 2) == pytest.approx((wave + alone) / 2)


@given(
    st.integers(1, 50_000),
    st.integers(64, 16_384),
    st.integers(64, 30_000),
    st.floats(1e5, 3e8),
    st.floats(1e5, 3e8),
)
def test_less_l2_never_reads_less_nor_anything_less_than_once(rows, inner, columns, one, other):
    small, large = sorted((one, other))
    a, b = rows * inner, inner * columns
    few, many = read(rows, inner, columns, large), read(rows, inner, columns, small)
    assert (a + b) * (1 - 1e-12) <= few <= many * (1 + 1e-12)
    assert many <= (a * -(-columns // 256) + b * -(-rows // 128)) * (1 + 1e-12)


@given(st.integers(1, 128), st.integers(64, 16_384), st.integers(64, 30_000))
def test_a_decode_step_reads_its_weights_once(rows, inner, columns):
    """Whose input fits."""
    assert read(rows, inner, columns, 2.2e6) == rows * inner + inner * columns


def test_columns_of_rows_are_as_one_by_one():
    rows = np.array([1.0, 300.0, 5e3, 5e4])
    found = operand_bytes(rows, 7_168, rows * 8_192, 8_192 * 7_168, 4e6, TILES)
    assert found == pytest.approx([read(each, 8_192, 7_168, 4e6) for each in rows])


def test_a_small_l2_slows_a_prefill_and_no_decode_step():
    def took(batch, l2_bytes):
        device = replace(CHIP, l2_bytes=l2_bytes, matrix_flop_per_s={"fp16": 2e14, "int8": 4e14})
        return seconds(graph(batch, device=device), device)

    long, step = prefill_batch([8_000]), decode_batch([8_000] * 4)
    assert took(long, 1e6) > took(long, 4e6) * 1.05 > took(long, 100e6)
    assert took(step, 2e6) == pytest.approx(took(step, 100e6), rel=1e-3)


def test_a_card_without_tiles_reads_everything_once():
    batch = prefill_batch([8_000])
    times = {seconds(graph(batch), replace(DEVICE, l2_bytes=size)) for size in (9e6, 1e6)}
    assert len(times) == 1


@pytest.mark.parametrize("l2_bytes", [1e6, 3e6, 8e6])
def test_what_is_priced_is_what_is_played(l2_bytes):
    device = replace(CHIP, l2_bytes=l2_bytes)

    def graph_of(batch):
        return graph(batch, device=device)

    form = pricing(graph_of, device, network(8), 8, MODEL.patterns)
    assert form is not None
    table = form.table(6_000, 16)
    for batch in (prefill_batch([300]), prefill_batch([5_000, 900]), decode_batch([50] * 12)):
        some = group(device, 8)
        some.env.run(some.env.process(some.run(graph_of(batch))))
        found = np.array(features_of_batch(MODEL.patterns, batch))
        sums = np.zeros((table.times.shape[1], ROW_SUMS))
        priced_s = steps_seconds(table, 0, found, 0 * found, 1, sums)
        assert priced_s == pytest.approx(some.env.now, rel=1e-8)


def test_the_model_has_gemms_with_their_sizes():
    up = graph(prefill_batch([100])).layers[1].op("gate_up")
    assert up.gemm == (100, 2 * MODEL.ffn / 8, MODEL.hidden)
