"""BERT as matrix products, of any size and sequence length.

As in keras_bert, which the systolic-array literature measures: the masked-language head's first
product and the next-sentence head are there, the products with the vocabulary (embedding and its
transpose) are not.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.dnn.gemms import Dnn, GemmLayer
from sim.text.pick import pick

HEAD = 64  # elements of a head, in every size


class Size(NamedTuple):
    """Width and number of encoders."""

    width: int
    encoders: int


SIZES = {
    "tiny": Size(256, 4),
    "small": Size(512, 4),
    "medium": Size(512, 8),
    "base": Size(768, 12),
    "large": Size(1024, 24),
}


def bert(
    size: str = "base",
    length: int = 128,
    batch: int = 1,
    *,
    exact: bool = False,
    repeated: bool = False,
) -> Dnn:
    """BERT on `batch` sequences of `length` tokens.

    `exact` keeps two habits of the authors of SOSA (arXiv 2203.11540): the scores wait for V as
    well, and a batch attends as one sequence of batch x length tokens. `repeated` keeps a third:
    one encoder with the heads behind it is the DNN, and all of it is repeated as often as there
    are encoders.
    """
    width, encoders = pick(SIZES, size, "BERT")
    if length < 1 or batch < 1:
        raise ValueError(f"BERT needs a length and a batch of at least 1, not {length} and {batch}")
    tokens = batch * length
    layers: list[GemmLayer] = []
    before: tuple[str, ...] = ()
    for index in range(1 if repeated else encoders):
        layers += _encoder(f"encoder{index + 1}", before, width, length, batch, exact)
        before = (layers[-1].name,)
    layers += [
        GemmLayer("mlm_dense", tokens, width, width, after=before),
        GemmLayer("nsp_dense", batch, width, width, after=before),
        GemmLayer("nsp", batch, width, 2, after=("nsp_dense",)),
    ]
    return Dnn(f"bert_{size}", tuple(layers), encoders if repeated else 1)


def _encoder(
    name: str, before: tuple[str, ...], width: int, length: int, batch: int, exact: bool
) -> list[GemmLayer]:
    """K, Q and V of the first encoder read the same X from memory: it comes with K."""
    tokens = batch * length
    seen, sequences = (tokens, 1) if exact else (length, batch)
    layers = [
        GemmLayer(
            f"{name}_{part}",
            tokens,
            width,
            width,
            after=before,
            raw_input=not before and part == "k",
        )
        for part in ("k", "q", "v")
    ]
    projected = tuple(f"{name}_{part}" for part in ("kqv" if exact else "kq"))
    heads = [f"{s}_{h}" for s in range(sequences) for h in range(width // HEAD)]
    scored = (*(f"{name}_qk{head}" for head in heads), *(() if exact else (f"{name}_v",)))
    scores = [GemmLayer(f"{name}_qk{head}", seen, HEAD, seen, after=projected) for head in heads]
    values = [GemmLayer(f"{name}_pv{head}", seen, seen, HEAD, after=scored) for head in heads]
    return [
        *layers,
        *scores,
        *values,
        GemmLayer(f"{name}_o", tokens, width, width, after=tuple(each.name for each in values)),
        GemmLayer(f"{name}_ff1", tokens, width, 4 * width, after=(f"{name}_o",)),
        GemmLayer(f"{name}_ff2", tokens, 4 * width, width, after=(f"{name}_ff1",)),
    ]
