"""What must hold of the searches whatever they find: gradients are those of finite differences, and
channels that come or go change nothing for those that stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sim.learn.nas.choice import Width
from sim.learn.nas.flexible import Rule
from sim.learn.nas.network import Network, Single, with_all_operations, with_widths
from sim.systolic.lookup import ONE_ARRAY

CELL = (
    "conv3",
    "separable3",
    "dilated3",
    "identity",
    "conv5",
    "zero",
    "conv3",
    "separable5",
    "dilated5",
)
STEP = 1e-5  # of a logit
IMAGE, CLASSES, STEM = 16, 4, 4
ARRAY = replace(ONE_ARRAY, rows=8, cols=8)


def gradient_errors(only: str = "") -> Iterator[tuple[str, int, float]]:
    """(what, how many parameters, largest error over the largest gradient) of the whole loss by
    every parameter of a decision: of operations, of a fixed range of widths, and of flexible ones,
    for each model of the machine, or for one."""
    torch.manual_seed(0)
    pools = [True, True]

    def free(name: str) -> Width:
        return Width(2, 2, 5, torch.randn(5))

    def flexible(name: str) -> Width:
        return Width(2, 2, 6, torch.tensor([2.3]))

    for what, methods, net in (
        (
            "operations",
            ("uboost", "flops", "roofline", "blackbox"),
            with_all_operations(IMAGE, CLASSES, STEM, pools),
        ),
        (
            "widths",
            ("uboost", "flops", "roofline"),
            with_widths(IMAGE, CLASSES, STEM, pools, [CELL] * 2, free),
        ),
        (
            "flexible widths",
            ("uboost", "flops", "roofline"),
            with_widths(IMAGE, CLASSES, STEM, pools, [CELL] * 2, flexible),
        ),
    ):
        for method in methods:
            if only not in ("", method):
                continue
            yield f"{what}, {method}", *_gradient_error(net.double(), method)


def _gradient_error(net: Network, method: str) -> tuple[int, float]:
    x = torch.randn(8, 3, IMAGE, IMAGE, dtype=torch.float64)
    y = torch.arange(8) % CLASSES
    net.train()

    def loss() -> Tensor:
        net.draw(0.7, torch.Generator().manual_seed(3))
        ms, used = net.price(method, ARRAY, 64)
        return functional.cross_entropy(net(x), y) + 3.0 * ms - used

    alphas = [choice.alpha for choice in net.choices.values()]
    known = torch.cat([each.flatten() for each in torch.autograd.grad(loss(), alphas)])
    found = []
    with torch.no_grad():
        for alpha in alphas:
            for at in range(alpha.numel()):
                kept = float(alpha[at])
                sides = []
                for by in (STEP, -STEP):
                    alpha[at] = kept + by
                    sides.append(float(loss()))
                alpha[at] = kept
                found.append((sides[0] - sides[1]) / (2 * STEP))
    off = (known - torch.tensor(found, dtype=torch.float64)).abs().max()
    return len(found), float(off / known.abs().max())


def resize_errors(seed: int = 0, changes: int = 6) -> dict[str, float]:
    """After widths of a network in training grew or shrank, each by chance: the largest change,
    over the largest value, of what surviving channels compute before their mask, and of the
    logits, with gates on an option that survives; of what optimisers keep of them; and the largest
    probability of a new option under the rule."""
    torch.manual_seed(seed)
    pools = [True, True]
    net = with_widths(
        IMAGE,
        CLASSES,
        STEM,
        pools,
        [CELL] * 2,
        lambda name: Width(2, 2, 8, torch.tensor([3.0])),
    )
    step = torch.optim.SGD(net.weights(), 0.01, 0.9)
    x, y = torch.randn(8, 3, IMAGE, IMAGE), torch.arange(8) % CLASSES
    generator = torch.Generator().manual_seed(seed)
    worst = {"before the mask": 0.0, "logits": 0.0, "optimiser": 0.0, "new option": 0.0}
    for _ in range(changes):
        net.draw(1.0, generator)
        step.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        step.step()
        counts = {name: int(torch.randint(4, 14, (), generator=generator)) for name in net.widths}
        options = {n: min(width.count, counts[n]) - 1 for n, width in net.widths.items()}
        before = _seen(net, x, options)
        kept = {n: p.data.clone() for n, p in net.named_parameters()}
        momentum = {
            n: step.state[p]["momentum_buffer"].clone()
            for n, p in net.named_parameters()
            if "momentum_buffer" in step.state.get(p, {})
        }
        for name, width in net.widths.items():
            if counts[name] != width.count:
                width.resize(counts[name])
        net.fit([step])
        for key, a, b in zip(("before the mask", "logits"), before, _seen(net, x, options)):
            for one, other in zip(a, b):
                both = tuple(slice(0, min(n)) for n in zip(one.shape, other.shape))
                off = (one[both] - other[both]).abs().max() / one.abs().max()
                worst[key] = max(worst[key], float(off))
        for name, parameter in net.named_parameters():
            if name not in momentum:
                continue
            now = step.state[parameter]["momentum_buffer"]
            assert now.shape == parameter.shape, f"{name}: its optimiser keeps another shape"
            for old, new in ((momentum[name], now), (kept[name], parameter.data)):
                both = tuple(slice(0, min(n)) for n in zip(old.shape, new.shape))
                worst["optimiser"] = max(
                    worst["optimiser"], float((old[both] - new[both]).abs().max())
                )
            beyond = now.clone()
            beyond[tuple(slice(0, n) for n in momentum[name].shape)] = 0
            worst["optimiser"] = max(worst["optimiser"], float(beyond.abs().max()))
    worst["new option"] = new_option(Rule())
    return worst


def new_option(rule: Rule) -> float:
    """The largest probability, all together, that new options begin with: their width's middle is
    where the rule lets them come."""
    width = Width(2, 2, 20, torch.tensor([15.0]))
    while float(width.probabilities[-1]) <= rule.grow:
        width.alpha.data += 1e-3
    width.resize(width.count + rule.block)
    return float(width.probabilities[-rule.block :].sum())


def _seen(net: Network, x: Tensor, options: dict[str, int]) -> tuple[list[Tensor], list[Tensor]]:
    """What each convolution computes before its mask, and the logits, all widths being at these
    options."""
    for name, width in net.widths.items():
        width.gates = functional.one_hot(torch.tensor(options[name]), width.count).float()
    made: list[Tensor] = []

    def look(module: Any, given: tuple[Tensor, ...]) -> None:
        made.append(module.conv.before(given[0]))

    singles = [module for module in net.modules() if isinstance(module, Single)]
    handles = [module.register_forward_pre_hook(look) for module in singles]
    net.eval()  # statistics are not to move while it is looked at
    with torch.no_grad():
        logits = net(x)
    net.train()
    for handle in handles:
        handle.remove()
    return made, [logits]
