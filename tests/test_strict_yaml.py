"""Reading YAML strictly: every fault with its line, and nothing read otherwise than it looks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.text.strict_yaml import Document, ScenarioError, dotted, dump, nearest, parse, read, scalar


def faults(text: str) -> list[str]:
    with pytest.raises(ScenarioError) as error:
        parse(text, "x.yaml")
    assert str(error.value).splitlines() == [str(fault) for fault in error.value.faults]
    return [str(fault) for fault in error.value.faults]


def test_all_duplicate_keys_are_reported_with_both_lines() -> None:
    found = faults("a: 1\nb: {c: 1, c: 2}\nd:\n- e: 1\n  e: 2\na: 2\n")
    assert found == [
        "x.yaml:2: b.c: this key is given twice in one mapping, on lines 2 and 2",
        "x.yaml:5: d[0].e: this key is given twice in one mapping, on lines 4 and 5",
        "x.yaml:6: a: this key is given twice in one mapping, on lines 1 and 6",
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "empty"),
        ("# only a comment\n", 1, "empty"),
        ("- a\n", 1, "not a list"),
        ("hello\n", 1, "not a single value"),
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML"),
        ("a:\n\tb: 1\n", 2, "tab"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: 1\nb: \x07\n", 2, "character 0x7"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", 2, "not allowed"),
        ("a: !!int x\n", 1, "cannot be read as int"),
        ("a: " + "9" * 5000, 1, "cannot be read as int"),
        ("a: 1\nno: 2\n", 2, "write it as 'no'"),
        ("a: 1\nnull: 2\n", 2, "quotes"),
        ("1.5: 2\n", 1, "quotes"),
        ("[a]: 2\n", 1, "cannot be a key"),
        ("a: &x [*x]\n", 1, "alias refers to the mapping or list it stands in"),
        ("a: *nothing\n", 1, "undefined alias"),
        ("a: " + "[" * 100 + "]" * 100, 1, "nested deeper"),
        ("a: " + "[" * 5000, 1, "nested deeper"),
        ("a: {<<: 3}\n", 1, "merging"),
    ],
)
def test_what_is_refused(text: str, line: int, words: str) -> None:
    (found,) = faults(text)
    assert found.startswith(f"x.yaml:{line}: ") and words in found


def test_a_billion_laughs_are_refused() -> None:
    text = "a0: &a0 [1, 1]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
    )
    assert "once its aliases are expanded" in faults(text)[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1e-3", 1e-3),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1f", 31),
        ("~", None),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("64 MiB", "64 MiB"),
        ("1e", "1e"),
    ],
)
def test_scalars_read_as_they_look(text: str, value: Any) -> None:
    read_back = parse(f"a: {text}\n").data["a"]
    assert read_back == value and type(read_back) is type(value)


def test_yes_and_no_are_booleans_that_remember_how_they_were_written() -> None:
    doc = parse("a: no\nb: {c: on}\n")
    assert doc.data == {"a": False, "b": {"c": True}}
    assert (doc.raw(("a",)), doc.raw(("b", "c")), doc.raw(("b",))) == ("no", "on", None)


def test_aliases_and_merge_keys() -> None:
    doc = parse("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\ne: [*x]\n")
    assert doc.data == {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": [{"b": 1, "c": 2}]}
    assert doc.data["a"] is not doc.data["e"][0]


def test_lines_fall_back_to_the_nearest_parent() -> None:
    doc = parse("a: 1\nb:\n  c:\n    - d: 1\n    - 2\n")
    paths: list[tuple[str | int, ...]] = [
        ("a",),
        ("b", "c", 1),
        ("b", "c", 0, "d"),
        ("b", "c", 0, "x", "y"),
        ("z",),
        (),
    ]
    assert [doc.line(path) for path in paths] == [1, 5, 4, 4, 1, 1]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def why(path: Path) -> str:
        with pytest.raises(ScenarioError) as error:
            read(path)
        return str(error.value)

    (tmp_path / "preserve.yaml").write_text("a: 1\n")
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    (tmp_path / "utf16.yaml").write_bytes("a: 1\n".encode("utf-16"))
    (tmp_path / "large.yaml").write_bytes(b"#" * (5 * 2**20))
    assert "no such file, did you mean 'preserve.yaml'?" in why(tmp_path / "preserv.yaml")
    assert "no folder" in why(tmp_path / "nowhere" / "x.yaml")
    assert "is a folder" in why(tmp_path)
    assert "latin.yaml:2: byte 0xe9 is not UTF-8" in why(tmp_path / "latin.yaml")
    assert "utf16.yaml:1: byte 0xff is not UTF-8" in why(tmp_path / "utf16.yaml")
    assert "bytes of a YAML file are too many" in why(tmp_path / "large.yaml")
    assert "cannot be read" in why(Path("a\0b"))
    assert read(tmp_path / "preserve.yaml").path == tmp_path / "preserve.yaml"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read(tmp_path / "x.yaml").data == {"a": 1, "b": 2}


def test_small_things() -> None:
    assert dotted(("a", 0, "b")) == "a[0].b" and dotted(()) == ""
    assert nearest("hbm_byte", ["hbm_bytes", "l2_bytes"]) == ", did you mean 'hbm_bytes'?"
    assert nearest("l2", ["hbm_bytes", "l2_bytes"]) == ", did you mean 'l2_bytes'?"
    assert nearest("zzz", ["a"]) == nearest("", ["a"]) == nearest("a", []) == ""
    assert scalar("1e3") == 1000.0 and scalar("a b") == "a b" and scalar("{a: 1}") == {"a": 1}


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_a_document_or_a_scenario_error(text: str) -> None:
    try:
        assert isinstance(parse(text), Document)
    except ScenarioError as error:
        assert error.faults


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
)
_PLAIN = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abno19.-~ ", max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(_PLAIN)
def test_what_is_dumped_reads_back(value: Any) -> None:
    again = parse(dump({"value": value})).data["value"]
    if isinstance(value, float):
        assert math.isclose(again, value)
    assert again == value
