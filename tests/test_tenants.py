"""Tenants on one pod: who is alone is not slowed down, turns go by weight and priority,
co-residents share what there is."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import DEVICE, MODEL, graph, network, replace

from sim.engine.group import Group, members_of
from sim.engine.service import Service
from sim.engine.tenants import Shared, Tenant, share_chips
from sim.facts.timeline import Timeline
from sim.results.statistics import jain
from sim.run import run
from sim.scenario import ScenarioError
from sim.serving import compiled
from sim.serving.fleet import POLICIES, Rules, pool_of, replica_of
from sim.traces.columns import Columns

SMALL = replace(MODEL, layers=2)
OTHER = replace(MODEL, name="other", layers=3, kv_heads=4)  # as the other, too large for L2
POD = network(2)
RULES = Rules(0, 0, 7, True, False, 0, False, True)


def columns(rows) -> Columns:
    gaps, prompt, output = (np.array(column) for column in zip(*rows))
    return Columns(np.cumsum(gaps, dtype=float) - gaps[0], prompt, output)


def tenant(
    name,
    *chunks,
    model=SMALL,
    op=False,
    weight=1.0,
    priority=0,
    replicas=1,
    policy="chunked",
    ranks=2,
    blocks=100_000,
    techniques=(),
    pod=POD,
    stragglers=None,
    **more,
) -> Tenant:
    row = replica_of(POLICIES[policy], 16, 512, 16, blocks, **more)
    rows = np.concatenate([row] * replicas).view(np.recarray)
    service = Service(
        RULES._replace(jump=not op),
        rows,
        pool_of(0, replicas),
        op,
        (0.0, 0.0),
        (0.7, 0.4, 0.1) if more.get("drafts") else (),
    )

    def group_of(timeline, tenancy=None):
        env = tenancy.env if tenancy else simpy.Environment()
        members = members_of(DEVICE, graph_of, ranks, stragglers)
        return Group(env, members, pod, timeline=timeline, tenancy=tenancy)

    graph_of = partial(_graph, model, ranks, techniques)
    return Tenant(name, chunks, service, group_of, weight, priority)


def _graph(model, ranks, techniques, batch):
    return graph(batch, *techniques, model=model, ranks=ranks)


def e2e_s(shared: Shared, t: int) -> np.ndarray:
    requests = shared.outcomes[t].requests
    return requests.last_token_s - requests.arrival_s


def slowdown(shared: Shared, t: int, alone: Tenant, quantum: int) -> float:
    return float((e2e_s(shared, t) / e2e_s(share_chips([alone], quantum, None), 0)).mean())


SATURATED = [(0.0, 100, 200)] * 40
GAPS = st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 1.0])
ROWS = st.lists(st.tuples(GAPS, st.integers(1, 300), st.integers(1, 9)), min_size=1, max_size=4)
WORLD = st.tuples(
    st.lists(ROWS, min_size=1, max_size=3),
    st.integers(1, 5),
    st.sampled_from([(0, 0, 0), (0, 1, 0), (2, 1, 0)]),
    st.sampled_from([(1.0, 1.0, 1.0), (1.0, 3.0, 0.5)]),
    st.sampled_from([*POLICIES]),
    st.integers(1, 2),
    st.sampled_from([20, 30, 1000]),
)


def world(drawn, op: bool) -> tuple[list[Tenant], int]:
    traces, quantum, priority, weight, policy, replicas, blocks = drawn
    return [
        tenant(
            f"t{t}",
            columns(rows),
            model=(SMALL, OTHER)[t % 2],
            op=op,
            weight=weight[t],
            priority=priority[t],
            policy=policy,
            replicas=replicas,
            blocks=blocks,
            overhead_s=(0.0, 1e-4, 0.0)[t],
            drafts=3 * (t == 1),
        )
        for t, rows in enumerate(traces)
    ], quantum


@settings(max_examples=15, deadline=None)
@given(WORLD)
def test_turns_at_step_are_those_at_op(drawn):
    """Priced and taken many at a time, against every op of every iteration played one by one."""
    priced, played = (share_chips(*world(drawn, op), None) for op in (False, True))
    for one, other in zip(priced.outcomes, played.outcomes):
        for column in ("arrival_s", "scheduled_s", "first_token_s", "last_token_s"):
            assert getattr(one.requests, column) == pytest.approx(
                getattr(other.requests, column), rel=1e-9, abs=1e-12
            )
        assert (one.requests.replica == other.requests.replica).all()
        assert one.totals.bytes["HBM"] == pytest.approx(other.totals.bytes["HBM"], rel=1e-9)
        assert one.totals.steps == other.totals.steps
    assert priced.busy_s == pytest.approx(played.busy_s, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(WORLD, st.booleans())
def test_every_request_is_finished_once(drawn, together):
    tenants, quantum = world(drawn, op=together)
    quantum = 0 if together else quantum
    shared = share_chips(tenants, quantum, None)
    in_use = 0.0
    for t, (each, outcome, rows) in enumerate(zip(tenants, shared.outcomes, drawn[0])):
        done = outcome.requests
        assert done.id.tolist() == list(range(len(rows)))
        assert done.prompt_tokens.tolist() == [row[1] for row in rows]
        assert done.output_tokens.tolist() == [row[2] for row in rows]
        assert (done.arrival_s <= done.scheduled_s).all() and (
            done.scheduled_s < done.first_token_s
        ).all()
        in_use = max(in_use, shared.busy_s[t])
        if len(tenants) == 1:  # the same numbers, to the last bit
            alone = share_chips([each], quantum, None).outcomes[0]
            assert (
                alone.requests.last_token_s == done.last_token_s
            ).all() and alone.fingerprint == outcome.fingerprint
    count = len(tenants[0].service.replicas)
    assert shared.in_use_s <= sum(shared.busy_s) / count * (1 + 1e-9)
    if not together:  # one at a time
        assert shared.in_use_s == pytest.approx(sum(shared.busy_s) / count)
    assert shared.in_use_s * count >= in_use * (1 - 1e-9)


@pytest.mark.parametrize("quantum", [1, 4, 0], ids=["turns", "turns of 4", "together"])
def test_who_is_alone_is_as_quick_as_without_sharing(quantum):
    from sim.engine.pool import Host
    from sim.engine.service import run_service

    rows = [(1e-3 * (i % 5), 50 + 17 * i, 5 + i % 9) for i in range(30)]
    one = tenant("one", columns(rows), op=quantum == 0)
    shared = share_chips([one], quantum, None).outcomes[0]
    host = Host(one.group_of)
    plain = run_service([columns(rows)], one.service, [[host]], None)
    assert shared.requests.last_token_s == pytest.approx(plain.requests.last_token_s, rel=1e-12)
    assert shared.totals.bytes["HBM"] == pytest.approx(plain.totals.bytes["HBM"], rel=1e-12)
    assert shared.totals.bytes["link"] == pytest.approx(plain.totals.bytes["link"], rel=1e-12)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 1.0), (5.0, 1.0), (1.0, 2.0, 3.0)])
@pytest.mark.parametrize("quantum", [1, 3])
def test_busy_time_goes_by_weight_where_all_always_have_work(weights, quantum):
    """Tenants of unlike models, so that iterations take unlike times."""
    tenants = [
        tenant(
            f"t{t}", columns([(0.0, 100, 400)] * 12), model=(SMALL, OTHER, SMALL)[t], weight=weight
        )
        for t, weight in enumerate(weights)
    ]
    shared = share_chips(tenants, quantum, None)
    first_s = min(
        outcome.requests.last_token_s.min() for outcome in shared.outcomes
    )  # up to then all have work
    timed = [np.zeros(0)] * len(weights)
    for t, outcome in enumerate(shared.outcomes):
        bins = outcome.part.series["busy_s"]
        timed[t] = bins[: int(first_s / outcome.part.bin_s)]
    busy = np.array([bins.sum() for bins in timed])
    assert busy / busy.sum() == pytest.approx(np.array(weights) / sum(weights), rel=0.02)


def test_the_first_in_priority_waits_for_one_quantum_at_most():
    rows = [(0.05, 100, 20)] * 20
    high = tenant("high", columns(rows), priority=1)
    low = tenant("low", columns(SATURATED), model=OTHER)
    alone = e2e_s(share_chips([high], 1, None), 0)
    longest = max(
        np.diff(np.unique(share_chips([low], 1, None).outcomes[0].requests.first_token_s)),
        default=0.0,
    )
    longest = max(longest, share_chips([low], 1, None).outcomes[0].requests.first_token_s.max())
    shared = share_chips([high, low], 1, None)
    assert (
        e2e_s(shared, 0) <= alone + longest
    ).all()  # it comes into an iteration of the other's, and then has all
    assert (e2e_s(shared, 0) >= alone - 1e-12).all()
    equal = share_chips([high._replace(priority=0), low], 1, None)
    assert e2e_s(equal, 0).mean() > e2e_s(shared, 0).mean()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0)])
def test_two_that_need_memory_share_it(weights):
    """Decode alone: bound by HBM, of which each has its part, and together they move no more than
    there is."""
    rows = [(0.0, 10, 60)] * 4
    one, other = (
        tenant(f"t{t}", columns(rows), op=True, weight=weight, ranks=1)
        for t, weight in enumerate(weights)
    )
    shared = share_chips([one, other], 0, None)
    for t, each in enumerate((one, other)):
        most = sum(weights) / weights[t]
        assert 1.0 <= slowdown(shared, t, each, 0) <= most * (1 + 1e-9)
    moved = sum(outcome.totals.bytes["HBM"] for outcome in shared.outcomes)
    wall_s = max(outcome.totals.seconds for outcome in shared.outcomes)
    assert moved <= DEVICE.hbm_bytes_per_s * wall_s * (1 + 1e-9)
    assert moved >= 0.8 * DEVICE.hbm_bytes_per_s * wall_s
    if weights[0] > weights[1]:
        assert slowdown(shared, 0, one, 0) < slowdown(shared, 1, other, 0)


def test_two_that_need_arithmetic_share_the_engine():
    rows = [(0.0, 500, 1)] * 8
    one, other = (tenant(name, columns(rows), op=True, ranks=1) for name in "ab")
    alone_s = share_chips([one], 0, None).outcomes[0].totals.seconds
    both_s = max(outcome.totals.seconds for outcome in share_chips([one, other], 0, None).outcomes)
    assert 1.7 * alone_s < both_s <= 2 * alone_s * (1 + 1e-9)


def test_co_residents_share_links():
    rows = [(0.0, 500, 1)] * 8
    slow = network(2, bytes_per_s=1e8)
    one, other = (tenant(name, columns(rows), op=True, pod=slow) for name in "ab")
    alone = share_chips([one], 0, None).outcomes[0].totals
    both = [outcome.totals for outcome in share_chips([one, other], 0, None).outcomes]
    assert [totals.bytes["link"] for totals in both] == pytest.approx([alone.bytes["link"]] * 2)
    assert (
        1.8 * alone.seconds
        < max(totals.seconds for totals in both)
        <= 2 * alone.seconds * (1 + 1e-9)
    )


def test_co_residents_with_a_straggler_share_the_fabric():
    rows = [(0.0, 100, 3)] * 2
    one, other = (tenant(name, columns(rows), op=True, stragglers={1: 2.0}) for name in "ab")
    alone = share_chips([one], 0, None)
    both = share_chips([one, other], 0, None)
    assert (e2e_s(both, 0) > e2e_s(alone, 0)).all() and (e2e_s(both, 0) < 2 * e2e_s(alone, 0)).all()


def test_a_timeline_names_the_tenants():
    for quantum, op in ((1, False), (1, True), (0, True)):
        timeline = Timeline()
        tenants = [tenant(name, columns([(0.0, 50, 4)] * 2), op=op) for name in ("chat", "code")]
        tenants = [
            each._replace(service=each.service._replace(window=(0.0, 1.0))) for each in tenants
        ]
        share_chips(tenants, quantum, timeline)
        if quantum:  # one at a time on one track
            assert {span.name.split(",")[0] for span in timeline.spans} == {"chat", "code"}
        else:
            tracks = {span.track for span in timeline.spans}
            assert {"rank 0 chat/compute", "rank 0 code/compute"} <= tracks
            assert "rank 0/matrix engine" in {use.capacity for use in timeline.uses}
        for track in {span.track for span in timeline.spans}:
            spans = sorted((s for s in timeline.spans if s.track == track), key=lambda s: s.start_s)
            assert all(a.end_s <= b.start_s + 1e-12 for a, b in itertools.pairwise(spans))


@settings(max_examples=6, deadline=None)
@given(WORLD, st.integers(1, 4), st.booleans())
def test_chunks_are_merged_by_arrival(drawn, pieces, together):
    """A trace in pieces is served as one that is read whole."""
    tenants, quantum = world(drawn, op=together)
    quantum = 0 if together else quantum
    whole = share_chips(tenants, quantum, None)
    parts = []
    for each in tenants:
        (chunk,) = each.chunks
        edges = np.linspace(0, len(chunk), pieces + 1).astype(int)
        parts.append(
            each._replace(chunks=[chunk[a:b] for a, b in itertools.pairwise(edges) if b > a])
        )
    cut = share_chips(parts, quantum, None)
    for one, other in zip(whole.outcomes, cut.outcomes):
        assert one.requests.last_token_s == pytest.approx(other.requests.last_token_s, rel=1e-12)


def test_jain():
    assert jain([3.0] * 5) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([1.0, 2.0]) == pytest.approx(0.9)


TRACE = "arrival_s,prompt_tokens,output_tokens\n" + "\n".join(
    f"{0.002 * i},{40 + 7 * i},{4 + i}" for i in range(6)
)
SHARED = """\
question: What do these cost each other?
pod: {topology: dgx_h100}
workload:
  kind: tenants
  sharing: time_sliced
  tenants:
    a: {model: smollm2-135m, trace: {file: small.csv}, slo: {ttft: 1 s}}
    b: {model: smollm2-135m, trace: {file: small.csv, first: 2}, weight: 2}
    c: {model: llama3-8b, trace: {file: small.csv, limit: 3}}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "small.csv").write_text(TRACE)
    (tmp_path / "s.yaml").write_text(SHARED)
    return tmp_path / "s.yaml"


