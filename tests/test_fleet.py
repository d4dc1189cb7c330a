"""Serving at fleet scale: laws of any replay, both fidelities held to each other, and a queue of textbooks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import DEVICE, MODEL, graph, group, network, replace

from sim.engine.fleet import Chunk, player, serve_fleet, unpriced
from sim.engine.pricing import features_of_batch, pricing
from sim.serving import compiled
from sim.serving.fleet import POLICIES, ROUTERS, Rules
from sim.serving.step_time import steps_seconds
from sim.workload.transformer import Batch, Sequences, decode_batch, prefill_batch

DENSE = replace(MODEL, layers=2)
SPARSE = replace(MODEL, layers=3, attention=("dense", "blocksparse", "window"), window_tokens=60, sparse_stride=8)
NETWORK = network(2)
ROOMY = Rules(POLICIES["chunked"], 16, 512, 16, 10_000, False, ROUTERS["round_robin"], 0, True)


def graph_of(model, ranks, *techniques):
    return lambda batch: graph(batch, *techniques, model=model, ranks=ranks)


def priced(model=DENSE, ranks=1):
    form = pricing(graph_of(model, ranks), DEVICE, NETWORK, ranks, model)
    assert form is not None
    return form.table(4096, 64)


PRICES = {(model, ranks): priced(model, ranks) for model in (DENSE, SPARSE) for ranks in (1, 2)}


def chunk(rows):
    gaps, prompt, output = (np.array(column) for column in zip(*rows))
    return Chunk(np.cumsum(gaps) - gaps[0], prompt, output)


def served(asked, rules, replicas, price, play=None, expected=0.0, pieces=1):
    """Every record by id, and the fleet at the end."""
    parts = [Chunk(*columns) for columns in zip(*(np.array_split(column, pieces) for column in asked))]
    found = list(serve_fleet(parts, rules, replicas, price, play=play, expected=expected, rows=1))
    records = np.concatenate([records for records, _ in found]).view(np.recarray)
    return records[np.argsort(records.id, kind="stable")], found[-1][1]


TRACES = st.lists(
    st.tuples(st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 1.0]), st.integers(1, 300), st.integers(1, 40)),
    min_size=1, max_size=12,
).map(chunk)  # fmt: skip
RULES = st.builds(
    Rules, st.sampled_from([*POLICIES.values()]), st.integers(1, 6), st.integers(6, 600), st.sampled_from([1, 4, 16]),
    st.integers(340, 1000), st.booleans(), st.sampled_from([*ROUTERS.values()]), st.integers(0, 9), st.just(True),
).map(lambda rules: rules._replace(blocks=-(-rules.blocks // rules.block_tokens)))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(TRACES, RULES, st.integers(1, 3), st.sampled_from([*PRICES]), st.integers(1, 4))
def test_laws_of_any_replay(asked, rules, replicas, machine, pieces):
    records, fleet = served(asked, rules, replicas, PRICES[machine], pieces=pieces)
    assert records.id.tolist() == list(range(len(asked.arrival_s)))  # none lost, none twice
    assert (records.prompt == asked.prompt).all() and (records.output == asked.output).all()
    assert (records.arrival_s <= records.scheduled_s).all() and (records.scheduled_s < records.first_s).all()
    assert ((records.first_s < records.last_s) == (records.output > 1)).all()
    assert (fleet.replicas.free_blocks == rules.blocks).all()  # every block came back
    assert (fleet.replicas.running_count == 0).all() and (fleet.replicas.waiting_count == 0).all()
    if rules.reserve:
        assert not fleet.replicas.preemptions.any()


@settings(max_examples=25, deadline=None)
@given(TRACES, RULES, st.integers(1, 2), st.sampled_from([*PRICES]))
def test_step_is_op(asked, rules, replicas, machine):
    """Iterations priced and jumped over, against every op of every iteration played."""
    model, ranks = machine
    priced, _ = served(asked, rules, replicas, PRICES[machine])
    groups = [group(ranks=ranks, pod=NETWORK) for _ in range(replicas)]
    play = player(groups, graph_of(model, ranks))
    played, _ = served(asked, rules._replace(jump=False), replicas, unpriced(PRICES[machine]), play)
    for column in ("scheduled_s", "first_s", "last_s"):
        assert getattr(priced, column) == pytest.approx(getattr(played, column), rel=1e-9, abs=1e-12)
    assert (priced.replica == played.replica).all()


def test_tight_budget_preempts_and_still_serves_all():
    asked = chunk([(0.0, 100, 60)] * 8)
    records, fleet = served(asked, ROOMY._replace(blocks=24), 1, PRICES[DENSE, 1])
    assert fleet.replicas.preemptions[0] > 0 and len(records) == 8
    roomy, _ = served(asked, ROOMY, 1, PRICES[DENSE, 1])
    assert records.last_s.max() > roomy.last_s.max()


@pytest.mark.parametrize("machine", [*PRICES], ids=lambda machine: f"{len(machine[0].attention)} pattern")
def test_a_jump_is_the_sum_of_its_steps(machine):
    model, _ = machine
    price = PRICES[machine]
    first, second = (
        np.array(features_of_batch(model, decode_batch([c + i, 3 * c + i]))) for i in (0, 1) for c in (90,)
    )
    for steps in (1, 2, 7, 1000, 30_000):
        each = sum(steps_seconds(price, first + i * (second - first), 0 * first, 1) for i in range(steps))
        assert steps_seconds(price, first, second - first, steps) == pytest.approx(each, rel=1e-11)


@pytest.mark.parametrize("machine", [*PRICES], ids=lambda machine: f"{len(machine[0].attention)} pattern")
@pytest.mark.parametrize(
    "batch",
    [decode_batch([5]), decode_batch(range(40)), prefill_batch([700, 3]), Batch((Sequences(1, 256, 512), Sequences(9, 1, 80)), 9)],
    ids=["one", "decode", "prefill", "mixed"],
)  # fmt: skip
def test_closed_form_meets_the_play(machine, batch):
    model, ranks = machine
    some = group(ranks=ranks, pod=NETWORK)
    some.env.run(some.env.process(some.run(graph_of(model, ranks)(batch))))
    found = np.array(features_of_batch(model, batch))
    assert steps_seconds(PRICES[machine], found, 0 * found, 1) == pytest.approx(some.env.now, rel=1e-12)


def test_overlap_has_no_closed_form():
    assert pricing(graph_of(DENSE, 2, "preserve"), DEVICE, NETWORK, 2, DENSE) is None
    assert pricing(graph_of(DENSE, 2, "fused_collective"), DEVICE, NETWORK, 2, DENSE) is None


def test_weights_that_stay_in_l2_have_no_closed_form():
    roomy = replace(DEVICE, l2_bytes=64e9)
    assert pricing(graph_of(DENSE, 1), roomy, NETWORK, 1, DENSE) is None


def many(count, rate, seed=1):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 900, count), rng.integers(1, 60, count)
    return Chunk(np.cumsum(rng.exponential(1 / rate, count)), *lengths)


def test_compiled_is_interpreted():
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    for rules in (
        ROOMY._replace(blocks=150, sequences=12),
        ROOMY._replace(policy=0, router=2),
        ROOMY._replace(router=1),
    ):
        asked = many(1500, 300)
        quick, _ = served(asked, rules, 3, PRICES[SPARSE, 2], expected=1e9)
        slow, _ = served(asked, rules, 3, PRICES[SPARSE, 2])
        assert quick.tobytes() == slow.tobytes()


def test_waiting_of_a_deterministic_server():
    """M/D/1: W = rho d / (2 (1 - rho)), Pollaczek and Khinchine; one request at a time, each of equal length."""
    count = 1_000_000 if compiled.serve_for(1e9) is not compiled.serve_for(0) else 30_000
    price, rules = PRICES[DENSE, 1], ROOMY._replace(policy=POLICIES["prefill_first"], sequences=1)
    prompt, output = np.full(count, 100), np.ones(count, np.int64)
    one, _ = served(Chunk(np.zeros(1), prompt[:1], output[:1]), rules, 1, price)
    service_s = float(one.last_s[0])
    for load in (0.3, 0.7):
        gaps = np.random.default_rng(3).exponential(service_s / load, count)
        records, _ = served(Chunk(np.cumsum(gaps), prompt, output), rules, 1, price, expected=count, pieces=20)
        waited_s = (records.scheduled_s - records.arrival_s).mean()
        assert waited_s == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.02 if count > 100_000 else 0.15)
