"""Cards of a KV-cache in a learned low rank: which ranks each layer has, what that costs a model in
accuracy, and the bases themselves, in a file beside it.

A card is a JSON file. It is found by name, like a device, in `sim/catalog/kv`, in an installed
package (entry point `kv_card.NAME`), or by its path. Tensors are checked where they are there and
safetensors can be imported: `k.LAYER` is the basis of the keys of a layer, head_dim x r_K, shared
by its KV heads; `v.LAYER` those of its values, kv_heads x head_dim x r_V.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from sim.catalog.cards import STRICT, Count, Seed, Text, reader
from sim.text.strict_yaml import Document, KeyPath

ORTHONORMAL = 1e-5  # how far an entry of PᵀP may be from that of the identity
_RATIO = 1e-9
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Method = Literal["stiefel", "eigen_k", "eigen_kq", "svd", "random"]
Ranks = tuple[Annotated[int, Field(strict=True)], ...]


class MeasuredModel(BaseModel):
    """The model that the bases are of; `sha256` is of the file of its weights."""

    model_config = STRICT
    name: Text
    layers: Count
    kv_heads: Count
    query_heads: Count
    head_dim: Count
    sha256: Hash


class Data(BaseModel):
    """The text that the bases were learned on; `sha256` is of that text."""

    model_config = STRICT
    calibration: Text
    tokens: Count
    licence: Text
    sha256: Hash


class RanksOf(BaseModel):
    """Ranks of keys and values, layer by layer."""

    model_config = STRICT
    k: Ranks
    v: Ranks


class Errors(BaseModel):
    """Of each layer, its output against that of the uncompressed one on held-out text: relative
    Frobenius error over all tokens and without the first of each sequence, and the mean cosine of
    a token's without the first."""

    model_config = STRICT
    layer_output: tuple[Number, ...]
    layer_output_no_first: tuple[Number, ...]
    cosine_no_first: tuple[Annotated[float, Field(ge=-1, le=1)], ...]


class Windows(BaseModel):
    """So many windows of so many tokens that a perplexity is of."""

    model_config = STRICT
    count: Count
    tokens: Count


class Domain(BaseModel):
    """Perplexity of the model as it is, and with its KV-cache compressed."""

    model_config = STRICT
    full: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    compressed: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    text: str = ""


class Perplexity(BaseModel):
    """On text like that of the calibration, and on other text."""

    model_config = STRICT
    in_domain: Domain
    out_of_domain: Domain
    windows: Windows


class Flop(BaseModel):
    """FLOP of a decode step for each cached token, over all layers, that the model did not do
    before; `how` says what is counted."""

    model_config = STRICT
    value: Number
    how: Text


class Tensors(BaseModel):
    """The bases: a file in the card's folder, and the SHA-256 of its bytes."""

    model_config = STRICT
    file: Annotated[str, Field(pattern=r"^[^/\\]+\.safetensors$")]
    sha256: Hash


class Other(BaseModel):
    """A way to a smaller cache, measured on the same model, text and windows.

    `techniques` are the entries that a scenario has for it; `method` is that of the bases of a low
    rank alone; `ratio` is its bytes of KV-cache a token over those of 16 bits an element.
    """

    model_config = STRICT
    name: Text
    techniques: tuple[dict[str, dict[str, Any]], ...]
    method: Method | None = None
    ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    perplexity: Perplexity


