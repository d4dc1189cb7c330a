"""Traces from laws: the same in chunks of any size, with the rates, bursts, lengths and prefixes
asked for."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.traces.arrivals import (
    Arrivals,
    OnOff,
    Windows,
    diurnal,
    histogram,
    on_off,
    times,
)
from sim.traces.columns import Columns
from sim.traces.description import described
from sim.traces.lengths import Joint, Lognormal, Mixture, drawn, law_of
from sim.traces.reading import open_trace
from sim.traces.stream import gathered
from sim.traces.synthesis import SessionLaw, TraceSpec, calibrated, generated
from tests.recordings import same

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "requests"

some_arrivals = st.one_of(
    st.builds(Arrivals, st.floats(0.1, 100), st.floats(0, 4)),
    st.builds(on_off, st.floats(0.5, 50), st.floats(0.05, 0.9), st.floats(0.1, 100)),
    st.builds(diurnal, st.floats(0.1, 50), st.floats(0, 1)),
    st.builds(
        histogram, st.floats(0.1, 1000), st.lists(st.integers(1, 50), min_size=1, max_size=9)
    ),
)
some_sessions = st.one_of(
    st.none(),
    st.builds(
        SessionLaw,
        mean_turns=st.floats(1, 6),
        system_prompts=st.integers(1, 4),
        system_tokens=st.integers(0, 100),
        block_tokens=st.integers(4, 64),
    ),
)
SHORT = Lognormal(40, 1.0)


def rate_and_cv(arrival_s):
    gaps = np.diff(arrival_s)
    return 1 / gaps.mean(), gaps.std() / gaps.mean()


# Laws of any trace


@settings(max_examples=40, deadline=None)
@given(
    some_arrivals, some_sessions, st.integers(1, 3000), st.integers(0, 2**40), st.integers(1, 4000)
)
def test_chunks_and_count_change_nothing(arrivals, sessions, count, seed, rows):
    spec = TraceSpec(arrivals, SHORT, SHORT, sessions=sessions)
    whole = gathered(generated(spec, 3000, seed))
    part = gathered(generated(spec, count, seed, chunk_rows=rows))
    assert same(part, whole[:count])
    assert whole.arrival_s[0] == 0 and (np.diff(whole.arrival_s) >= 0).all()
    assert whole.prompt_tokens.min() >= 1 and whole.output_tokens.min() >= 1


@settings(max_examples=25, deadline=None)
@given(some_sessions.filter(bool), st.integers(0, 1000))
def test_a_turn_holds_all_that_was_said_before_it(law, seed):
    columns = gathered(generated(TraceSpec(Arrivals(1.0), SHORT, SHORT, sessions=law), 2000, seed))
    shared = law.system_tokens // law.block_tokens
    last: dict[int, int] = {}
    owners: dict[int, int] = {}
    for at in range(len(columns)):
        session = int(columns.session[at])
        ids = columns.blocks[columns.block_from[at] : columns.block_from[at + 1]]
        assert len(ids) == columns.prompt_tokens[at] // law.block_tokens
        assert (ids[:shared] < law.system_prompts * shared).all() and len(set(ids.tolist())) == len(
            ids
        )
        assert all(owners.setdefault(each, session) == session for each in ids[shared:].tolist())
        before = last.get(session)
        assert np.isnan(columns.think_s[at]) == (before is None)
        if before is not None:
            said = columns.prompt_tokens[before] + columns.output_tokens[before]
            assert columns.prompt_tokens[at] > said
            theirs = columns.blocks[columns.block_from[before] : columns.block_from[before + 1]]
            assert (ids[: len(theirs)] == theirs).all()
            assert columns.arrival_s[at] - columns.arrival_s[before] == pytest.approx(
                columns.think_s[at] + law.answer_s, abs=1e-5
            )
        last[session] = at


# Closed forms


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.0])
def test_gaps(cv):
    arrival_s = np.concatenate(list(islice(times(Arrivals(4.0, cv), 1), 4)))
    assert rate_and_cv(arrival_s) == pytest.approx((4.0, cv), rel=0.03, abs=1e-5)


def test_on_off_bursts():
    law = on_off(10.0, 0.2, 5.0)
    on_s, off_s = law.rate.mean_on_s, law.rate.mean_off_s
    assert law.rate.on_per_s * on_s / (on_s + off_s) == pytest.approx(10.0)
    assert law.rate.on_per_s == pytest.approx(50.0)
    arrival_s = np.concatenate(list(islice(times(law, 2), 12)))
    assert rate_and_cv(arrival_s)[0] == pytest.approx(10.0, rel=0.05)
    seconds = np.bincount(arrival_s.astype(np.int64))
    assert (seconds == 0).mean() > 0.5  # nothing at all when off
    # An interrupted Poisson process (Kuczura 1973): CV**2 = 1 + 2 rate_on leave / (leave +
    # enter)**2.
    leave, enter = 1 / 5.0, 1 / 20.0
    square = 1 + 2 * 50.0 * leave / (leave + enter) ** 2
    assert rate_and_cv(arrival_s)[1] == pytest.approx(np.sqrt(square), rel=0.1)


def test_a_day_has_its_peak_where_it_is_said():
    arrival_s = np.concatenate(list(islice(times(diurnal(2.0, 0.8, 3600.0, 900.0), 3), 3)))
    of_hour = np.histogram(arrival_s % 3600, 4, (0, 3600))[0]
    assert of_hour.argmax() in (0, 1) and of_hour[0] + of_hour[1] > 1.8 * (of_hour[2] + of_hour[3])
    assert len(arrival_s) / arrival_s[-1] == pytest.approx(2.0, rel=0.03)


def test_a_recorded_histogram_is_met_window_by_window():
    counts = [100, 0, 400, 50]
    arrival_s = np.concatenate(list(islice(times(histogram(60.0, counts), 4), 5)))
    begun = 60.0 * 4 * np.floor(arrival_s[-1] / 240)
    found = np.histogram(arrival_s[arrival_s < begun] % 240, 4, (0, 240))[0] / (begun / 240)
    assert found == pytest.approx(counts, rel=0.03, abs=3.0)  # the first arrival is at 0


def test_mixtures_and_their_text():
    law = law_of("0.75*fixed:10 + 0.25*lognormal:1000:0.1")
    assert law == Mixture(((0.75, ((0.0, 10.0), (1.0, 10.0))), (0.25, Lognormal(1000.0, 0.1))))
    tokens = drawn(law, 100_000, np.random.default_rng(0))
    assert (tokens == 10).mean() == pytest.approx(0.75, abs=0.01)
    assert np.median(tokens[tokens > 10]) == pytest.approx(1000, rel=0.01)


def test_pairs_stay_together_and_each_round_has_all():
    joint = Joint(np.arange(1, 101), np.arange(1, 101) * 3)
    columns = gathered(generated(TraceSpec(Arrivals(1.0), joint=joint), 1000, 0))
    assert (columns.output_tokens == 3 * columns.prompt_tokens).all()
    assert (np.bincount(columns.prompt_tokens)[1:] == 10).all()
    assert not (columns.prompt_tokens[:100] == columns.prompt_tokens[100:200]).all()


# Fitted to a recording


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "file",
    [
        "AzureLLMInferenceTrace_conv.csv.gz",
        "mooncake_conversation_trace.jsonl.gz",
        "apex_llama_lmsys_05.csv",
    ],
)
def test_calibrated_to_a_recording(file, seed):
    if not (RECORDED / file).exists():
        pytest.skip("recorded traces are not beside the checkout (../shared)")
    recorded = open_trace(RECORDED / file)
    spec = calibrated(gathered(recorded))
    made, real = described(generated(spec, 50_000, seed)), described(recorded)
    assert made.rate_per_s == pytest.approx(real.rate_per_s, rel=0.05)
    assert made.gap_cv == pytest.approx(real.gap_cv, rel=0.05)
    for one, other in ((made.prompt, real.prompt), (made.output, real.output)):
        assert (one.p50, one.p90, one.p99) == pytest.approx(
            (other.p50, other.p90, other.p99), rel=0.05
        )


@pytest.mark.parametrize("cv", [0.3, 1.0, 3.0])
def test_calibrated_to_a_made_up_trace(cv):
    recorded = generated(TraceSpec(Arrivals(3.0, cv)), 20_000, 5)
    spec = calibrated(gathered(recorded))
    made, real = described(generated(spec, 100_000, 6)), described(recorded)
    assert (made.rate_per_s, made.gap_cv) == pytest.approx((real.rate_per_s, real.gap_cv), rel=0.05)


def test_too_little_to_fit():
    few = Columns(np.zeros(5), *[np.ones(5, np.int64)] * 2)
    for columns in (few, few[:1]):
        with pytest.raises(ValueError, match="too few to fit"):
            calibrated(columns)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Arrivals(0),
        lambda: Arrivals(float("nan")),
        lambda: Arrivals(1, -1),
        lambda: on_off(1, 1.5, 1),
        lambda: on_off(1, 0.5, 1, off_per_s=3),
        lambda: diurnal(1, 2),
        lambda: histogram(60, [0, 0]),
        lambda: histogram(0, [1]),
        lambda: Arrivals(Windows(1, (-1.0, 3.0))),
        lambda: Arrivals(OnOff(1, 0, 0, 1)),
        lambda: law_of("lognormal:5"),
        lambda: law_of("normal:5:1"),
        lambda: law_of("0*fixed:5"),
        lambda: law_of("fixed:-5"),
        lambda: law_of("quantiles:0=5,0.5=4,1=9"),
        lambda: TraceSpec(Arrivals(1), sessions=SessionLaw(0.5)),
        lambda: TraceSpec(Arrivals(1), joint=Joint(np.zeros(0), np.zeros(0))),
        lambda: generated(TraceSpec(Arrivals(1)), 0, 0),
        lambda: generated(TraceSpec(Arrivals(1)), 1, -1),
    ],
)
def test_wrong_laws(wrong):
    with pytest.raises(ValueError):
        wrong()
