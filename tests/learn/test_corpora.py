"""Texts and windows of them."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test-learn)")
pytest.importorskip("tokenizers", reason="tokenizers is not installed (make test-learn)")

import tiny_models as tiny  # noqa: E402

from sim.learn.corpora import _plain, corpus, windows  # noqa: E402
from sim.learn.huggingface import read_folder  # noqa: E402
from sim.learn.tokens import Tokens  # noqa: E402


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return read_folder(tiny.write_folder(tmp_path_factory.mktemp("model")))[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.txt"
    path.write_text(tiny.some_text())
    return path


def test_parts_share_no_text_and_lose_none(file: Path) -> None:
    whole = corpus(str(file))
    parts = [whole.part(name).documents for name in ("calibration", "validation", "test")]
    assert "".join(whole.documents) == file.read_text()
    assert sum(map(len, parts)) == len(whole.documents)
    assert parts[1:] == [whole.documents[3::8], whole.documents[7::8]]


def test_windows_do_not_overlap(file: Path, tokens: Tokens) -> None:
    text = corpus(str(file))
    stream = tokens.encode("".join(text.documents))
    for seed in (None, 0, 1):
        cut = windows(text, tokens, 16, 40, seed)
        assert cut.shape == (40, 16)
        starts = range(0, len(stream), 16)
        rows = {tuple(row) for row in cut.tolist()}
        assert rows <= {tuple(stream[i : i + 16]) for i in starts}
    assert torch.equal(windows(text, tokens, 16, 40, 1), windows(text, tokens, 16, 40, 1))
    assert not torch.equal(windows(text, tokens, 16, 40, 1), windows(text, tokens, 16, 40, 2))


def test_a_window_begins_with_the_models_first_token(file: Path, tokens: Tokens) -> None:
    cut = windows(corpus(str(file)), tokens._replace(bos=0), 16, 4)
    assert cut.shape == (4, 16)
    assert cut[:, 0].tolist() == [0] * 4


def test_text_shorter_than_its_windows(file: Path, tokens: Tokens) -> None:
    with pytest.raises(ValueError, match=r"some\.txt: .* make 0 windows of .*give a longer text"):
        windows(corpus(str(file)), tokens, 1_000_000, 1)


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\xff")
    for name, said in (
        ("empty.txt", "the text is empty"),
        ("odd.txt", "not text in UTF-8"),
        ("absent.txt", "no text .*: not a file, nor wikipedia or news"),
    ):
        with pytest.raises(ValueError, match=said):
            corpus(str(tmp_path / name))


def test_wiki_markup_is_taken_out() -> None:
    text = (
        "{{Infobox|a={{b}}}}'''Rank''' is [[linear algebra|algebra]].<ref>x</ref> See [[basis]]"
        "[http://a.b here].\n== Use ==\n{| table\n| x\n|}\n* one\n[[File:a.png|thumb|a [[b]] c]]"
        "[[de:Rang]]"
    )
    assert _plain(text) == "Rank is algebra. See basishere.\nUse\none"


def test_the_texts_of_gensim() -> None:
    pytest.importorskip("gensim", reason="gensim is not installed (make test-learn)")
    wikipedia, news = corpus("wikipedia"), corpus("news")
    assert (len(wikipedia.documents), len(news.documents)) == (91, 300)
    assert wikipedia.sha256 != news.sha256
    assert not any("{{" in text or "[[" in text for text in wikipedia.documents[:20])
