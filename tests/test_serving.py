"""Replay of requests: laws of any queue first, then closed forms and the admission policy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import MODEL, graph, group, replace

from sim.engine.pool import Host
from sim.engine.service import Service, run_service
from sim.facts.outcome import Outcome
from sim.facts.requests import RequestRecord
from sim.graph.batch import decode_batch, prefill_batch
from sim.run import load, prepare
from sim.scenario import ScenarioError
from sim.serving.fleet import POLICIES, Rules, pool_of, replica_of
from sim.traces.columns import Columns
from tests.recordings import Request

SMALL = replace(MODEL, layers=1)


class Limits(NamedTuple):
    sequences: int
    new_tokens: int
    kv_tokens: int


ROOMY = Limits(sequences=64, new_tokens=8192, kv_tokens=1_000_000)


def requests(*rows: tuple[float, int, int]) -> list[Request]:
    return [Request(i, *row) for i, row in enumerate(rows)]


def served(
    asked: list[Request], limits: Limits = ROOMY, *techniques: str, op=True
) -> tuple[Outcome, list]:
    """(outcome, the batch of every iteration), prefill first, room reserved."""
    batches = []

    def graph_of(batch):
        batches.append(batch)
        return graph(batch, *techniques, model=SMALL, ranks=2)

    replica = replica_of(
        POLICIES["prefill_first"],
        limits.sequences,
        limits.new_tokens,
        1,
        limits.kv_tokens,
        reserve=True,
    )
    service = Service(
        Rules(0, 0, 0, not op, False, 0, False, True), replica, pool_of(0, 1), op, (0.0, 0.0)
    )
    _, arrival_s, prompt, output = zip(*asked)
    columns = Columns(np.array(arrival_s), np.array(prompt), np.array(output))
    outcome = run_service(
        [columns],
        service,
        [[Host(lambda timeline: group(ranks=2, timeline=timeline, graph_of=graph_of))]],
        None,
    )
    return outcome, batches[1:]  # the first only shows what attention there is


def rows(outcome: Outcome) -> list[RequestRecord]:
    """Those that were served."""
    done = outcome.requests.finished()
    return [
        RequestRecord(*row)
        for row in zip(*(getattr(done, name).tolist() for name in RequestRecord._fields))
    ]


def alone_s(*batches) -> float:
    """Time of passes played one after the other on a fresh group."""
    some = group(ranks=2)
    for batch in batches:
        some.env.run(some.env.process(some.run(graph(batch, model=SMALL, ranks=2))))
    return some.env.now


TRACES = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1e-5, 1e-4, 1e-3, 1.0]), st.integers(1, 900), st.integers(1, 5)
    ),
    min_size=1,
    max_size=8,
)
LIMITS = st.builds(Limits, st.integers(1, 5), st.integers(1, 1500), st.integers(200, 3000))


def arrivals(gaps) -> list[Request]:
    now, rows = 0.0, []
    for gap, prompt, output in gaps:
        now += gap if rows else 0.0
        rows.append((now, prompt, output))
    return requests(*rows)


@settings(max_examples=60, deadline=None)
@given(TRACES, LIMITS)
def test_laws_of_any_replay(gaps, limits):
    asked = arrivals(gaps)
    fits = [r for r in asked if r.prompt_tokens + r.output_tokens <= limits.kv_tokens]
    if not fits:
        return
    outcome, batches = served(asked, limits)
    records = rows(outcome)
    # Every request that fits ends once, unchanged, in a possible order of its events.
    assert [Request(*r[:4]) for r in records] == fits
    assert len(outcome.warnings) == (len(fits) < len(asked))
    for r in records:
        assert r.arrival_s <= r.scheduled_s + 1e-12
        assert r.scheduled_s < r.first_token_s <= r.last_token_s <= outcome.totals.seconds
        assert (r.first_token_s == r.last_token_s) == (r.output_tokens == 1)
    assert [r.scheduled_s for r in records] == sorted(r.scheduled_s for r in records), (
        "not first come, first scheduled"
    )
    # Tokens are conserved: every iteration makes one for each sequence that it works on.
    assert (
        outcome.tokens
        == sum(r.output_tokens for r in fits)
        == sum(batch.logits for batch in batches)
    )
    assert sum(g.new for b in batches for g in b.groups if g.past == 0) >= sum(
        r.prompt_tokens for r in fits
    )
    # Little's law as sums over the run: the area under the number in the system is the time that
    # each spent in it.
    area, present, last_s = 0.0, 0, 0.0
    for at_s, change in sorted(
        [(r.arrival_s, 1) for r in records] + [(r.last_token_s, -1) for r in records]
    ):
        area, present, last_s = area + present * (at_s - last_s), present + change, at_s
    assert area == pytest.approx(sum(r.last_token_s - r.arrival_s for r in records), rel=1e-9)
    # What is scheduled holds its slot and its KV-cache until its last token.
    for at_s in {r.scheduled_s for r in records}:
        inside = [r for r in records if r.scheduled_s <= at_s < r.last_token_s]
        assert len(inside) <= limits.sequences
        assert sum(r.prompt_tokens + r.output_tokens for r in inside) <= limits.kv_tokens
    assert all(len(batch.groups) <= limits.sequences for batch in batches)
    # It is idle when, and only when, there is nobody to serve.
    busy_s, end_s = 0.0, 0.0
    for r in records:
        busy_s += max(
            0.0,
            max(x.last_token_s for x in records if x.arrival_s <= r.arrival_s)
            - max(end_s, r.arrival_s),
        )
        end_s = max(end_s, max(x.last_token_s for x in records if x.arrival_s <= r.arrival_s))
    assert outcome.totals.seconds - outcome.totals.idle_s == pytest.approx(busy_s, rel=1e-9)
    again, _ = served(asked, limits)
    assert again.fingerprint == outcome.fingerprint
    assert rows(again) == records


def test_one_request_alone_is_its_prefill_and_its_steps():
    outcome, batches = served(requests((0.0, 300, 4)))
    passes = [prefill_batch([300]), decode_batch([300]), decode_batch([301]), decode_batch([302])]
    assert batches == passes
    (record,) = rows(outcome)
    assert record.first_token_s == pytest.approx(alone_s(passes[0]), rel=1e-12)
    assert record.last_token_s == pytest.approx(alone_s(*passes), rel=1e-12)
    assert outcome.totals.idle_s == 0.0


def test_a_request_that_comes_late_is_served_as_the_first_one_was():
    late, _ = served(requests((0.0, 300, 3), (5.0, 300, 3)))
    first, second = rows(late)
    assert second.scheduled_s == 5.0
    assert late.totals.idle_s == pytest.approx(5.0 - first.last_token_s, rel=1e-12)
    assert late.totals.seconds - late.totals.idle_s == pytest.approx(
        2 * first.last_token_s, rel=0.1
    )


def test_simultaneous_arrivals_share_a_prefill():
    outcome, batches = served(requests((0.0, 100, 2), (0.0, 200, 3), (0.0, 50, 1)))
    assert batches == [prefill_batch([100, 200, 50]), decode_batch([100, 200]), decode_batch([201])]
    assert {r.first_token_s for r in rows(outcome)} == {alone_s(batches[0])}


def test_a_request_that_never_fits_is_refused_with_a_warning():
    outcome, _ = served(
        requests((0.0, 100, 2), (0.0, 5000, 3), (0.1, 100, 2)), ROOMY._replace(kv_tokens=5002)
    )
    assert [r.id for r in rows(outcome)] == [0, 2]
    (warning,) = outcome.warnings
    assert "1 of 3 requests rejected" in warning
    assert "request 1 with 5,003" in warning


def test_a_full_cache_makes_the_next_one_wait_for_the_end():
    outcome, _ = served(requests((0.0, 100, 5), (0.0, 100, 5)), ROOMY._replace(kv_tokens=209))
    first, second = rows(outcome)
    assert second.scheduled_s == first.last_token_s


def test_technique_changes_times_and_no_tokens():
    asked = requests((0.0, 700, 5), (0.0, 300, 8), (0.001, 20, 2))
    plain, fetched = served(asked)[0], served(asked, ROOMY, "preserve")[0]
    assert plain.tokens == fetched.tokens
    assert fetched.totals.seconds < plain.totals.seconds
    assert plain.fingerprint != fetched.fingerprint


QUEUE = requests((0.0, 100, 10), (0.0, 4000, 10), (0.0, 50, 10))


@pytest.mark.parametrize(
    ("kv", "slots", "budget", "admitted"),
    [
        (10**6, 64, 8192, [0, 1, 2]),
        (10**6, 2, 8192, [0, 1]),
        (10**6, 64, 4100, [0, 1]),
        (10**6, 64, 200, [0]),  # the head of the line blocks, though the last one would fit
        (4120, 64, 8192, [0, 1]),
        (4119, 64, 8192, [0]),
        (10**6, 64, 99, [0]),  # a prompt above the budget goes alone
    ],
)
@pytest.mark.parametrize("op", [True, False], ids=["op", "step"])
def test_first_come(kv, slots, budget, admitted, op):
    outcome, _ = served(QUEUE, Limits(slots, budget, kv), op=op)
    assert [r.id for r in rows(outcome) if r.scheduled_s == 0.0] == admitted


SCENARIO = """question: x
pod: {topology: dgx_h100}
model: llama3-8b
workload:
  kind: requests
  trace: {file: azure_conv_like, limit: 10}
  replicas: 2
  """


@pytest.mark.parametrize(
    "written, said",
    [
        (
            "failures: [{replica: 5, at: 1 s}]",
            "8: workload.failures[0].replica: no replica 5; they are 0 to 1",
        ),
        (
            "failures: [{replica: 0, at: 1 s}, {replica: 1, at: 2 s}]",
            "8: workload.failures: no replica would be left",
        ),
        ("slow: {3: 2.0}", "8: workload.slow[3]: no replica 3; they are 0 to 1"),
        (
            "autoscale: {least: 3}",
            "8: workload.autoscale.least: 3 is more than there are; at most 2",
        ),
        ("autoscale: {every: 0 s}", "8: workload.autoscale.every: '0 s' is out of range"),
        ("admission: {shed: true}", "8: workload.admission.shed: this needs a deadline"),
        ("admission: {shares: [0.5, 0.6]}", "shares must add up to 1, not 1.1"),
        ("admission: {order: priority}", "order: priority needs classes"),
        ("admission: {prompt_tokens: [9, 3]}", "prompt_tokens must rise"),
        ("prefill: {pod: {topology: hgx_h20x}}", "no topology 'hgx_h20x', did you mean 'hgx_h20'?"),
        ("prefill: {tensor: 16}", "a group of 16 ranks does not fit on 8 chips"),
    ],
)
def test_what_cannot_be_is_one_error_with_its_place(written, said, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(SCENARIO + written + "\n")
    with pytest.raises(ScenarioError) as error:
        prepare(load(file))
    assert said in str(error.value) and len(error.value.faults) == 1
