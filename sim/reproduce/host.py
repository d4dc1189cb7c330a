"""A machine on which a reproduction serves requests, through one replica or several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import simpy
from pydantic import BaseModel

from sim import catalog
from sim.engine.group import GraphOf, Group, members_of
from sim.engine.pool import Host as EngineHost
from sim.engine.service import Service, run_service
from sim.facts.outcome import Outcome
from sim.graph.footprint import footprint, room
from sim.graph.parallel import Parallel
from sim.graph.precision import Precision
from sim.graph.transformer import transformer
from sim.network.network import Network
from sim.serving.fleet import POLICIES, Rules, pool_of, replica_of
from sim.techniques import TECHNIQUES, Machine, apply
from sim.traces.columns import Columns

RULES = Rules(
    router=0, order=0, seed=0, jump=True, coupled=False, unit_tokens=0, shed=False, tail_first=True
)


class Host(NamedTuple):
    """A pod, a model laid over some of its chips, and its techniques."""

    pod: str
    model: str
    parallel: Parallel = Parallel()
    techniques: tuple[str, ...] = ()
    precision: Precision = Precision()
    library: str | None = None  # of collectives; None: the pod's own

    def serve(
        self,
        columns: Columns,
        replicas: np.recarray,
        rules: Rules = RULES,
        *,
        op: bool = False,
        closed_loop: bool = False,
    ) -> Outcome:
        """The requests through a pool of replicas.

        In a closed loop, a session's next turn waits for the answer.
        """
        pod = catalog.pod(self.pod)
        device, ranks = catalog.device(pod.device), self.parallel.ranks
        network = Network(pod.graph(), catalog.library(self.library or pod.library))

        graph_of = self.graph_of()

        def group_of(_: object) -> Group:
            return Group(simpy.Environment(), members_of(device, graph_of, ranks), network)

        service = Service(
            rules._replace(jump=not op, coupled=rules.coupled or closed_loop),
            replicas,
            pool_of(0, len(replicas)),
            op,
            closed_loop=closed_loop,
            expected=len(columns),
        )
        return run_service([columns], service, [[EngineHost(group_of)]], None)

    def kv_tokens(self, new_tokens: int, utilisation: float = 0.9) -> int:
        """What the KV-cache holds, as an engine derives it; ValueError if weights do not fit."""
        whole = footprint(self.graph_of(), self.parallel, new_tokens)
        hbm_bytes = catalog.device(catalog.pod(self.pod).device).hbm_bytes * utilisation
        return int(room(self.model, [whole], self.parallel, hbm_bytes, new_tokens).kv_tokens)

    def graph_of(self) -> GraphOf:
        """What a pass asks of one rank, techniques applied."""
        device, model = catalog.device(catalog.pod(self.pod).device), catalog.model(self.model)
        machine = Machine(device.l2_bytes, device.hbm_bytes_per_s, self.parallel.ranks)
        techniques = [each for name in self.techniques for each in chosen(name)]
        return lambda batch: apply(
            transformer(model, self.precision, self.parallel, batch), machine, techniques
        )


def chosen(name: str, options: Iterable[tuple[str, Any]] = ()) -> list[tuple[str, BaseModel]]:
    """A technique by its name, as `apply` wants it; none without a name."""
    return [(name, TECHNIQUES[name].options(**dict(options)))] if name else []


def one_replica(policy: str, sequences: int, new_tokens: int, kv_tokens: int) -> np.recarray:
    """A replica with blocks of 16 tokens."""
    return replica_of(POLICIES[policy], sequences, new_tokens, 16, kv_tokens // 16)
