"""Columns of requests: cutting and joining lose nothing; numbers read many at a time are those read
one by one."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.traces.columns import Columns, joined, rechunked, taken
from sim.traces.digits import PAD, date, decimal, padded, whole
from sim.traces.sessions import Numbering
from sim.traces.values import date_ns
from tests.recordings import same


@st.composite
def columns(draw, most=12):
    count = draw(st.integers(0, most))
    tokens = st.lists(st.integers(1, 10**6), min_size=count, max_size=count).map(
        lambda each: np.array(each, np.int64)
    )
    arrival_s = np.sort(np.array(draw(st.lists(st.floats(0, 1e6), min_size=count, max_size=count))))
    blocks = draw(
        st.lists(st.lists(st.integers(0, 50), max_size=4), min_size=count, max_size=count)
    )
    return Columns(
        arrival_s,
        draw(tokens),
        draw(tokens),
        session=np.arange(count) - 1,
        think_s=np.where(np.arange(count) % 2, np.nan, 1.5),
        block_from=np.cumsum([0, *map(len, blocks)]),
        blocks=np.array(list(chain.from_iterable(blocks)), np.int64),
    )


@settings(max_examples=100, deadline=None)
@given(each=columns(), cut=st.integers(0, 12), rows=st.integers(1, 5))
def test_parts_make_the_whole(each, cut, rows):
    if not len(each):
        return
    assert same(joined([each[:cut], each[cut:]]), each)
    assert same(taken(each, np.arange(len(each))), each)
    chunks = list(rechunked([each[:cut], each[cut:]], rows))
    assert same(joined(chunks), each)
    assert [len(chunk) for chunk in chunks[:-1]] == [rows] * (len(chunks) - 1)
    assert same(taken(taken(each, np.arange(len(each))[::-1]), np.arange(len(each))[::-1]), each)


def test_what_one_part_does_not_say_is_marked_so():
    one = Columns(np.zeros(2), np.ones(2, np.int64), np.ones(2, np.int64))
    other = Columns(
        np.ones(1),
        *[np.ones(1, np.int64)] * 3,
        np.ones(1),
        block_from=np.array([0, 2]),
        blocks=np.array([7, 8]),
    )
    both = joined([one, other])
    assert both.session.tolist() == [-1, -1, 1]
    assert np.isnan(both.think_s).tolist() == [True, True, False]
    assert both.block_from.tolist() == [0, 0, 0, 2]


number = st.one_of(
    st.integers(0, 10**20).map(str),
    st.floats(0, 1e17).map(repr),
    st.decimals(0, 10**9, places=9).map(str),
    st.sampled_from(
        [
            "",
            ".",
            ".5",
            "5.",
            "1e3",
            "-1",
            "+1",
            " 1",
            "1 ",
            "00012",
            "0.1234567890123456789",
            "1.2.3",
        ]
    ),
    st.text("0123456789.", max_size=24),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(number, min_size=1, max_size=8))
def test_numbers_are_those_of_python(fields):
    text, start, end = _laid(fields)
    dots = np.flatnonzero(text.data == ord("."))
    values, sound = decimal(text, start, end, dots)
    for field, value, right in zip(fields, values.tolist(), sound.tolist()):
        if right:
            assert value == float(field)
        else:  # nothing common is left to the slow way
            assert not (field.isdigit() and len(field) < 16)
    values, sound = whole(text, start, end)
    assert sound.tolist() == [
        0 < len(field) < 16 and field.isdigit() and field.isascii() for field in fields
    ]
    assert [v for v, right in zip(values.tolist(), sound) if right] == [
        int(f) for f, r in zip(fields, sound) if r
    ]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.builds(
            "{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{}{}".format,
            st.integers(1960, 2210),
            st.integers(0, 13),
            st.integers(0, 32),
            st.sampled_from(" T_"),
            st.integers(0, 25),
            st.integers(0, 61),
            st.integers(0, 61),
            st.sampled_from(["", ".", ".5", ".6805900", ".123456789", ".1234567890", ".12x"]),
            st.sampled_from(["", "Z", "+00:00", "-00:00", "+01:00", "z"]),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_dates_are_those_of_python(fields):
    text, start, end = _laid(fields)
    values, sound = date(text, start, end)
    for field, value, right in zip(fields, values.tolist(), sound.tolist()):
        try:
            expected = date_ns(field, "TIMESTAMP")
        except ValueError:
            assert not right
            continue
        assert not right or value == expected
        assert right or not (1970 <= int(field[:4]) < 2200) or field[-6:] in ("-00:00", "+01:00")


def _laid(fields):
    text = padded(b",".join(field.encode() for field in fields) + b"\n")
    ends = np.cumsum([len(field) + 1 for field in fields]) - 1 + PAD
    return text, ends - [len(field) for field in fields], ends


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(
            st.one_of(
                st.integers(0, 9), st.integers(-3, 300), st.sampled_from([2**40, 2**70, "a", "7"])
            )
        ),
        max_size=5,
    )
)
def test_ids_are_numbered_in_order_of_appearance(parts):
    numbering, known = Numbering(), {}
    for ids in parts:
        assert numbering.numbers(ids).tolist() == [
            known.setdefault(each, len(known)) for each in ids
        ]


@pytest.mark.parametrize("ids", [[0, 1, 0, 2], [5, 3, 5], ["x", 0, "x"], [2**40, 1]])
def test_numbering_goes_on_when_the_ids_change(ids):
    numbering = Numbering()
    assert numbering.numbers([0, 1]).tolist() == [0, 1]
    known = {0: 0, 1: 1}
    assert numbering.numbers(ids).tolist() == [known.setdefault(each, len(known)) for each in ids]