@pytest.mark.parametrize("sharing", ["partitioned", "time_sliced", "co_resident"])
def test_a_scenario_from_end_to_end(file, sharing):
    result = run(file, {"workload.sharing": sharing, "record.until_s": "0.001 s"})
    (variant,) = result.variants.values()
    found = variant["tenants"]
    assert [*found] == ["a", "b", "c"]
    assert [found[name]["requests"] for name in found] == [6, 4, 3]
    assert variant["metrics"]["requests"] == 13 and 0 < variant["metrics"]["fairness"] <= 1
    assert found["a"]["goodput_per_s"] > 0 and "goodput_per_s" not in found["b"]
    assert sum(mine["busy_share"] for mine in found.values()) == pytest.approx(1.0)
    for name, mine in found.items():
        others = [mine[f"slowdown_beside_{other}"] for other in found if other != name]
        if sharing == "partitioned":
            assert mine["slowdown"] == 1.0 and others == [1.0, 1.0]
        else:
            assert 1 < mine["slowdown"] < 10 and all(1 <= each < 10 for each in others)
    assert (
        run(file, {"workload.sharing": sharing, "record.until_s": "0.001 s"}).to_json()
        == result.to_json()
    )
    files = result.files()
    pyarrow = pytest.importorskip("pyarrow")
    table = pytest.importorskip("pyarrow.parquet").read_table(
        pyarrow.BufferReader(files["requests.parquet"])
    )
    assert table.column("tenant").to_pylist() == ["a"] * 6 + ["b"] * 4 + ["c"] * 3
    assert "<h2>Tenants</h2>" in result.report() and 'class="heat"' in result.report()


