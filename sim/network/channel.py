"""A channel between an edge and the cloud: rates up and down, latency, jitter and loss.

What loss does: every packet that is lost is sent again, so of each rate the share 1 - loss carries
what is new (goodput), and a message whose last packet is lost waits for one more round trip, which
in the mean is loss / (1 - loss) of one. Jitter adds to each message a random delay with an
exponential distribution. Not modelled: slow start and congestion control, bursts of loss, the
radio's own states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.hardware.device import Fact


@dataclass(frozen=True)
class Channel:
    """One edge's way to the cloud.

    Rates are in bytes/s, as one edge alone gets them; latency is one way. `send_w` and `receive_w`
    are what the edge's radio takes while it does so. `overhead_s` comes before each message.
    """

    name: str
    up_bytes_per_s: float
    down_bytes_per_s: float
    latency_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    send_w: float = 0.0
    receive_w: float = 0.0
    overhead_s: float = 0.0
    facts: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def goodput(self) -> float:
        """Share of a rate that carries what is new."""
        return 1.0 - self.loss

    @property
    def delay_s(self) -> float:
        """Mean delay of a message beside its bytes, without jitter."""
        return self.overhead_s + self.latency_s * (1.0 + 2.0 * self.loss / (1.0 - self.loss))

    def up_s(self, nbytes: float) -> float:
        """Mean time of a message to the cloud, alone on the channel."""
        return self.delay_s + self.jitter_s + nbytes / (self.up_bytes_per_s * self.goodput)

    def down_s(self, nbytes: float) -> float:
        """Mean time of a message to the edge, alone on the channel."""
        return self.delay_s + self.jitter_s + nbytes / (self.down_bytes_per_s * self.goodput)
