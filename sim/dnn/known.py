"""The networks known by name, each data and one function of its family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sim.dnn.bert import SIZES, bert
from sim.dnn.convnets import DENSENETS, RESNETS, densenet, inception_v3, mobilenet, resnet, vgg_16
from sim.dnn.gemms import Dnn

CONVNETS: dict[str, Callable[..., Dnn]] = {
    **{f"resnet{depth}": partial(resnet, depth) for depth in RESNETS},
    **{f"densenet{depth}": partial(densenet, depth) for depth in DENSENETS},
    "inception_v3": inception_v3,
    "vgg16": vgg_16,
    "mobilenet": mobilenet,
}
BERTS: dict[str, Callable[..., Dnn]] = {f"bert_{size}": partial(bert, size) for size in SIZES}


def known() -> dict[str, tuple[Dnn, str]]:
    """Every network known by name as it is by default, and what its input is then."""
    images = {name: (dnn(name), "224 x 224 pixels") for name in CONVNETS}
    return images | {name: (dnn(name), "128 tokens") for name in BERTS}


def dnn(
    name: str, *, image: int = 224, length: int = 128, batch: int = 1, exact: bool = False
) -> Dnn:
    """The network `name` at an image size, or sequence length, and batch.

    `exact`: BERT as the authors of SOSA run it alone, one encoder repeated (see `bert`);
    convolutional networks are the same either way.
    """
    if name in CONVNETS:
        return CONVNETS[name](image=image, batch=batch)
    if name in BERTS:
        return BERTS[name](length=length, batch=batch, exact=exact, repeated=exact)
    raise ValueError(f"no network {name!r} here; choose one of {', '.join([*CONVNETS, *BERTS])}")