class KvCard(BaseModel):
    """A card, as it stands in its file."""

    model_config = STRICT
    kind: Literal["kv_low_rank"]
    version: Literal[1]
    name: Text
    method: Method
    model: MeasuredModel
    data: Data
    ranks: RanksOf
    ratio: Annotated[float, Field(gt=0, le=1)]
    errors: Errors
    perplexity: Perplexity
    flop_per_token: Flop
    tensors: Tensors | None = None
    others: tuple[Other, ...] = ()
    seed: Seed
    command: Text
    made_with: dict[str, str]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if wrong := [*self._misfits()]:
            raise ValueError("; ".join(wrong))
        return self

    def _misfits(self) -> Iterator[str]:
        m = self.model
        if m.query_heads % m.kv_heads:
            yield f"{m.query_heads} query heads cannot share {m.kv_heads} KV heads evenly"
        lists: dict[str, tuple[float, ...]] = {
            "ranks.k": self.ranks.k,
            "ranks.v": self.ranks.v,
            **{f"errors.{key}": getattr(self.errors, key) for key in Errors.model_fields},
        }
        lengths = {key: len(found) for key, found in lists.items() if len(found) != m.layers}
        for key, length in lengths.items():
            yield f"{key} has {length} entries, and {m.name} has {m.layers} layers"
        out = [
            (key, layer, rank)
            for key in ("k", "v")
            for layer, rank in enumerate(getattr(self.ranks, key))
            if not 1 <= rank <= m.head_dim
        ]
        for key, layer, rank in out[:3]:
            yield f"ranks.{key}: rank {rank} of layer {layer} is not within 1 to {m.head_dim}"
        if not lengths and not out:
            due = self.ratio_of_ranks
            if not math.isclose(due, self.ratio, rel_tol=_RATIO):
                yield f"ratio is {self.ratio:g}, and the ranks come to {due:.9g}"

    @property
    def ratio_of_ranks(self) -> float:
        """Mean over the layers of (r_K + r_V) / (2 head_dim)."""
        m = self.model
        return (sum(self.ranks.k) + sum(self.ranks.v)) / (2 * m.head_dim * m.layers)

    def mismatches(
        self, *, layers: int, kv_heads: int, query_heads: int, head_dim: int, sha256: str = ""
    ) -> Iterator[str]:
        """What of a model is not as of the card's; `sha256` of its weights where that is known."""
        asked = locals()
        for key in ("layers", "kv_heads", "query_heads", "head_dim"):
            if asked[key] != getattr(self.model, key):
                noun = key.replace("_", " ").replace("kv", "KV")
                yield f"{getattr(self.model, key)} {noun}, not {asked[key]}"
        if sha256 and sha256 != self.model.sha256:
            yield f"weights of SHA-256 {self.model.sha256[:12]}..., not {sha256[:12]}..."


def _of_tensors(found: KvCard, doc: Document) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with the tensors beside a card: their hash, their shapes, their columns.

    A card without its tensors is good for all that a simulation asks of it.
    """
    if found.tensors is None:
        return
    file = doc.path.parent / found.tensors.file
    if not file.is_file():
        return
    is_hash = hashlib.sha256(file.read_bytes()).hexdigest()
    if is_hash != found.tensors.sha256:
        yield (
            ("tensors", "sha256"),
            f"{file.name} is another file than the card's: its SHA-256 is {is_hash}",
        )
        return
    if find_spec("safetensors") is None:
        return
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(file)
    except SafetensorError as error:
        yield ("tensors", "file"), f"{file.name} cannot be read: {error}"
        return
    m = found.model
    for layer, (r_k, r_v) in enumerate(zip(found.ranks.k, found.ranks.v)):
        due = {
            f"k.{layer}": (m.head_dim, r_k),
            f"v.{layer}": (m.kv_heads, m.head_dim, r_v),
        }
        for name, shape in due.items():
            if name not in tensors:
                yield ("tensors", "file"), f"{file.name} lacks the tensor {name}"
            elif tensors[name].shape != shape:
                what = f"{name} is of shape {tensors[name].shape}, and {shape} is due"
                yield ("tensors", "file"), f"{file.name}: {what}"
            elif (off := _off_orthonormal(tensors[name])) > ORTHONORMAL:
                what = f"the columns of {name} are not orthonormal: |PᵀP - I| is {off:.2g}"
                yield ("tensors", "file"), f"{file.name}: {what}, more than {ORTHONORMAL:g}"
            else:
                continue
            return  # one fault of this sort is enough


def _off_orthonormal(basis: Any) -> float:
    """The largest entry of |PᵀP - I|, of one basis or of several; infinite where one is NaN."""
    import numpy as np

    p = np.asarray(basis, dtype=np.float64)
    off = np.abs(np.swapaxes(p, -1, -2) @ p - np.eye(p.shape[-1])).max()
    return float(off) if np.isfinite(off) else math.inf


card = reader("kv", KvCard, _of_tensors)