@pytest.mark.parametrize("sharing", ["partitioned", "time_sliced", "co_resident"])
def test_one_tenant_alone_is_not_slowed_down(file, sharing):
    file.write_text(
        "\n".join(line for line in SHARED.splitlines() if not line.startswith(("    b:", "    c:")))
    )
    (variant,) = run(file, {"workload.sharing": sharing}).variants.values()
    assert variant["tenants"]["a"]["slowdown"] == variant["metrics"]["fairness"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"workload.tenants.a.tensor": 3},
            "workload.tenants.b.tensor: time_sliced tenants have the same chips",
        ),
        (
            {"workload.tenants.a.modl": "x"},
            "workload.tenants.a.modl: unknown key, did you mean 'model'?",
        ),
        (
            {"workload.sharing": "time_slicd"},
            "workload.sharing: 'time_slicd' is not allowed here, did you mean",
        ),
        (
            {"workload.sharing": "partitioned", "workload.tenants.b.replicas": 7},
            "the tenants need 9 chips (a 1, b 7, c 1)",
        ),
        (
            {"workload.sharing": "co_resident", "workload.fidelity": "step"},
            "write 'fidelity: op', or take it out",
        ),
        (
            {"workload.tenants.c.model": "llama3-8"},
            "no model 'llama3-8', did you mean 'llama3-8b'?",
        ),
        (
            {"workload.tenants.c.trace.file": "smal.csv"},
            "workload.tenants.c.trace.file: no such file 'smal.csv'",
        ),
        ({"workload.tenants.c.kv_tokens": 3}, "workload.tenants.c: the KV-cache holds 3 tokens"),
        ({"workload.tenants.c.kv_tokens": 459_000}, "the tenants do not fit into HBM together"),
        (
            {"workload.tenants.c.hbm_utilisation": 0.5},
            "hbm_utilisation is the same for all: a has 0.9, not 0.5",
        ),
        ({"model": "llama3-8b"}, "record, and workload.tenants.NAME.model; take this out"),
        (
            {"pod.stragglers.9": 2.0},
            "pod.stragglers[9]: chip 9 is not in the pod: its chips are 0 to 7",
        ),
        ({"expect": ["run.d.slowdown < 2"]}, "expect[0]: no tenant 'd'"),
        (
            {"workload.tenants.a-b": {"model": "llama3-8b"}},
            "a tenant's name is made of letters, digits and '_'",
        ),
    ],
)
def test_bad_input_is_one_clear_error(file, change, message):
    with pytest.raises(ScenarioError) as error:
        run(file, change)
    assert message in str(error.value)


def test_the_compiled_loop_takes_the_same_turns():
    pytest.importorskip("numba")
    rows = [(1e-3 * (i % 4), 50 + 13 * i, 5 + i) for i in range(20)]
    whole = columns(rows)
    parts = [whole[:10], whole[10:]]  # of more than one part it is not known how many there are
    tenants = [
        tenant("a", *parts, weight=2.0),
        tenant("b", *parts, model=OTHER, replicas=1, priority=0),
    ]
    made = [each._replace(service=each.service._replace(expected=1e6)) for each in tenants]
    fast = share_chips(made, 2, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled.LOOPS, "native", lambda amount: None)
        interpreted = share_chips(made, 2, None)
    assert [o.fingerprint for o in fast.outcomes] == [o.fingerprint for o in interpreted.outcomes]
