"""A search as arrays and back: weights, decisions, and what optimisers keep of both."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sim.learn.nas.network import Network


def on_threads(count: int) -> None:
    """How many threads torch has from here on; one order of sums is the same everywhere."""
    torch.set_num_threads(count)


def on_device(name: str) -> None:
    """That torch has this device here; else ValueError."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None


Optimisers = Mapping[str, torch.optim.Optimizer]


def arrays_of(network: Network, optimisers: Optimisers) -> dict[str, np.ndarray]:
    """Everything that the next epoch depends on."""
    made = {f"network/{name}": value.cpu().numpy() for name, value in network.state_dict().items()}
    made |= {f"count/{name}": np.array(width.count) for name, width in network.widths.items()}
    for key, optimiser in optimisers.items():
        for name, parameter in network.named_parameters():
            for what, value in optimiser.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    made[f"{key}/{name}/{what}"] = value.cpu().numpy()
    return made


def load(network: Network, optimisers: Optimisers, arrays: Mapping[str, np.ndarray]) -> None:
    """Into a network of the same cells, whose widths get the options they had.  ValueError if it is
    of other cells."""
    tensors = {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}
    for name, width in network.widths.items():
        if (count := int(arrays[f"count/{name}"])) != width.count:
            width.resize(count)
    network.fit()
    own = {
        name.removeprefix("network/"): value
        for name, value in tensors.items()
        if name.startswith("network/")
    }
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"a checkpoint of another network: {str(error)[:200]}") from None
    for key, optimiser in optimisers.items():
        for name, parameter in network.named_parameters():
            prefix = f"{key}/{name}/"
            kept = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
            if kept:
                to = parameter.device
                optimiser.state[parameter] = {
                    what: value if what == "step" else value.to(to) for what, value in kept.items()
                }
