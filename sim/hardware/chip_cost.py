"""What a chip costs to make: the area of its die, how many of them a wafer gives that work, its
memory and package, and what it draws.

Constants are estimates of others, each with its range and source, by process node; anything may be
set. They are costs and no prices: margins, contracts, masks, testing, boards and cooling are not
modelled, nor that chips are sold with parts switched off (their yield is higher, and no source says
by how much), nor the area of vector units, caches other than L2, and on-chip networks, for which
there is `other_mm2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil, exp, pi, sqrt
from typing import NamedTuple

from sim.facts.assumption import Range
from sim.hardware.device import Device, Fact
from sim.text.strict_yaml import nearest

WAFER_MM, RETICLE_MM2 = 300.0, 858.0  # the largest field is 26 x 33 mm
MIB = 2.0**20
LINK_BYTES_PER_S = 25e9  # one way, of NVLink 3 and 4, whose area is known


class Estimate(NamedTuple):
    """A constant with what is known of it."""

    value: float
    low: float
    high: float
    tag: str
    source: str


_A = "Yinxiao-Feng/DAC2022 at d8dc4f1, spec/parameter.ini and ChipletHL/chip.py"
_B = "PrincetonUniversity/ttm-cas at d10eded and LLMCompass at 2e015fd, cost_model.py"
_C = "nanocad-lab/cost_model_chiplets at 0218db1"
_D = "Chiplet Cloud's constants, bespoke-silicon-group/reallm, as read in excerpts"

_ANY_NODE = {
    "other_mm2": Estimate(0.0, 0.0, 300.0, "INFER", "no source says; left out"),
    "stack_bytes_per_s": Estimate(
        460e9, 307e9, 819e9, "RECALLED", "HBM2e, 1,024 bits at 3.6 Gb/s; HBM2 and HBM3 either side"
    ),
    "critical_share": Estimate(1.0, 0.6, 1.0, "READ", f"{_C}: 0.6 of the area; others: all"),
    "hbm_dollars_per_gb": Estimate(
        7.0, 7.0, 25.0, "READ", f"{_B}: spot average of October 2023; sold far above since"
    ),
    "package_dollars_per_mm2": Estimate(
        0.022, 0.022, 0.06, "READ", f"{_C}: of interposer; high: INFER"
    ),
    "interposer_share": Estimate(
        2.0, 1.5, 3.0, "INFER", "interposer over die, with its stacks beside"
    ),
    "bonding_yield": Estimate(0.95, 0.95, 0.99, "READ", f"{_A}: silicon interposer"),
    "watts_per_tflops": Estimate(1.3, 0.8, 1.3, "READ", f"{_D}, BF16"),
}
_DEFECTS = f"{_A}: D0 and alpha go together; {_B}: 0.15 and 3, 0.20 and 3 at 5 nm; {_C}: 0.07 and 2"
ESTIMATES: dict[str, dict[str, Estimate]] = {
    "7 nm": {
        "wafer_dollars": Estimate(
            9_346.0, 8_411.0, 10_281.0, "READ", f"{_A}, {_B}, all after Khan and Mann; range 10 %"
        ),
        "defects_per_cm2": Estimate(0.09, 0.07, 0.15, "READ", _DEFECTS),
        "clustering": Estimate(10.0, 2.0, 10.0, "READ", _DEFECTS),
        "sram_mm2_per_mib": Estimate(
            0.67,
            0.45,
            2.7,
            "INFER",
            f"geometric mean of 0.45 ({_D}) and 1.0, the likely part for a large L2; {_B}: 2.0 to "
            "2.7 for caches whole",
        ),
        "matrix_mm2_per_tflops": Estimate(
            0.72, 0.29, 0.86, "READ", f"{_D}, BF16: TPUv4i 0.72, IPU 0.86, 0.29 in an older edition"
        ),
        "hbm_mm2_per_stack": Estimate(
            16.15, 8.3, 16.6, "READ", f"{_B}: PHY 10.45 and 5.7 of controller; {_D}: 8.3 to 16.6"
        ),
        "link_mm2": Estimate(1.89, 0.97, 1.89, "READ", f"{_B}: a link of NVLink 3, 25 GB/s a way"),
        "host_mm2": Estimate(7.7, 7.7, 10.2, "READ", f"{_B}: 16 lanes of PCIe 4 at 0.48; PCIe 5"),
        **_ANY_NODE,
    },
    "5 nm": {
        "wafer_dollars": Estimate(
            16_988.0, 15_289.0, 18_687.0, "READ", f"{_A}, {_B}, after Khan and Mann; range 10 %"
        ),
        "defects_per_cm2": Estimate(0.11, 0.07, 0.20, "READ", _DEFECTS),
        "clustering": Estimate(10.0, 2.0, 10.0, "READ", _DEFECTS),
        "sram_mm2_per_mib": Estimate(
            0.52, 0.35, 2.0, "INFER", f"that of 7 nm x 0.35 / 0.45 ({_D}); {_B}: 1.5 to 2.0"
        ),
        "matrix_mm2_per_tflops": Estimate(
            0.405, 0.16, 0.72, "INFER", f"that of 7 nm x 96.3 / 171.3 MTr/mm2 ({_B})"
        ),
        "hbm_mm2_per_stack": Estimate(
            13.68, 8.3, 16.6, "READ", f"{_B}: PHY 10.45, which does not shrink, and 3.23"
        ),
        "link_mm2": Estimate(0.97, 0.97, 1.89, "READ", f"{_B}: a link of NVLink 4"),
        "host_mm2": Estimate(10.2, 7.7, 10.2, "READ", f"{_B}: 16 lanes of PCIe 5 at 0.64"),
        **_ANY_NODE,
    },
}


@dataclass(frozen=True)
class ChipCost:
    """The constants of one estimate; None of `hbm_stacks`: as many as the HBM rate needs."""

    node: str
    wafer_dollars: float
    defects_per_cm2: float
    clustering: float  # alpha of the negative binomial: smaller, more clustered
    critical_share: float  # of the area in which a defect kills
    sram_mm2_per_mib: float  # with its periphery
    matrix_mm2_per_tflops: float  # of BF16, or FP16
    hbm_mm2_per_stack: float  # PHY and controller
    link_mm2: float  # of a link of 25 GB/s one way
    host_mm2: float
    other_mm2: float
    stack_bytes_per_s: float
    hbm_dollars_per_gb: float
    package_dollars_per_mm2: float  # of interposer,
    interposer_share: float  # which is so many times the die
    bonding_yield: float
    watts_per_tflops: float
    hbm_stacks: int | None = None


def estimate(node: str = "7 nm", **changes: float | None) -> ChipCost:
    """The constants of a node, some of them set; ValueError if there is no such node or constant,
    or one is below zero."""
    if node not in ESTIMATES:
        raise ValueError(f"no process node {node!r}; there are {', '.join(ESTIMATES)}")
    known = [field.name for field in fields(ChipCost) if field.name != "node"]
    for name, value in changes.items():
        if name not in known:
            raise ValueError(
                f"a chip's cost has no {name!r}{nearest(name, known)}; it has {', '.join(known)}"
            )
        if value is not None and value < 0:
            raise ValueError(f"{name}: {value:g} is below zero")
    values: dict[str, float | None] = {n: each.value for n, each in ESTIMATES[node].items()}
    given = {name: value for name, value in changes.items() if value is not None}
    return ChipCost(node=node, **(values | given))  # type: ignore[arg-type]


def facts_of(cost: ChipCost) -> dict[str, Fact]:
    """Where each constant comes from, with its range."""
    found = {}
    for name, each in ESTIMATES[cost.node].items():
        value = getattr(cost, name)
        found[name] = (
            Fact(
                f"{value:g} ({each.low:g} to {each.high:g})",
                each.tag,
                each.source,
                range=Range(each.value, each.low, each.high, each.source),
            )
            if value == each.value
            else Fact(f"{value:g}", "CHANGED", "set by the scenario")
        )
    return found


class Chip(NamedTuple):
    """A chip made by an estimate: areas in mm2, dollars, watts."""

    parts_mm2: Mapping[str, float]
    die_yield: float
    dies: float  # on a wafer, working or not
    die_dollars: float  # of one that works
    dollars: float  # with memory and package
    watts: float  # what the device's card says, or by its peak

    @property
    def die_mm2(self) -> float:
        """All parts."""
        return sum(self.parts_mm2.values())


def negative_binomial(defects: float, clustering: float) -> float:
    """Share of dies without a killing defect, of `defects` on average."""
    return float((1.0 + defects / clustering) ** -clustering)


def poisson(defects: float) -> float:
    """The same where defects do not cluster."""
    return exp(-defects)


def murphy(defects: float) -> float:
    """The same where their density varies as a triangle; between the two."""
    return ((1.0 - exp(-defects)) / defects) ** 2 if defects else 1.0


def dies_per_wafer(die_mm2: float, wafer_mm: float = WAFER_MM) -> float:
    """Dies that lie whole on a wafer; 0 or less: none."""
    return pi * (wafer_mm / 2) ** 2 / die_mm2 - pi * wafer_mm / sqrt(2.0 * die_mm2)


def made(device: Device, egress_bytes_per_s: float, cost: ChipCost) -> Chip:
    """What a chip like `device` costs whose links carry so much one way together; ValueError if no
    die of it can be made.

    A die above the reticle limit would be several: their joints are not modelled, and the yield is
    that of one.
    """
    half = ("bf16", "fp16", "int8", "fp8")
    tflops = next(
        device.matrix_flop_per_s[name] / (1.0 if name in half[:2] else 2.0)
        for name in half
        if name in device.matrix_flop_per_s
    )
    tflops /= 1e12
    stacks = cost.hbm_stacks or ceil(device.hbm_bytes_per_s / cost.stack_bytes_per_s)
    parts = {
        "matrix units": tflops * cost.matrix_mm2_per_tflops,
        "L2": device.l2_bytes / MIB * cost.sram_mm2_per_mib,
        "HBM": stacks * cost.hbm_mm2_per_stack,
        "links": egress_bytes_per_s / LINK_BYTES_PER_S * cost.link_mm2,
        "host": cost.host_mm2,
        "other": cost.other_mm2,
    }
    area = sum(parts.values())
    dies = dies_per_wafer(area)
    if dies < 1:
        raise ValueError(f"a die of {area:,.0f} mm2 does not fit on a wafer")
    die_yield = negative_binomial(
        area / 100.0 * cost.defects_per_cm2 * cost.critical_share, cost.clustering
    )
    die_dollars = cost.wafer_dollars / (dies * die_yield)
    memory = device.hbm_bytes / 1e9 * cost.hbm_dollars_per_gb
    package = area * cost.interposer_share * cost.package_dollars_per_mm2
    watts = device.power_w or tflops * cost.watts_per_tflops
    whole = (die_dollars + memory + package) / cost.bonding_yield
    return Chip(parts, die_yield, dies, die_dollars, whole, watts)
