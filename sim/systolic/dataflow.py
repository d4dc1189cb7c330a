"""Which operand of a product stays in the cells of an array, and what passes by.

SOSA's arrays (arXiv 2203.11540) keep weights. The others are ours (INFER), by the same rule: one
operand stays, rows x cols of it, loaded while the tile before is computed; what passes by is cut
into parts of `partition`. Sums that stay are loaded as well, with what they start from, while those
before them leave.
"""

from __future__ import annotations

from typing import NamedTuple


class Dataflow(NamedTuple):
    """By what the axes of X[m, n] W[n, k] are cut: "rows", "cols" of the array, the "partition"."""

    name: str
    stays: str  # X, W, or the sums P
    m: str
    n: str
    k: str
    scale_sim: str  # its name there
    ours: bool = True  # an extension of SOSA's

    @property
    def streamed(self) -> int:
        """The axis (0 is m, 1 is n, 2 is k) of which a tile op takes one step a cycle."""
        return (self.m, self.n, self.k).index("partition")

    @property
    def loaded(self) -> int:
        """The axis of what stays of which a load takes one step a cycle."""
        return (self.m, self.n, self.k).index("rows")


DATAFLOWS = {
    row.name: row
    for row in (
        Dataflow(
            name="weight_stationary",
            stays="W",
            m="partition",
            n="rows",
            k="cols",
            scale_sim="ws",
            ours=False,
        ),
        Dataflow(
            name="output_stationary", stays="P", m="rows", n="partition", k="cols", scale_sim="os"
        ),
        Dataflow(
            name="input_stationary", stays="X", m="cols", n="rows", k="partition", scale_sim="is"
        ),
    )
}
