"""One cost: a tier that is put into the table changes what is played, priced, compiled, calibrated
and told in closed form, all alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from machines import DEVICE, MODEL, graph, group, network

from sim.calibrate.work import Measured, work_of
from sim.engine.lines import features_of_batch
from sim.engine.pipeline import run_static
from sim.engine.played_prices import PlayedPrices
from sim.engine.pricing import pricing
from sim.engine.replay import Kind, player, serve_fleet
from sim.engine.steps import StaticBatch
from sim.graph.batch import Batch, decode_batch, prefill_batch
from sim.graph.graph import After, Graph, Layer, Op, Tensor
from sim.hardware import cost as costs
from sim.hardware.cost import OpCost, Sizes, Tier, alone, cost, is_straight, roofline
from sim.hardware.device import Fact, slower
from sim.serving.fleet import ROW_SUMS, Rules, plain_arrivals, pool_of, replica_of
from sim.serving.step_time import steps_seconds

CHIP = replace(DEVICE, l2_bytes=30e6)  # weights do not stay in it
DENSE = replace(MODEL, layers=2)
RULES = Rules(0, 0, 0, True, False, 0, False, True)


def of(*kernels):
    return lambda kernel, device: kernel in kernels


def twice(op, device):
    """A straight tier: another card for two kinds of kernel."""
    found = roofline(op, device)
    return found._replace(
        fixed_s=2 * found.fixed_s,
        arithmetic_s=3 * found.arithmetic_s,
        hbm_limit=device.hbm_bytes_per_s / 2,
        l2_limit=device.l2_bytes_per_s / 40,
        unhidden=0.3,
    )


def curve(op, device):
    """Small GEMMs are slow; large ones it knows nothing of."""
    return OpCost(3e-6, 2e-9 * op.flop**0.4) if op.flop < 3e10 else None


def by_context(op, device):
    return roofline(op, device)._replace(
        arithmetic_s=5e-6 + 1e-11 * op.flop**0.9 + 1e-11 * op.hbm_bytes
    )


def recorded(op, device):
    """Durations of some ops by name."""
    seconds = {"o": 90e-6, "down": 120e-6}.get(op.name)
    return None if seconds is None else OpCost(0.0, seconds)


TOYS = {
    "straight": Tier("toy", of("matmul", "attention"), twice, straight=True),
    "curve": Tier("toy", of("matmul"), curve),
    "context": Tier("toy", of("attention"), by_context),
    "recorded": Tier("toy", of("matmul"), recorded),
}


def asked_of(batch: Batch) -> Graph:
    return graph(batch, model=DENSE, ranks=1, device=CHIP)


def closed_s(batch: Batch) -> float:
    ops = [op for _, op in asked_of(batch).ops() if not op.idle]
    return float(sum(alone(op, CHIP).seconds for op in ops))


def played_s(batch: Batch) -> float:
    some = group(CHIP, 1)
    some.env.run(some.env.process(some.run(asked_of(batch))))
    return some.env.now


def calibrated_s(batch: Batch) -> float:
    """Each op as a column of two rows: this one, and one of another size."""
    one, other = (
        [op for _, op in asked_of(each).ops() if not op.idle] for each in (batch, decode_batch([9]))
    )
    rows = Measured(tuple(map(work_of, zip(one, other))), (), np.ones(2))
    return float(rows.predicted(CHIP)[0])


def form():
    return pricing(asked_of, CHIP, network(2), 1, DENSE.patterns)


def priced_s(batch: Batch) -> float:
    found, priced = np.array(features_of_batch(DENSE.patterns, batch)), form()
    table = priced.table(2000, 100)
    sums = np.zeros((table.times.shape[1], ROW_SUMS))
    return steps_seconds(table, 0, found, 0 * found, 1, sums)


def served(kind: Kind, expected: float, jump: bool = True) -> np.ndarray:
    """When requests are done."""
    asked = plain_arrivals(
        np.array([0.0, 1e-3, 2e-3]), np.array([700, 30, 300]), np.array([40, 9, 20])
    )
    replicas = replica_of(1, 16, 512, 16, 10_000)
    pools = pool_of(0, 1)
    rules = RULES._replace(jump=jump)
    found = [*serve_fleet([asked], rules, replicas, pools, [kind], expected=expected)]
    records = found[-1][0]
    return np.concatenate([records.first_s, records.last_s])


BATCHES = [decode_batch([5]), decode_batch(range(700, 740)), prefill_batch([700, 3])]


@pytest.mark.parametrize("batch", BATCHES, ids=["one", "decode", "prefill"])
@pytest.mark.parametrize("name", TOYS)
def test_a_tier_changes_every_cost_alike(name, batch, monkeypatch):
    plain_s = closed_s(batch)
    ways = [closed_s, played_s, calibrated_s, priced_s]
    assert [way(batch) for way in ways] == pytest.approx([plain_s] * 4, rel=1e-9)
    monkeypatch.setattr(costs, "TIERS", [TOYS[name], *costs.TIERS])
    if name == "context":  # more than one feature counts: it is on no table, and found per batch
        assert form() is None
        ways.remove(priced_s)
    told = [way(batch) for way in ways]
    assert told == pytest.approx([told[0]] * len(ways), rel=1e-9)
    assert told[0] != pytest.approx(plain_s, rel=1e-3)


@pytest.mark.parametrize("name", TOYS)
def test_a_tier_changes_what_is_served_alike(name, monkeypatch):
    """Every op played is the judge; compiled code runs where it is installed."""
    before = served(Kind(form(), DENSE.patterns), 0.0)
    monkeypatch.setattr(costs, "TIERS", [TOYS[name], *costs.TIERS])
    priced, some = form(), group(CHIP, 1, graph_of=asked_of)
    judge = served(Kind(None, DENSE.patterns, player([[some]])), 0.0, jump=False)
    told = (
        Kind(priced, DENSE.patterns)
        if priced
        else Kind(
            None, DENSE.patterns, PlayedPrices(group(CHIP, 1, graph_of=asked_of), DENSE.patterns)
        )
    )
    for expected in (0.0, 1e9):
        assert served(told, expected) == pytest.approx(judge, rel=1e-9)
    assert np.abs(judge / before - 1).max() > 1e-3


@pytest.mark.parametrize("name", TOYS)
def test_no_line_is_drawn_through_what_bends(name, monkeypatch):
    monkeypatch.setattr(costs, "TIERS", [TOYS[name], *costs.TIERS])
    work = StaticBatch(3, 500, 40)
    sampled, every = (
        run_static(
            [lambda lines: group(CHIP, 1, lines, graph_of=asked_of)],
            work._replace(every_step=each),
            None,
        ).totals.seconds
        for each in (False, True)
    )
    assert sampled == pytest.approx(every, rel=1e-9)


def test_tiers_answer_in_order_or_pass_on(monkeypatch):
    small, large = (Sizes("matmul", "matrix", "fp16", flop) for flop in (1e9, 1e12))
    plain = cost(large, CHIP)
    assert plain.tier == "roofline" and is_straight(large, CHIP)
    monkeypatch.setattr(costs, "TIERS", [TOYS["curve"], *costs.TIERS])
    assert [cost(op, CHIP).tier for op in (small, large)] == ["toy", "roofline"]
    assert cost(large, CHIP) == plain
    assert not is_straight(large, CHIP), "where it passes on depends on the size"
    norm = Sizes("norm", "vector", "fp16", 1e9)
    assert is_straight(norm, CHIP) and cost(norm, CHIP).tier == "roofline"
    monkeypatch.setattr(costs, "TIERS", [TOYS["curve"]])
    with pytest.raises(ValueError, match="no tier knows what matmul costs on test chip"):
        cost(large, CHIP)


def test_an_answer_says_how_sure_it_is():
    facts = {
        "vector_flop_per_s": Fact("", "READ", ""),
        "hbm_efficiency": Fact("", "FITTED", ""),
        "kernels.attention.overhead_s": Fact("", "INFER", ""),
    }
    card = replace(costs.with_kernel(CHIP, "attention", overhead_s=9e-6), facts=facts)
    told = [cost(Sizes(kernel, "matrix", "fp16"), card).sure for kernel in ("matmul", "absorb")]
    assert told == ["FITTED", "INFER"], "absorb is like attention"


def test_a_slower_device_computes_and_reads_slower_and_starts_as_quickly():
    op = Sizes("matmul", "matrix", "fp16", 4e11, 0.0, 1e9, 1e6)
    one, other = alone(op, CHIP), alone(op, slower(CHIP, 1.5))
    assert other.arithmetic_s == pytest.approx(1.5 * one.arithmetic_s)
    assert other.hbm_s == pytest.approx(1.5 * one.hbm_s)
    assert other.l2_s == one.l2_s and other.fixed_s == one.fixed_s


# Names are as many as a graph has.


def many(batch: Batch) -> Graph:
    """A layer of 600 ops with a weight each."""
    ops = []
    for i in range(600):
        weight = Tensor(f"w{i}", 1e6, "weight")
        after = (After(f"op {i - 1}"),) if i else ()
        flop = 2e9 * batch.tokens
        ops.append(
            Op(f"op {i}", "matmul", engine="matrix", flop=flop, reads=(weight,), after=after)
        )
    layer = Layer("wide", tuple(ops))
    return Graph((layer, layer))


def test_a_graph_of_600_op_names_plays_and_prices():
    batch = decode_batch([1] * 3)
    some = group(CHIP, 1)
    some.env.run(some.env.process(some.run(many(batch))))
    assert some.env.now == pytest.approx(1200 * (4e-6 + 6e9 / 400e12), rel=1e-9)
    assert some.chips[0].hbm.moved == pytest.approx(1.2e9), "each weight is memory of its own"
    priced = pricing(many, CHIP, network(2), 1, DENSE.patterns)
    assert priced.table(10, 10).of_tokens[0, 3] == pytest.approx(some.env.now, rel=1e-9)


def test_a_fourth_stream_has_a_name_and_shares_the_engines():
    ten_us = 10e12 * 10e-6
    ops = [
        Op(name, "norm", stream, "vector", flop=ten_us)
        for name, stream in zip("ab", ("compute", "side"))
    ]
    ops.append(Op("c", "norm", engine="vector", flop=ten_us, after=(After("b"),)))
    some = group(CHIP, 1)
    some.env.run(some.env.process(some.run(Graph((Layer("l", tuple(ops)),)))))
    assert some.env.now == pytest.approx(5e-6 + 20e-6 + 5e-6 + 10e-6, rel=1e-9), (
        "a beside b, then c"
    )
    totals = some.chips[0].totals
    assert totals.span_s["side"] == pytest.approx({"norm": 25e-6})
    assert totals.span_s["compute"] == pytest.approx({"norm": 40e-6})
