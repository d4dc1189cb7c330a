"""What fills L2 ahead of use: the copy engine's laws, what keeps what it brought, and what it costs
to be late or to guess."""

from __future__ import annotations

import pytest
from machines import DEVICE, MODEL, graph, group, recorded, replace, seconds

from sim import catalog
from sim.graph.batch import decode_batch
from sim.graph.graph import Graph, Layer, Op, Tensor
from sim.graph.model import Experts
from sim.hardware.residency import Residency
from sim.reproduce import silicon
from sim.scenario import ScenarioError

DECODE = decode_batch([8000] * 4)
MIXTURE = replace(MODEL, experts=Experts(routed=64, chosen=4, ffn=2048))


def fetch(name, nbytes, stream="prefetch", **more):
    tensor = Tensor(name, nbytes, "weight")
    return Op(f"fetch {name}", "prefetch", stream, reads=(tensor,), **more)


def use(name, nbytes):
    return Op(f"use {name}", "matmul", engine="matrix", reads=(Tensor(name, nbytes, "weight"),))


def played(*ops, device=DEVICE):
    timeline, some = recorded(Graph((Layer("l", ops),)), device, ranks=1)
    return {span.name.removeprefix("l 0: "): span for span in timeline.spans}, some


def engine(**numbers):
    return replace(DEVICE, **{f"prefetch_{name}": value for name, value in numbers.items()})


@pytest.mark.parametrize(
    ("shared", "rate"), [(None, 100e9), (60e9, 60e9)], ids=["as of one", "less than one"]
)
def test_several_streams_share_what_the_engine_does_together(shared, rate):
    """Two copies of 10 MB, and 5 MB more of the first alone."""
    device = engine(bytes_per_s=100e9, shared_bytes_per_s=shared)
    spans, _ = played(fetch("a", 15e6), fetch("b", 10e6, "prefetch 2"), device=device)
    both_s = 1e-6 + 20e6 / rate
    assert spans["fetch b"].end_s == pytest.approx(both_s)
    assert spans["fetch a"].end_s == pytest.approx(both_s + 5e6 / 100e9)


def test_a_kernel_beside_a_copy_is_slowed_by_more_than_its_bytes():
    """A copy at 400 GB/s leaves 600 of 1,000 GB/s, and 400 where the two get four fifths."""
    for share, rate in ((None, 600e9), (0.8, 400e9)):
        device = engine(bytes_per_s=400e9, overhead_s=0.0, hbm_share=share)
        spans, _ = played(fetch("a", 400e6), use("b", 100e6), device=device)
        # The copy has a head start of the kernel's launch.
        assert spans["use b"].end_s == pytest.approx(4e-6 + 100e6 / rate)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 1.0])
def test_so_many_issues_are_slow_and_the_same_in_every_pass(share):
    device = engine(tail_s=200e-6, tail_share=share or None)
    layers = tuple(Layer("l", (fetch("a", 1e3),)) for _ in range(400))
    some = group(device, 1)
    took = []
    for _ in range(2):
        before = some.env.now
        some.env.run(some.env.process(some.run(Graph(layers))))
        took.append(some.env.now - before)
    slow = (took[1] - 400 * 1e-6) / 199e-6  # nothing is left to move in the second pass
    assert slow == pytest.approx(400 * share, abs=1.01)
    assert took[0] == pytest.approx(took[1] + 400 * 1e3 / 1e12)


def test_an_issue_takes_its_time_even_if_a_kernel_was_first():
    device = engine(overhead_s=50e-6)
    spans, some = played(fetch("a", 1e6), use("a", 1e6), fetch("b", 0.0), device=device)
    assert spans["fetch a"].end_s == pytest.approx(50e-6)
    assert some.chips[0].hbm.moved == pytest.approx(1e6)


def test_what_streams_through_evicts_what_was_prefetched_unless_a_part_is_set_aside():
    """Experts of three times the L2 between a prefetch and its use."""

    def moved(device):
        wait = Op("wait", "norm", engine="vector", flop=10e12 * 100e-6)
        _, some = played(
            fetch("a", 50e6), wait, use("experts", 600e6), use("a", 50e6), device=device
        )
        return some.chips[0].hbm.moved, some.chips[0].residency.wasted

    assert moved(DEVICE) == pytest.approx((700e6, 50e6))
    assert moved(replace(DEVICE, l2_set_aside_bytes=60e6)) == pytest.approx((650e6, 0.0))
    # What does not fit in the part is lost.
    assert moved(replace(DEVICE, l2_set_aside_bytes=20e6)) == pytest.approx((680e6, 30e6))


def test_the_part_set_aside_drops_its_oldest_and_is_left_by_what_was_read():
    some = Residency(100.0, set_aside=50.0)
    some.fill("a", 30.0)
    some.fill("b", 30.0)
    assert (some.held("a"), some.held("b"), some.wasted) == (0.0, 30.0, 30.0)
    assert some.read("b", 40.0) == 30.0 and some.held("b") == 40.0
    assert (some.kept_bytes, some.used) == (0.0, 40.0)
    some.fill("b", 40.0)
    assert some.kept_bytes == 0.0


