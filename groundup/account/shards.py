"""How much longer a device takes for its shares of the products than for so much of whole ones.

Devices that share a matrix have narrower products, and where experts are not spread, or few tokens go through at a time, each expert has
few rows: both read more bytes a FLOP. The roofline knows by how much; measured ceilings also how much slower small products are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from groundup.account.component import Component
from groundup.account.layout import Layout
from groundup.account.roofline import Ceilings, time_of
from groundup.account.spread import Counted
from groundup.account.work import Product


class Shared(NamedTuple):
    """Products with one matrix in all layers of a kind, for one sequence."""

    rows: int
    """Rows that are multiplied, of all experts together."""
    n_in: int
    """Columns of those rows."""
    n_out: int
    """Columns of the result."""
    experts: int
    """Matrices of the same shape that share the rows; 0 for a matrix that is no expert's."""
    narrow: str
    """Which side tensor parallelism divides: "in", "out", or "rows" of what each device holds whole."""
    times: int
    """Layers of the kind."""

    def seconds(self, ceilings: Ceilings, number_bytes: int, sequences: int, layout: Layout, *, whole: bool) -> float:
        """Time of one device for its share of a micro-batch, or for all of it where nothing is divided and experts share a product."""
        t = 1 if whole else layout.tensor
        shares = {side: t if side == self.narrow else 1 for side in ("rows", "in", "out")}
        count = max(1, self.experts // layout.expert) if not whole else 1
        rows = max(1, sequences * self.rows // count // shares["rows"])
        product = Product(rows, max(1, self.n_in // shares["in"]), max(1, self.n_out // shares["out"]), count, "count")
        return self.times * time_of(product, ceilings, number_bytes)[0]


def shared_products(counted: Counted) -> tuple[list[Shared], int]:
    """The products with weights in the layers and the head, and the forward FLOPs of those between tokens."""
    parts = {part.name: part for part in counted.tree("none").parts}
    found, mixing = list(_products(parts["head"], 1)), 0
    for kind, layer in enumerate(parts["layers"].parts if "layers" in parts else ()):
        times = counted.kinds[1].count(kind)
        found += _products(layer, times)
        mixing += times * layer.mixing_flops
    return found, mixing


def _products(component: Component, times: int) -> Iterator[Shared]:
    for _, part in component.walk():
        shapes = [w.shape for w in part.weights if w.kind in ("matrix", "gate", "head")]
        if part.mixes or not part.own_forward_flops or not shapes:
            continue
        *experts, n_out, n_in = shapes[0]
        narrow = "rows" if part.held_by == "each" else "in" if part.name.endswith(("output", "down")) else "out"
        rows = part.own_forward_flops // (2 * n_in * n_out)
        yield Shared(rows, n_in, n_out, experts[0] if experts else 0, narrow, times)


def slowdown(counted: Counted, ceilings: Ceilings, layout: Layout, *, sequences: int, whole_sequences: int, number_bytes: int) -> float:
    """Time of a micro-batch's products in this layout, times the devices that share them, over their time where nothing is divided.

    ``whole_sequences`` is the micro-batch that stands below the fraction, of which a sequence takes its part of the time.
    """
    found, mixing = counted.once("products", None, lambda: shared_products(counted))
    between = mixing / ceilings.best_product_rate
    here = sum(x.seconds(ceilings, number_bytes, sequences, layout, whole=False) for x in found) * layout.tensor / sequences
    whole = sum(x.seconds(ceilings, number_bytes, whole_sequences, layout, whole=True) for x in found) / whole_sequences
    return max(1.0, (here + between) / (whole + between))
