"""The catalogue's libraries: the table and forms that each was fitted to, and its card as YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim.calibrate.collectives import Fitted, Form, fit, leave_one_size_out
from sim.calibrate.tables import Measured, aiconfigurator, nccl_tests
from sim.network import topology
from sim.network.topology import Graph
from sim.network.wires import Floats

SMALLEST = 8 * 1024  # bytes: below, every size takes as long


class Source(NamedTuple):
    """A measured library: its table (in ../shared/data/collectives), pod, and forms in a fit."""

    file: str
    what: str
    read: Callable[[Path], list[Measured]]
    ranks: int
    pod: Callable[[], Graph]
    families: tuple[tuple[Form, ...], ...]  # each has a launch of its own

    def rows(self, folder: Path) -> list[Measured]:
        """The rows of the fit."""
        rows = self.read(folder / self.file)
        return [row for row in rows if row.ranks == self.ranks and row.nbytes >= SMALLEST]

    def fits(self, folder: Path) -> Iterator[tuple[tuple[Form, ...], list[Measured]]]:
        """The forms of each fit, and the rows that they are fitted to."""
        rows = self.rows(folder)
        for forms in self.families:
            kinds = {kind for form in forms for kind in form.collectives}
            yield forms, [row for row in rows if row.kind in kinds]


class Family(NamedTuple):
    """One fit of a library: its rows, the ways, and errors without a row's own size."""

    rows: list[Measured]
    fitted: Fitted
    left_out: Floats


_RING = ("all_reduce", "all_gather", "reduce_scatter")
_ONE = ("all_reduce",)
_A2A = (Form("LL", "direct", ("all_to_all",)), Form("Simple", "direct", ("all_to_all",)))
_NODES = (Form("LL", "hierarchical", _ONE), Form("LL128", "hierarchical", _ONE))
_RINGS = tuple(Form(protocol, "ring", _RING) for protocol in ("LL", "LL128", "Simple"))


def _two_nodes(link: float, nic: float) -> Callable[[], Graph]:
    return partial(
        topology.build,
        "multi_node",
        nodes=2,
        chips=8,
        bytes_per_s=link,
        latency_s=0.5e-6,
        nic={"bytes_per_s": nic, "latency_s": 1e-6},
        spine={"bytes_per_s": 8 * nic, "latency_s": 1e-6},
    )


_LOGS = "parsed_nccl_rccl_tests.csv"
_AWS = "aws_p4de_A100_p5_H100_nccl_tests.md"
_A3 = "gcp_a3mega_H100x16_nccl_all_reduce.md"
_AMD = "MI300X_MI325X_MI355X_rccl_tests.md"
SOURCES: dict[str, Source] = {
    "nccl": Source(
        "h100_sxm__comm__nccl__2.29.2__nccl_perf.parquet",
        "half-precision rows of 8 GPUs",
        aiconfigurator,
        8,
        partial(topology.build, "switch", 8, 450e9, 0.5e-6),
        ((*_RINGS, Form("NVLS", "in_switch", _ONE)), _A2A),
    ),
    "nccl_a100": Source(
        "a100_sxm__comm__nccl__2.27.3__nccl_perf.parquet",
        "half-precision rows of 8 GPUs",
        aiconfigurator,
        8,
        partial(topology.build, "switch", 8, 300e9, 0.5e-6),
        (_RINGS, _A2A),
    ),
    "nccl_p5": Source(
        _LOGS,
        "nccl-tests on two p5.48xlarge",
        partial(nccl_tests, source=_AWS, section="p5.48xlarge", ranks=16),
        16,
        _two_nodes(450e9, 50e9),
        ((*_NODES, Form("NVLS", "in_switch", _ONE)),),
    ),
    "nccl_a3mega": Source(
        _LOGS,
        "nccl-tests on two a3-megagpu-8g",
        partial(nccl_tests, source=_A3, section="NCCL", ranks=16),
        16,
        _two_nodes(450e9, 25e9),
        ((*_NODES, Form("NVLS", "in_switch", _ONE)),),
    ),
    "nccl_p4de": Source(
        _LOGS,
        "nccl-tests on two p4de.24xlarge",
        partial(nccl_tests, source=_AWS, section="p4de", ranks=16),
        16,
        _two_nodes(300e9, 6.25e9),
        ((*_NODES, Form("Simple", "hierarchical", _ONE)),),
    ),
    "rccl": Source(
        _LOGS,
        "rccl-tests on 8 MI300X",
        partial(
            nccl_tests,
            source=_AMD,
            section="Using devices",
            ranks=8,
        ),
        8,
        partial(topology.build, "full_mesh", 8, 64e9, 0.5e-6),
        (tuple(Form(protocol, "two_shot", _ONE) for protocol in ("LL", "LL128", "Simple")),),
    ),
}


def fitted(name: str, folder: Path) -> list[Family]:
    """Fit a library of `SOURCES` to its table in `folder`."""
    if name not in SOURCES:
        raise ValueError(f"no measured library {name!r}; there are {', '.join(SOURCES)}")
    graph = SOURCES[name].pod()
    return [
        Family(own, fit(own, graph, forms), leave_one_size_out(own, graph, forms))
        for forms, own in SOURCES[name].fits(folder)
    ]


def card(name: str, folder: Path) -> str:
    """The `ways:` of a library's file in `sim/catalog/libraries`, as YAML with residuals."""
    source, lines = SOURCES[name], ["ways:", "  tag: FITTED"]
    residual = []
    families = fitted(name, folder)
    for rows, fit_, left_out in families:
        for kind in dict.fromkeys(row.kind for row in rows):
            own = [i for i, row in enumerate(rows) if row.kind == kind]
            error, unseen = np.abs(fit_.errors[own]) * 100, np.abs(left_out[own]) * 100
            residual.append(
                f"{kind} mean {error.mean():.1f} %, worst {error.max():.0f} %, unseen size "
                f"{unseen.mean():.1f} %"
            )
    sizes = [row.nbytes for family in families for row in family.rows]
    lines += [
        f"  source: least absolute relative error over {source.what}, "
        f"{min(sizes) >> 10} KiB to {max(sizes) >> 20} MiB, of",
        f"    ../shared/data/collectives/{source.file} (sim/calibrate/libraries.py)",
        f"  residual: '{'; '.join(residual)}'",
        "  table:",
    ]
    for family in families:
        for way in family.fitted.ways:
            kinds = ", ".join(way.collectives)
            lines.append(
                f"    - {{collectives: [{kinds}], algorithm: {way.algorithm}, "
                f"protocol: {way.protocol}, launch: {way.launch_s * 1e6:.4g} us, "
                f"step: {way.step_s * 1e6:.4g} us, efficiency: {way.link_efficiency:.4g}}}"
            )
    return "\n".join(lines) + "\n"
