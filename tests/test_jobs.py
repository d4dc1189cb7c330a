"""Jobs on one pod: alone they take their closed form, together they share links, and nothing is
lost or invented."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.engine import jobs as engine
from sim.engine.jobs import Job, Recording, Trouble, play_jobs
from sim.network import topology
from sim.network.edge_list import from_edges
from sim.network.faults import Defect, degraded
from sim.network.library import Library
from sim.network.network import Network
from sim.results.utilisation import utilisation

RATE, LATENCY_S, LAUNCH_S, STEP_S = 1e9, 1e-6, 5e-6, 2e-6
LIBRARY = Library("test", launch_s=LAUNCH_S, step_s=STEP_S)


def pod(shape="ring", devices=4, **more) -> Network:
    return Network(topology.build(shape, devices, RATE, LATENCY_S, **more), LIBRARY)


def dumbbell(rate=RATE) -> Network:
    """Chips 0 and 1 on one switch, 2 and 3 on another, one wire between the switches."""
    wires = [(0, "left"), (1, "left"), ("left", "right"), (2, "right"), (3, "right")]
    edges = [(a, b, {"bytes_per_s": rate, "latency_s": LATENCY_S}) for a, b in wires]
    return Network(from_edges(edges), LIBRARY)


def job(network, ranks=(0, 1, 2, 3), collective="all_reduce", nbytes=4e6, name="a", **more) -> Job:
    algorithm = more.pop("algorithm", None)
    used = network.using(algorithm) if algorithm else network
    return Job(name, collective, nbytes, tuple(ranks), used, more.pop("healthy", used), **more)


def times(outcome, name="a") -> list[float]:
    return [
        each.end_s - each.start_s
        for job in outcome.part.jobs
        if job.name == name
        for each in job.instances
    ]


@pytest.mark.parametrize(
    "collective", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]
)
@pytest.mark.parametrize("shape", ["ring", "full_mesh", "switch"])
def test_a_job_alone_takes_its_closed_form_each_time(shape, collective):
    network = pod(shape)
    fold = network.fold(collective, (0, 1, 2, 3), 4e6)
    outcome = play_jobs(
        network, [job(network, collective=collective, start_s=1e-3, repeat=3, gap_s=1e-4)]
    )
    [record] = outcome.part.jobs
    if fold.exact:
        assert times(outcome) == pytest.approx([fold.seconds] * 3, rel=1e-9)
        assert outcome.totals.seconds == pytest.approx(1e-3 + 3 * fold.seconds + 2e-4, rel=1e-9)
    else:
        assert times(outcome) == pytest.approx([record.idle_s] * 3, rel=1e-9)
    assert (
        record.exact == fold.exact
        and record.rounds == fold.rounds
        and record.algorithm.endswith(" (auto)")
    )


def test_two_jobs_share_the_link_between_them():
    network = dumbbell()
    pair = [
        job(network, ranks, "send_receive", name=name, algorithm="direct")
        for name, ranks in (("a", (0, 2)), ("b", (1, 3)))
    ]
    fixed_s, wire_s = LAUNCH_S + STEP_S + 3 * LATENCY_S, 4e6 / RATE
    assert times(play_jobs(network, pair[:1])) == pytest.approx([fixed_s + wire_s], rel=1e-9)
    both = play_jobs(network, pair)
    assert times(both) == times(both, "b") == pytest.approx([fixed_s + 2 * wire_s], rel=1e-9)
    middle = both.part.links[0]
    assert middle.name in ("left → right", "right → left") and middle.most_flows == 2
    assert middle.moved_bytes == pytest.approx(8e6)
    weighted = play_jobs(network, [pair[0]._replace(weight=3.0), pair[1]])
    assert times(weighted) == pytest.approx([fixed_s + wire_s * 4 / 3], rel=1e-9)
    assert times(weighted, "b") == pytest.approx([fixed_s + 2 * wire_s], rel=1e-9), (
        "no capacity is wasted"
    )


def test_jobs_apart_do_not_meet():
    network = dumbbell()
    alone = times(play_jobs(network, [job(network, (0, 1))]))
    assert (
        times(play_jobs(network, [job(network, (0, 1)), job(network, (2, 3), name="b")])) == alone
    )


def test_the_background_goes_on_until_the_others_are_done():
    network = dumbbell()
    noise = job(
        network,
        (1, 3),
        "send_receive",
        1e6,
        "noise",
        background=True,
        gap_s=1e-5,
        algorithm="direct",
    )
    main = job(network, (0, 2), "send_receive", 10e6, repeat=2, algorithm="direct")
    outcome = play_jobs(network, [main, noise], recording=Recording())
    wall_s = outcome.totals.seconds
    assert wall_s == outcome.part.jobs[0].instances[-1].end_s
    assert (
        len(outcome.part.jobs[1].instances) > 5
        and outcome.part.jobs[1].instances[-1].end_s <= wall_s
    )
    assert max(link.moved_bytes / link.bytes_per_s for link in outcome.part.links) <= wall_s * (
        1 + 1e-9
    )
    assert all(link.busy_s <= wall_s * (1 + 1e-9) for link in outcome.part.links)
    last = [span for span in outcome.timeline.spans if "cut off" in span.note]
    assert [span.track for span in last] == ["noise/rank 1", "noise/rank 3"] and last[
        0
    ].end_s == wall_s


def test_a_late_background_has_no_times():
    network = pod()
    late = job(network, name="late", background=True, start_s=9.0)
    outcome = play_jobs(network, [job(network), late])
    assert outcome.part.jobs[1].instances == [] and outcome.part.jobs[1].idle_s > 0


def test_a_straggler_pays_more_for_its_own_steps():
    network = pod("full_mesh", 2)
    pair = job(network, (0, 1), "send_receive", algorithm="direct")
    even, late = (play_jobs(network, [pair], Trouble(slow)) for slow in ({}, {1: 3.0}))
    assert times(late)[0] == pytest.approx(times(even)[0] + 2 * (LAUNCH_S + STEP_S), rel=1e-9)
    assert late.part.jobs[0].idle_s == even.part.jobs[0].idle_s


def test_jitter_follows_the_seed():
    network = pod("full_mesh", 4)
    runs = [
        play_jobs(network, [job(network, repeat=4)], Trouble(jitter_s=1e-5, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert times(runs[0]) == times(runs[1]) != times(runs[2])
    assert runs[0].fingerprint == runs[1].fingerprint != runs[2].fingerprint
    assert len(set(times(runs[0]))) == 4 and min(times(runs[0])) > runs[0].part.jobs[0].idle_s


@pytest.mark.parametrize(
    "fault",
    [Defect(0, 1, share=0.5), Defect(0, 1, extra_latency_s=1e-3), Defect(0, 1, failed=True)],
    ids=str,
)
def test_a_faulty_link_slows_a_ring(fault):
    healthy = pod("ring", 5)
    faulty = Network(degraded(healthy.graph, [fault]), LIBRARY)
    sick = job(faulty, range(5), algorithm="ring", healthy=healthy.using("ring"))
    outcome = play_jobs(faulty, [sick])
    assert (
        outcome.part.jobs[0].idle_s
        == healthy.using("ring").fold("all_reduce", tuple(range(5)), 4e6).seconds
    )
    detour = fault.failed  # the other way round is free, only longer
    assert times(outcome)[0] > (1.001 if detour else 1.2) * outcome.part.jobs[0].idle_s


def test_a_large_group_in_step_takes_the_same_time_folded(monkeypatch):
    network = pod("ring", 16)
    one = job(network, range(16), repeat=2, gap_s=1e-5)
    played = play_jobs(network, [one], recording=Recording())
    monkeypatch.setattr(engine, "FOLD_ABOVE", 8)
    folded = play_jobs(network, [one], recording=Recording())
    assert folded.totals.seconds == pytest.approx(played.totals.seconds, rel=1e-9)
    assert not folded.part.links and "closed form" in folded.warnings[0] and not played.warnings
    assert [s[:3] for s in folded.timeline.spans] == [s[:3] for s in played.timeline.spans]
    assert folded.timeline.spans[0].link_bytes == pytest.approx(played.timeline.spans[0].link_bytes)
    two = play_jobs(network, [one, one._replace(name="b")])
    assert two.part.links, "two jobs are played"


def test_bytes_over_links_are_what_the_ranks_sent():
    network = pod("ring", 6)
    one = job(network, range(6), repeat=2, nbytes=6e6, algorithm="ring")
    outcome = play_jobs(network, [one], recording=Recording())
    assert sum(link.moved_bytes for link in outcome.part.links) == pytest.approx(
        2 * 6 * 2 * 5 * 1e6
    )
    assert sum(span.link_bytes for span in outcome.timeline.spans) == pytest.approx(
        2 * 6 * 2 * 5 * 1e6
    )
    carried = dict.fromkeys(outcome.timeline.capacities, 0.0)
    for use in outcome.timeline.uses:
        carried[use.capacity] += (use.end_s - use.start_s) * use.bytes_per_s
    by_name = {f"links/{link.name}": link.moved_bytes for link in outcome.part.links}
    assert carried == pytest.approx({lane: by_name[lane] for lane in carried})


def test_the_record_has_bounds():
    network = pod("full_mesh", 8)
    one = job(network, range(8), repeat=6)
    [record] = play_jobs(network, [one]).part.jobs
    cut = play_jobs(network, [one], recording=Recording(max_spans=20))
    assert len(cut.timeline.spans) == 20 and cut.timeline.truncated == 28
    assert len(cut.timeline.capacities) == engine.LANES < len(cut.part.links)
    window = Recording(record.instances[2].start_s, record.instances[4].start_s)
    seen = play_jobs(network, [one], recording=window).timeline
    assert {span.name for span in seen.spans} == {"all_reduce 3", "all_reduce 4"}
    none = play_jobs(network, [one]).timeline
    assert not none.spans and not none.uses and not none.capacities


def test_progress_rises_to_one():
    network, shares = pod(), []
    jobs = [job(network, repeat=3), job(network, name="b", background=True), job(network, name="c")]
    play_jobs(network, jobs, progress=shares.append)
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["all_reduce", "all_gather", "all_to_all", "send_receive"]),
            st.sets(st.integers(0, 7), min_size=2, max_size=8),
            st.sampled_from([1e3, 1e6, 1e7]),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["switch", "ring", "full_mesh"]),
)
def test_no_link_carries_more_than_it_can_and_nobody_gains_from_company(specs, shape):
    network = pod(shape, 8)
    jobs = [
        job(network, sorted(ranks), kind, size, str(i), repeat=r)
        for i, (kind, ranks, size, r) in enumerate(specs)
    ]
    outcome = play_jobs(network, jobs, recording=Recording())
    for record in outcome.part.jobs:
        assert min(times(outcome, record.name)) >= record.idle_s * (1 - 1e-6)
    for link in outcome.part.links:
        assert link.moved_bytes <= link.bytes_per_s * outcome.totals.seconds * (1 + 1e-9)
    for name, rate in outcome.timeline.capacities.items():
        assert utilisation(outcome.timeline.uses, name, rate)[1].max(initial=0.0) <= 1 + 1e-9
    assert outcome.totals.seconds == pytest.approx(
        max(each.instances[-1].end_s for each in outcome.part.jobs)
    )


def test_too_many_uses_leave_those_of_the_fullest_links():
    network = pod("ring", 32)
    one = job(network, range(32), repeat=2, algorithm="ring")
    busy = job(network, (3, 4), "send_receive", 1e6, "noise", background=True, algorithm="direct")
    many = play_jobs(network, [one, busy], recording=Recording()).timeline
    few = play_jobs(network, [one, busy], recording=Recording(max_spans=250))
    assert len(few.timeline.uses) <= 250 * engine.USES_A_SPAN and not few.warnings
    assert few.timeline.uses[-1].end_s == many.uses[-1].end_s == few.totals.seconds
    assert list(few.timeline.capacities)[:1] == list(many.capacities)[:1] == ["links/3 → 4"]
    cut = play_jobs(network, [one, busy], recording=Recording(max_spans=30))
    assert "narrow the record window" in cut.warnings[0]
