"""Static batches: sampling contexts must give what playing every step gives, in time and in every
sum."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machines import DEVICE, MODEL, graph, group

from sim.engine.pipeline import run_static
from sim.engine.steps import StaticBatch
from sim.facts.outcome import Outcome
from sim.facts.timeline import Timeline
from sim.facts.totals import Totals
from sim.graph.model import Model

SPARSE = replace(MODEL, attention=("blocksparse", "dense"), window_tokens=1024, sparse_stride=8)
JOIN = ("preserve", {"join": True})
KV_ONLY = ("preserve", {"prefetch": "kv"})
TECHNIQUES = {
    "vanilla": (),
    "preserve": ("preserve",),
    "join": (JOIN,),
    "fused": ("fused_collective",),
    "both": ("fused_collective", "preserve"),
}


def static(
    work: StaticBatch,
    techniques=(),
    ranks=8,
    model: Model = MODEL,
    device=DEVICE,
    timeline=None,
    **more,
):
    """(outcome, number of graphs asked for)."""
    asked = []

    def graph_of(batch):
        asked.append(batch)
        return graph(batch, *techniques, model=model, ranks=ranks, device=device)

    return run_static(
        [lambda lines: group(device, ranks, lines, graph_of=graph_of)], work, timeline, **more
    ), len(asked)


def entries(totals: Totals) -> dict[tuple[str, ...], float]:
    """Every number of the totals, by its path."""
    flat: dict[tuple[str, ...], float] = {}

    def walk(path: tuple[str, ...], value) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk((*path, key), inner)
        else:
            flat[path] = value

    walk((), vars(totals))
    return flat


def assert_exact(work: StaticBatch, *args, **more) -> None:
    """Sampled and played agree to 1e-9, far inside the 1e-6 that is asked for."""
    sampled, _ = static(work, *args, **more)
    played, _ = static(work._replace(every_step=True), *args, **more)
    assert sampled.tokens == played.tokens
    assert sampled.part == pytest.approx(played.part, rel=1e-9)
    mine, theirs = entries(sampled.totals), entries(played.totals)
    assert {key for key, value in mine.items() if value} == {
        key for key, value in theirs.items() if value
    }
    # A sum of differences may leave dust where nothing moved: measured against the largest of its
    # kind.
    for key, value in theirs.items():
        scale = max(abs(v) for k, v in theirs.items() if k[0] == key[0])
        assert mine.get(key, 0.0) == pytest.approx(value, rel=1e-9, abs=1e-12 * scale), key


@pytest.mark.parametrize("model", [MODEL, SPARSE], ids=["dense", "blocksparse"])
@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("techniques", TECHNIQUES.values(), ids=TECHNIQUES)
def test_sampling_equals_every_step(techniques, ranks, model):
    assert_exact(StaticBatch(4, 3000, 120), techniques, ranks, model)


@pytest.mark.parametrize("l2_bytes", [2e6, 20e6, 1e9])
def test_sampling_equals_every_step_where_the_cache_ends_to_fit(l2_bytes):
    assert_exact(
        StaticBatch(4, 1200, 200), ("preserve",), 4, device=replace(DEVICE, l2_bytes=l2_bytes)
    )


@pytest.mark.parametrize("pattern", ["blocksparse", "window"])
def test_sampling_sees_the_context_cross_the_window(pattern):
    assert_exact(StaticBatch(4, 950, 150), (), 4, replace(SPARSE, attention=(pattern, "dense")))


def test_sampling_sees_a_prefetch_reach_its_cap():
    assert_exact(
        StaticBatch(8, 1, 300),
        (KV_ONLY,),
        2,
        device=replace(DEVICE, l2_bytes=2e6, hbm_bytes_per_s=4e12),
    )


def test_sampling_sees_an_op_leave_the_latency_bound():
    assert_exact(
        StaticBatch(4, 1, 300), (), 4, device=replace(DEVICE, l2_bytes=2e6, hbm_bytes_per_s=3e11)
    )


@pytest.mark.parametrize("output_tokens", [1, 2, 3])
def test_short_answers(output_tokens):
    work = StaticBatch(2, 500, output_tokens)
    assert_exact(work, ("preserve",))
    outcome, _ = static(work, ("preserve",))
    assert outcome.tokens == 2 * output_tokens
    assert outcome.totals.steps == output_tokens  # the prefill makes the first token
    phases = outcome.part
    whole_s = phases.prefill_s + phases.decode_s
    assert outcome.totals.seconds == pytest.approx(whole_s, rel=1e-12)
    assert (phases.decode_s > 0) == (output_tokens > 1)


def test_sampling_plays_few_steps_and_says_how_far_it_is():
    shares: list[float] = []
    outcome, graphs = static(StaticBatch(4, 8000, 4000), ("preserve",), progress=shares.append)
    assert graphs < 200
    assert outcome.totals.steps == pytest.approx(4000, rel=1e-12)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_two_runs_are_one():
    work = StaticBatch(3, 700, 100)

    def prints(techniques) -> Outcome:
        return static(work, techniques)[0]

    first, second = prints(("preserve",)), prints(("preserve",))
    assert first.fingerprint == second.fingerprint
    assert entries(first.totals) == entries(second.totals)
    assert first.fingerprint != prints(()).fingerprint


@pytest.mark.parametrize(("output_tokens", "passes"), [(1, 1), (2, 2), (50, 2)])
def test_the_timeline_shows_the_middle_and_changes_nothing(output_tokens, passes):
    work = StaticBatch(2, 300, output_tokens)
    timeline = Timeline()
    shown, _ = static(work, ("preserve",), timeline=timeline)
    hidden, _ = static(work, ("preserve",))
    assert shown.fingerprint == hidden.fingerprint
    assert entries(shown.totals) == entries(hidden.totals)
    assert sum("sampling" in span.name for span in timeline.spans) == passes
