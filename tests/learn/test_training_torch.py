"""Backward passes derived from op graphs, against what torch's counter of FLOP sees."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs torch (extra learn)")

from torch.nn import functional  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from sim.dnn.trained import TRAINED, Network  # noqa: E402
from sim.graph.graph import Graph  # noqa: E402
from sim.graph.training import matrix_flop, training_step  # noqa: E402
from sim.learn.split import Plan  # noqa: E402

BATCH = 2
CUTS = {"vgg16": "pool3", "resnet18": "layer2.1", "resnet18_cifar": "layer3.0"}


def counted(network: str, image: int) -> list[tuple[float, float]]:
    """FLOP forward and backward of the edge's half with its exit, the cloud's half, and the whole
    network; on a device without memory, so that nothing is computed."""
    plan = Plan(network=network, width=1.0, cut=CUTS[network], image=image, batch=BATCH)
    y = torch.zeros(BATCH, dtype=torch.int64, device="meta")
    part, exit_, cloud = (half.to("meta") for half in plan.halves())
    x = torch.zeros(BATCH, 3, image, image, device="meta")
    z = part(x).detach()
    found = []
    for ways, given in (((part, exit_), x), ((cloud,), z), ((part, cloud), x)):
        with FlopCounterMode(display=False) as forward:
            for way in ways:
                given = way(given)
        with FlopCounterMode(display=False) as backward:
            functional.cross_entropy(given, y).backward()
        found.append((forward.get_total_flops(), backward.get_total_flops()))
    return found


def derived(network: Network, cut: str) -> list[tuple[float, float]]:
    """The same from op graphs."""
    at = network.cuts.index(cut) + 1
    edge = Graph((*network.first(at).layers, *network.exit(at).layers))
    graphs = (edge, network.rest(at), network.rest(0))
    return [(matrix_flop(g), matrix_flop(training_step(g).backward)) for g in graphs]


@pytest.mark.parametrize("image", [32, 64])
@pytest.mark.parametrize("network", [*CUTS])
def test_flop_are_those_that_torch_counts(network: str, image: int) -> None:
    found = derived(TRAINED[network](image, BATCH), CUTS[network])
    for (forward, backward), (theirs, theirs_back) in zip(found, counted(network, image)):
        assert (forward, backward) == (theirs, theirs_back)


def test_widths_are_those_of_the_op_graphs() -> None:
    """Halves, heads and op graphs have the same numbers of weights at any width and cut."""
    for network, cut in CUTS.items():
        for width in (0.0625, 0.3, 1.0):
            plan = Plan(network=network, cut=cut, width=width)
            made = TRAINED[network](32, 1, 10, width)
            at = made.cuts.index(cut) + 1
            graphs = made.first(at), made.exit(at), made.rest(at)
            for graph, half in zip(graphs, plan.halves()):
                read = {t.name: t.nbytes for _, op in graph.ops() for t in op.reads}
                weights = sum(n for name, n in read.items() if name.startswith("w ")) / 4
                assert weights == sum(each.numel() for each in half.parameters())
