"""Networks as matrix products, against the operation counts that arXiv 2203.11540's artifact
computes from Keras."""

from __future__ import annotations

import pytest

from sim.dnn.bert import bert
from sim.dnn.convnets import densenet, resnet
from sim.dnn.gemms import Dnn, GemmLayer
from sim.dnn.known import IMAGE, KNOWN, dnn

# GOps at 299 and at 224 pixels, products.
KERAS = {
    "inception_v3": (11.4264, 5.676, 95),
    "resnet50": (14.4238, 7.716, 54),
    "resnet101": (28.0984, 15.140, 105),
    "resnet152": (41.7730, 22.565, 156),
    "densenet121": (9.8754, 5.668, 121),
    "densenet169": (11.6125, 6.720, 169),
    "densenet201": (14.6919, 8.583, 201),
}


@pytest.mark.parametrize("name", KERAS)
def test_convnets_have_the_operations_of_keras(name: str) -> None:
    large, small, layers = KERAS[name]
    assert round(dnn(name, image=299).ops / 1e9, 4) == large
    assert round(dnn(name, image=224).ops / 1e9, 3) == small
    assert len(dnn(name).layers) == layers


@pytest.mark.parametrize(
    ("name", "gmacs"), [("vgg16", 15.470), ("resnet18", 1.814), ("mobilenet", 0.551)]
)
def test_other_convnets_have_the_operations_of_their_papers(name: str, gmacs: float) -> None:
    """VGG-16 and ResNet-18 as torchvision counts them; MobileNet's 569 M less 17.6 M of depthwise
    convolutions."""
    assert round(dnn(name).macs / 1e9, 3) == gmacs


@pytest.mark.parametrize(
    ("size", "gops"), [("medium", 5.2500), ("base", 17.4747), ("large", 61.5928)]
)
def test_bert_has_the_operations_of_keras(size: str, gops: float) -> None:
    assert round(bert(size, 100).ops / 1e9, 4) == gops
    assert bert(size, 100).ops == bert(size, 100, exact=True).ops


def test_repeated_bert_repeats_its_heads() -> None:
    whole, repeated = bert("medium", 100), bert("medium", 100, exact=True, repeated=True)
    heads = sum(layer.macs for layer in whole.layers[-3:])
    assert repeated.macs == whole.macs + 7 * heads
    assert round(repeated.ops / 1e9, 4) == 5.6206


def test_a_batch_attends_within_its_sequences_unless_exact() -> None:
    one = bert("medium", 100).macs
    assert bert("medium", 100, batch=4).macs == 4 * one
    assert (
        bert("medium", 100, batch=4, exact=True).macs
        == 4 * one + 8 * (4 * 4 - 4) * 2 * 100 * 100 * 512
    )


@pytest.mark.parametrize("name", KNOWN)
def test_layers_are_fed_by_what_they_read(name: str) -> None:
    """Only the first product reads what comes from memory; BERT's first Q and V share it."""
    network = dnn(name)
    assert [layer.raw_input for layer in network.layers] == [True] + [False] * (
        len(network.layers) - 1
    )
    assert sum(not layer.after for layer in network.layers) == (
        1 if KNOWN[name].input == IMAGE else 3
    )
    last = network.layers[-1].name
    assert not any(last in layer.after for layer in network.layers)


def test_a_batch_multiplies_rows_only() -> None:
    for one, four in zip(
        dnn("densenet121").layers, dnn("densenet121", batch=4).layers, strict=True
    ):
        assert (four.m, four.n, four.k) == (4 * one.m, one.n, one.k)


def test_shortcuts_are_listed_where_keras_lists_them() -> None:
    names = [layer.name for layer in resnet(50).layers]
    block = [f"conv2_block1_{part}" for part in (1, 2, 0, 3)]
    assert names[1:5] == block
    assert resnet(50).layers[5].after == ("conv2_block1_0", "conv2_block1_3")
    assert densenet(121).layers[5].after == ("conv1", "conv2_block1_2", "conv2_block2_2")


@pytest.mark.parametrize(
    ("layers", "fault"),
    [
        ((), "no layers"),
        ((GemmLayer("a", 1, 0, 1),), "size of zero: 1 x 0 x 1"),
        ((GemmLayer("a", 1, 1, 1), GemmLayer("a", 1, 1, 1)), "two layers called a"),
        ((GemmLayer("a", 1, 1, 1, after=("b",)), GemmLayer("b", 1, 1, 1)), "waits for ['b']"),
    ],
)
def test_impossible_networks_are_refused(layers: tuple[GemmLayer, ...], fault: str) -> None:
    with pytest.raises(ValueError) as error:
        Dnn("net", layers)
    assert fault in str(error.value)


def test_unknown_and_too_small_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of resnet18"):
        dnn("alexnet")
    with pytest.raises(ValueError, match="too small for stem_b"):
        dnn("inception_v3", image=5)
    with pytest.raises(ValueError, match="at least 1"):
        dnn("bert_tiny", length=0)
