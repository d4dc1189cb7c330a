"""Texts to learn from and to measure on, and windows of tokens cut from them.

Two corpora come with the test data of the package gensim, found without importing it: `wikipedia`,
91 long articles of an English Wikipedia dump (CC BY-SA 3.0 and GFDL), and `news`, 300 items of the
Australian Broadcasting Corporation from 2000-2002, the background corpus of Lee, Pincombe and Welsh
(2005), free for research. Anything else is a text file, in UTF-8.
"""

from __future__ import annotations

import bz2
import hashlib
import html
import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from sim.learn.tokens import Tokens

_DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_SHORT = 3_000  # characters: an article of less is a stub or a redirect
_OF_EIGHT = (*["calibration"] * 3, "validation", *["calibration"] * 3, "test")


class Corpus(NamedTuple):
    """Documents and where they are from."""

    name: str
    documents: tuple[str, ...]
    licence: str
    sha256: str  # of the documents' text

    def part(self, name: str) -> Corpus:
        """Every eighth document is of the part `test`, every other eighth `validation`."""
        kept = tuple(text for i, text in enumerate(self.documents) if _OF_EIGHT[i % 8] == name)
        return self._replace(name=f"{self.name}/{name}", documents=kept)


def corpus(name: str) -> Corpus:
    """One known by name, or a file. ValueError: empty, no text, or not there."""
    if name in ("wikipedia", "news"):
        made = _wikipedia() if name == "wikipedia" else _news()
        licences = {
            "wikipedia": "CC BY-SA 3.0 and GFDL (Wikipedia)",
            "news": "free for research (Lee, Pincombe and Welsh 2005; ABC)",
        }
        return Corpus(name, made, licences[name], _hash(made))
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error.reason})") from None
    except FileNotFoundError:
        raise ValueError(f"no text {name!r}: not a file, nor wikipedia or news") from None
    if not text.strip():
        raise ValueError(f"{path}: the text is empty")
    parts = _blocks(text)
    return Corpus(path.name, parts, "not said", _hash(parts))


def windows(
    text: Corpus, tokens: Tokens, length: int, count: int, seed: int | None = None
) -> Tensor:
    """`count` windows [count, length] that do not overlap: spread evenly, or drawn by `seed`.

    ValueError: the text is too short for them.
    """
    own = length - (tokens.bos is not None)
    ids = [i for document in text.documents for i in tokens.encode(document)]
    there = len(ids) // own
    if there < count:
        raise ValueError(
            f"{text.name}: {len(ids)} tokens make {there} windows of {length}, and {count} are "
            "asked for; give a longer text, or ask for fewer or shorter windows"
        )
    if seed is None:
        chosen = np.arange(count) * there // count
    else:
        chosen = np.random.default_rng(seed).permutation(there)[:count]
    cut = torch.tensor(ids[: there * own]).view(there, own)[torch.from_numpy(chosen.copy())]
    if tokens.bos is None:
        return cut
    return torch.cat((torch.full((count, 1), tokens.bos), cut), 1)


def _hash(documents: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(documents).encode()).hexdigest()


def _blocks(text: str) -> tuple[str, ...]:
    """A file as 64 documents of whole lines, so that its parts come from all over it."""
    lines = text.splitlines(keepends=True)
    size, blocks = max(len(text) // 64, 1), [""]
    for line in lines:
        if len(blocks[-1]) >= size:
            blocks.append("")
        blocks[-1] += line
    return tuple(blocks)


def _test_data(name: str) -> Path:
    found = find_spec("gensim")
    places = found.submodule_search_locations if found else None
    if not places:
        raise ValueError(
            "the texts wikipedia and news come with the package gensim, which is not installed: "
            "pip install gensim, or give a text file"
        )
    return Path(places[0]) / "test" / "test_data" / name


def _news() -> tuple[str, ...]:
    return tuple(_test_data("lee_background.cor").read_text(encoding="utf-8").splitlines())


def _wikipedia() -> tuple[str, ...]:
    articles = []
    with bz2.open(_test_data(_DUMP)) as file:
        for _, node in ElementTree.iterparse(file):
            if node.tag.endswith("}text"):
                plain = _plain(node.text or "")
                if len(plain) > _SHORT:
                    articles.append(plain)
                node.clear()
    return tuple(articles)


def _plain(text: str) -> str:
    """Wiki markup taken out: comments, tables, templates, references, files, links' targets."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<ref[^>/]*/>|<ref[^>]*>.*?</ref>", "", text, flags=re.S | re.I)
    text = re.sub(r"<(math|gallery|timeline|nowiki|code)\b.*?</\1>", "", text, flags=re.S | re.I)
    for inner in (r"\{\{[^{}]*\}\}", r"\{\|(?:(?!\{\|).)*?\|\}"):
        before = None
        while before != text:  # innermost first
            before, text = text, re.sub(inner, "", text, flags=re.S)
    text = re.sub(r"\[\[(?:File|Image|Category)[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", "", text)
    text = re.sub(r"\[\[[a-z-]{2,12}:[^\[\]]*\]\]", "", text)  # the same article elsewhere
    text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]]*)\]\]", r"\1", text)
    text = re.sub(r"\[https?://\S*\s*([^\]]*)\]", r"\1", text)
    text = re.sub(r"<[^>]+>", "", text)
    text = re.sub(r"'{2,}", "", text)
    text = re.sub(r"^=+\s*(.*?)\s*=+\s*$", r"\1", text, flags=re.M)
    text = re.sub(r"^[*#:;]+\s*", "", text, flags=re.M)
    return re.sub(r"\n\s*\n+", "\n\n", html.unescape(text)).strip()
