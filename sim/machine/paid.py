"""What the chips of a machine take to run and to make."""

from __future__ import annotations

from sim.facts.outcome import Paid
from sim.hardware.chip_cost import RETICLE_MM2, estimate, facts_of, made
from sim.machine.pod import Machinery
from sim.machine.wiring import assumptions
from sim.scenario import MisfitError


def paid(here: Machinery) -> Paid:
    """What a chip takes to run and, if the scenario asks, to make; the assumptions of that too.

    MisfitError if no such chip can be made.
    """
    v, device = here.variant, here.device
    if v.pod.chip is None:
        return Paid(device.power_w, device.price_per_hour)
    cost = estimate(**v.pod.chip.given())
    try:
        chip = made(device, here.network.egress_bytes_per_s(0), cost)
    except ValueError as fault:
        raise MisfitError([(("pod", "chip"), str(fault))]) from None
    of = f"a chip of {cost.node}"
    here.assumptions.extend(assumptions({of: facts_of(cost)}, {of: "pod.chip"}))
    if chip.die_mm2 > RETICLE_MM2:
        here.notes.append(
            f"a die of {chip.die_mm2:,.0f} mm2 is larger than the {RETICLE_MM2:g} mm2 that can be "
            "exposed at once; several would have to be joined, which is not in its cost"
        )
    return Paid(chip.watts, device.price_per_hour, chip.die_mm2, chip.dollars)
