"""A decision that is searched by gradients: options with logits, softened by Gumbel noise.

Source: U-Boost NAS (arXiv 2203.12412): soft, one draw a forward pass, at a falling temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Choice(nn.Module):
    """Logits of options and the gates of the present draw, [options] that add up to 1."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.alpha = nn.Parameter(alpha)
        self.settle()

    @property
    def logits(self) -> Tensor:
        """Of each option, up to a constant, [options]."""
        return self.alpha

    def draw(self, temperature: float, generator: torch.Generator) -> None:
        """Gates for the next pass, with Gumbel noise."""
        logits = self.logits
        self.gates = ((logits + gumbel(len(logits), generator, logits)) / temperature).softmax(0)

    def settle(self) -> None:
        """The likeliest option alone."""
        logits = self.logits.detach()
        self.gates = nn.functional.one_hot(logits.argmax(), len(logits)).to(logits)

    @property
    def probabilities(self) -> Tensor:
        """Without noise, at temperature 1."""
        return self.logits.detach().softmax(0)


def gumbel(size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard Gumbel noise."""
    uniform = torch.rand(size, generator=generator, dtype=torch.float64).clamp_(1e-12, 1 - 1e-12)
    return (-(-uniform.log()).log()).to(like)


class Width(Choice):
    """How many channels a convolution has: first, first + step, ...; the last is allocated.

    One object serves a fixed range and one that grows. `alpha` is a logit for each of `count`
    options, or one number, the middle of a normal density of deviation 1 over the options' numbers:
    then `resize` changes how many there are, and a new one begins as unlikely as it is far away.
    Channels below the first option are always there. One option alone is a width that is not
    searched.
    """

    def __init__(self, first: int, step: int, count: int, alpha: Tensor) -> None:
        if min(first, step, count) < 1:
            raise ValueError(f"{count} widths from {first} by {step}: each is at least 1")
        if len(alpha) not in (1, count):
            raise ValueError(f"{len(alpha)} logits for {count} widths")
        self.first, self.step, self.count = first, step, count
        super().__init__(alpha)

    @property
    def logits(self) -> Tensor:
        """See `Choice`."""
        if len(self.alpha) == self.count:
            return self.alpha
        at = torch.arange(self.count, dtype=self.alpha.dtype, device=self.alpha.device)
        return -((at - self.alpha) ** 2) / 2

    @property
    def options(self) -> Tensor:
        """Channels [options]."""
        return self.first + self.step * torch.arange(
            self.count, dtype=self.alpha.dtype, device=self.alpha.device
        )

    @property
    def allocated(self) -> int:
        """Channels for which there are weights."""
        return self.first + self.step * (self.count - 1)

    @property
    def likeliest(self) -> int:
        """Channels of the likeliest option."""
        return self.first + self.step * int(self.logits.argmax())

    @property
    def effective(self) -> Tensor:
        """Mean of the options by the gates: what the machine is asked about."""
        if self.count == 1:
            return torch.tensor(float(self.first))
        return (self.gates * self.options).sum()

    def mask(self) -> Tensor | None:
        """Of each allocated channel, the gates of the options that have it, [allocated]; None where
        there is nothing to choose."""
        if self.count == 1:
            return None
        reach = self.gates.flip(0).cumsum(0).flip(0)  # of the options from here on
        first = reach[:1].expand(self.first)
        return torch.cat([first, reach[1:].repeat_interleave(self.step)])

    def resize(self, count: int) -> None:
        """So many options, those of the upper end coming or going.  Weights follow by
        `Network.fit`.  ValueError for a width of a fixed range."""
        if len(self.alpha) == self.count or count < 2:
            raise ValueError(f"{self.count} widths of a fixed range cannot become {count}")
        self.count = count
        self.settle()