def test_experts_are_fetched_blindly_and_a_guess_goes_on_beside_the_kernel():
    """A kernel takes over the part that it reads; the rest of the copy moves its bytes in vain."""
    read, other = Tensor("w", 25e6, "weight"), Tensor("w not read", 75e6, "weight")
    guess = Op("fetch w", "prefetch", "prefetch", reads=(read, other))
    wait = Op("wait", "norm", engine="vector", flop=10e12 * 36e-6)  # 41 us with its launch
    spans, some = played(guess, wait, use("w", 25e6))
    # 40 MB were moved when the kernel came: 10 of its 25. It goes on after its launch, sharing HBM.
    chip = some.chips[0]
    assert chip.hbm.moved == pytest.approx(100e6)
    assert chip.totals.prefetched_bytes == pytest.approx(85e6)
    assert spans["use w"].hbm_bytes == pytest.approx(15e6)
    assert spans["use w"].end_s == pytest.approx(41e-6 + 4e-6 + 2 * 15e6 / 1e12)
    assert spans["fetch w"].end_s > spans["use w"].end_s


def test_the_first_experts_are_fetched_up_to_the_cap_and_so_many_will_be_read():
    plain = graph(DECODE, model=MIXTURE)
    up = next(t for t in plain.layers[1].op("experts_up").reads if t.kind == "weight")
    ways = {"prefetch": "experts", "ops": ["attention_norm"], "cap": 10e6}
    made = graph(DECODE, ("preserve", ways), model=MIXTURE)
    (op,) = [op for op in made.layers[1].ops if op.kind == "prefetch"]
    assert sum(t.nbytes for t in op.reads) == pytest.approx(10e6)
    assert op.reads[0].nbytes / 10e6 == pytest.approx(up.nbytes / up.held)
    assert op.name == "prefetch w_experts_up"


def test_anything_needs_no_collective_and_gains_more_than_collectives_do():
    alone, ahead = (
        graph(DECODE, ranks=1),
        graph(DECODE, ("preserve", {"under": "anything"}), ranks=1),
    )
    assert seconds(ahead, ranks=1) < seconds(alone, ranks=1)
    vanilla, collectives, anything = (
        seconds(graph(DECODE, *ways))
        for ways in ((), ("preserve",), (("preserve", {"under": "anything"}),))
    )
    assert anything < collectives < vanilla


@pytest.mark.parametrize("cap", [5e6, 20e6, 80e6])
def test_what_runs_ahead_waits_until_the_cap_has_room(cap):
    made = graph(DECODE, ("preserve", {"under": "anything", "cap": cap}))
    body = made.layers[2].ops
    places = {op.name: place for place, op in enumerate(body)}
    for place, op in enumerate(body):
        if op.kind != "prefetch" or not op.after or op.after[0].back:
            continue
        between = body[places[op.after[0].name] + 1 : place + 1]
        assert (
            sum(t.nbytes for o in between if o.kind == "prefetch" for t in o.reads) <= cap * 1.001
        )


def test_streams_take_turns():
    made = graph(DECODE, ("preserve", {"streams": 2}))
    streams = [op.stream for op in made.layers[2].ops if op.kind == "prefetch"]
    assert streams == ["prefetch", "prefetch 2", "prefetch", "prefetch 2", "prefetch"]


def test_ops_to_begin_with_are_there_and_no_second_way_beside():
    with pytest.raises(ValueError, match="no op nrm to prefetch under; it has embedding"):
        graph(DECODE, ("preserve", {"ops": ["nrm"]}))
    with pytest.raises(ValueError, match="are two ways; give one"):
        graph(DECODE, ("preserve", {"ops": ["norm"], "under": "anything"}))


def test_a_card_carries_both_engines_and_one_is_chosen_by_name():
    own, sdma = catalog.device("ascend_910b2"), catalog.device("ascend_910b2", engine="sdma")
    assert own.facts["prefetch_bytes_per_s"].tag == "INFER"
    assert own.prefetch_tail_share is None
    assert sdma.facts["prefetch_bytes_per_s"].tag == "READ"
    assert sdma.prefetch_bytes_per_s == own.prefetch_engines["sdma"].bytes_per_s == 285e9
    assert (sdma.prefetch_shared_bytes_per_s, sdma.prefetch_overhead_s) == (153e9, 20e-6)
    with pytest.raises(ValueError, match=r"no copy engine 'sdm'.*sdma.*it has sdma, sdma_cold"):
        catalog.device("ascend_910b2", engine="sdm")
    with pytest.raises(ValueError, match="has no copy engine 'sdma'; it has none beside its own"):
        catalog.device("h100_sxm", engine="sdma")


SCENARIO = """
question: q
pod: {topology: atlas_800t_a2, prefetch_engine: %s}
model: llama3-8b
parallel: {tensor: 4}
workload: {kind: decode, batch: 1, prompt_tokens: 64, output_tokens: 4}
techniques: [%s]
"""


@pytest.mark.parametrize(
    ("name", "technique", "message"),
    [
        ("sdmx", "preserve", "no copy engine 'sdmx'"),
        ("sdma", "fused_collective", "pod.prefetch_engine: nothing is prefetched"),
    ],
)
def test_an_engine_that_is_not_there_or_not_used_is_one_error(tmp_path, name, technique, message):
    from sim.run import run

    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO % (name, technique))
    with pytest.raises(ScenarioError, match=message):
        run(file)


def test_silicon_rows_have_the_engine_of_the_card_and_no_gain_fitted():
    case = silicon.Case(engine="sdma", cap_mb=10.0)
    assert case.slower == 1.0
    bare, fetched = silicon.one_gpu(silicon.Hint()), silicon.one_gpu(silicon.Hint(("experts_sum",)))
    assert 1.0 < fetched / bare < 1.1
