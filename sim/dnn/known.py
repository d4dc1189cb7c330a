"""The DNNs known by name, a row each: what builds it, and what it takes in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from sim.dnn.bert import SIZES, bert
from sim.dnn.convnets import DENSENETS, RESNETS, densenet, inception_v3, mobilenet, resnet, vgg_16
from sim.dnn.gemms import Dnn
from sim.text.pick import pick


class Input(NamedTuple):
    """A kind of input, of one size: pixels each way, or tokens."""

    name: str  # the argument of a builder, and the option of a scenario
    default: int
    text: str  # of a size
    noun: str  # in a sentence


IMAGE = Input("image", 224, "{0} x {0} pixels", "an image")
LENGTH = Input("length", 128, "{0} tokens", "a length")
INPUTS = {each.name: each for each in (IMAGE, LENGTH)}


class Known(NamedTuple):
    """A DNN known by name."""

    name: str
    build: Callable[..., Dnn]  # of its input's size by name, `batch`, and its `habits`
    input: Input
    habits: tuple[str, ...] = ()  # flags for what the authors of SOSA do otherwise

    def of(self, size: int, batch: int = 1, **habits: bool) -> Dnn:
        """The DNN for so large an input; ValueError if that is too small."""
        own = {habit: on for habit, on in habits.items() if habit in self.habits}
        return self.build(**{self.input.name: size}, batch=batch, **own)


KNOWN = {
    row.name: row
    for row in (
        *(Known(f"resnet{depth}", partial(resnet, depth), IMAGE) for depth in RESNETS),
        *(Known(f"densenet{depth}", partial(densenet, depth), IMAGE) for depth in DENSENETS),
        Known("inception_v3", inception_v3, IMAGE),
        Known("vgg16", vgg_16, IMAGE),
        Known("mobilenet", mobilenet, IMAGE),
        *(
            Known(f"bert_{size}", partial(bert, size), LENGTH, habits=("exact", "repeated"))
            for size in SIZES
        ),
    )
}


def dnn(
    name: str,
    *,
    image: int = IMAGE.default,
    length: int = LENGTH.default,
    batch: int = 1,
    exact: bool = False,
    repeated: bool | None = None,
) -> Dnn:
    """The DNN `name` at an image size, or sequence length, whichever it takes, and batch.

    `exact`: BERT as the authors of SOSA run it alone, one encoder repeated unless `repeated` says
    otherwise (see `bert`); convolutional networks are the same either way.
    """
    row = pick(KNOWN, name, "network")
    size = {IMAGE: image, LENGTH: length}[row.input]
    return row.of(size, batch, exact=exact, repeated=exact if repeated is None else repeated)
