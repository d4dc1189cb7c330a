"""A machine on which a reproduction serves requests, through one replica or several."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import simpy

from sim import catalog
from sim.engine.group import Group, members_of
from sim.engine.pool import Host as EngineHost
from sim.engine.service import Service, run_service
from sim.facts.outcome import Outcome
from sim.graph.batch import Batch
from sim.graph.footprint import room
from sim.graph.graph import Graph
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
        pod, model = catalog.pod(self.pod), catalog.model(self.model)
        device, ranks = catalog.device(pod.device), self.parallel.ranks
        network = Network(pod.graph(), catalog.library(self.library or pod.library))
        machine = Machine(device.l2_bytes, device.hbm_bytes_per_s, ranks)
        chosen = [(name, TECHNIQUES[name].options()) for name in self.techniques]

        def graph_of(batch: Batch) -> Graph:
            return apply(transformer(model, self.precision, self.parallel, batch), machine, chosen)

        def group_of(_: object) -> Group:
            return Group(simpy.Environment(), members_of(device, graph_of, ranks), network)

        service = Service(
            rules._replace(jump=not op, coupled=rules.coupled or closed_loop),
            replicas,
            pool_of(0, len(replicas)),
            op,
            (0.0, 0.0),
            closed_loop=closed_loop,
            expected=len(columns),
        )
        return run_service([columns], service, [[EngineHost(group_of)]], model, None)

    def kv_tokens(self, new_tokens: int, utilisation: float = 0.9) -> int:
        """What the KV-cache holds, as an engine derives it; ValueError if weights do not fit."""
        model, device = catalog.model(self.model), catalog.device(catalog.pod(self.pod).device)
        return int(
            room(
                model, self.precision, self.parallel, device.hbm_bytes * utilisation, new_tokens
            ).kv_tokens
        )


def one_replica(policy: str, sequences: int, new_tokens: int, kv_tokens: int) -> np.recarray:
    """A replica with blocks of 16 tokens."""
    return replica_of(POLICIES[policy], sequences, new_tokens, 16, kv_tokens // 16)
