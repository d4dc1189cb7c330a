"""Backward passes derived from forward graphs: published FLOP and hand counts; channels."""

from __future__ import annotations

import pytest

from sim import catalog
from sim.catalog.channels import channel
from sim.catalog.files import names
from sim.dnn.trained import TRAINED
from sim.graph.batch import Batch, Sequences
from sim.graph.graph import Graph, Layer, Op
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.training import held, matrix_flop, training_step
from sim.graph.transformer import VIEWS, transformer


@pytest.mark.parametrize(
    ("name", "image", "gflop"),
    [("vgg16", 32, 0.626), ("vgg16", 64, 2.506), ("resnet18", 32, 0.074), ("resnet18", 64, 0.296)],
)
def test_forward_flop_as_published(name: str, image: int, gflop: float) -> None:
    assert round(matrix_flop(TRAINED[name](image).rest(0)) / 1e9, 3) == gflop


def test_nothing_flows_back_into_the_image() -> None:
    net = TRAINED["resnet18"](32)
    forward = net.rest(0)
    stem = net.stages[0].layers[0].op("stem").flop
    back = matrix_flop(training_step(forward).backward)
    assert back == 2 * matrix_flop(forward) - stem
    assert back / matrix_flop(forward) == pytest.approx(1.935, abs=5e-4)


def test_nothing_flows_back_over_a_cut() -> None:
    """Both the convolution and the projection of the first block of the rest read the cut."""
    net = TRAINED["resnet18"](32)
    at = net.cuts.index("layer2.1") + 1
    forward = net.rest(at)
    block = net.stages[at].layers[0]
    reads_cut = block.op("layer3.0.1").flop + block.op("layer3.0.down").flop
    back = matrix_flop(training_step(forward).backward)
    assert back == 2 * matrix_flop(forward) - reads_cut


@pytest.mark.parametrize("name", [*TRAINED])
def test_a_cut_loses_only_what_would_cross_it(name: str) -> None:
    net = TRAINED[name](32, batch=4)
    whole = matrix_flop(net.rest(0))
    for at in range(1, len(net.stages) + 1):
        assert matrix_flop(net.first(at)) + matrix_flop(net.rest(at)) == pytest.approx(whole)


def test_feature_to_input_ratios() -> None:
    vgg, resnet = TRAINED["vgg16"](32), TRAINED["resnet18"](64)
    assert [vgg.ratio(i) * 6 for i in range(1, 6)] == [32, 16, 8, 4, 1]
    assert [resnet.ratio(i) * 6 for i in range(1, 10)] == [8, 8, 8, 4, 4, 2, 2, 1, 1]


def test_a_decoder_goes_the_same_way() -> None:
    """Each product has two gradients, an attention two of each of its two products; the embedding
    is no product."""
    model = catalog.model("llama3-8b")
    batch = Batch((Sequences(2, 128, 0),), 256)
    forward = transformer(model, Precision(), Parallel(), batch)
    step = training_step(forward, "adam", VIEWS)
    assert matrix_flop(step.backward) == pytest.approx(2 * matrix_flop(forward), rel=1e-12)
    updated = sum(op.reads[1].nbytes for _, op in step.update.ops())
    assert updated == pytest.approx(held(forward.layers, "sgd").gradients)


def test_what_training_keeps() -> None:
    net = TRAINED["vgg16"](32, batch=2)
    kept = held(net.rest(0).layers, "momentum")
    twice = held(TRAINED["vgg16"](32, batch=4).rest(0).layers, "momentum")
    assert kept.weights == kept.gradients == kept.state == twice.weights
    assert twice.activations == 2 * kept.activations


def test_what_has_no_known_gradient_is_refused() -> None:
    odd = Graph((Layer("odd", (Op("odd", "odd_kind"),)),))
    with pytest.raises(ValueError, match="no gradient is known of odd, a odd_kind"):
        training_step(odd)
    with pytest.raises(ValueError, match="no optimiser 'sdg'"):
        training_step(odd, "sdg")


def test_channels_are_read_and_a_loss_costs_goodput_and_a_round_trip() -> None:
    assert "3g" in names("channels")
    there = channel("3g", {"jitter_s": 0.0, "loss": 0.1})
    assert there.up_s(1e6) == pytest.approx(1e6 / (137500 * 0.9) + 0.06 * (1 + 0.2 / 0.9))
    with pytest.raises(ValueError, match="too small"):
        channel("3g", {"up_bytes_per_s": 0.0})
