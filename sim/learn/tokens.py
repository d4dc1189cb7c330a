"""Text to tokens and back, by the model's own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

# How text is cut before BPE, by the name in `tokenizer.ggml.pre` (llama.cpp, src/llama-vocab.cpp).
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_CUTS = {"llama-bpe": _LLAMA3, "llama3": _LLAMA3, "qwen2": _QWEN2, "default": "", "gpt-2": ""}


class Tokens(NamedTuple):
    """A tokenizer. `bos`: the token that every window begins with, None where the model has none"""

    tokenizer: Any
    bos: int | None

    def encode(self, text: str) -> list[int]:
        """Without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(ids)


def byte_level(
    where: str, tokens: list[str], merges: list[str], cut: str, special: list[str], bos: int | None
) -> Tokens:
    """A byte-level BPE tokenizer from its tables. ValueError: `cut` is not known."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    if cut == "smollm":
        before = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    elif _CUTS.get(cut):
        before = [
            pre_tokenizers.Split(Regex(_CUTS[cut]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    elif cut in _CUTS:
        before = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        raise ValueError(
            f"{where}: text is cut by {cut!r}; known are smollm, {', '.join(sorted(_CUTS))}"
        )
    pairs = [(a, b) for a, _, b in (merge.partition(" ") for merge in merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(before)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return Tokens(tokenizer, bos)


def from_json(file: Path, bos: int | None) -> Tokens:
    """The `tokenizer.json` of a checkpoint."""
    from tokenizers import Tokenizer

    return Tokens(Tokenizer.from_file(str(file)), bos)
