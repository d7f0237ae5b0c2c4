"""What linear mixers and experts execute between their projections, operation by operation as ``model`` runs them.

Counted in numbers that operations read and write. The products of a linear mixer's rule are small, one for each head and chunk, and its
passes go over matrices that a cache holds, so their dispatch weighs as much as their bytes.

Symbols: T tokens of one sequence, H heads, E key_dim, V value_dim, c tokens of a chunk, X experts, A of them active.
"""

from __future__ import annotations

from collections.abc import Sequence

from groundup.account.execution import Execution
from groundup.account.work import Pass, Product, StepWork, Work
from groundup.config import Experts, LinearMixer


def convolution(a: LinearMixer, t: int) -> StepWork:
    """The short convolution, x sigmoid(x), then queries and keys normalized, repeated for heads that share them, and laid out by heads."""
    keys, heads = 2 * a.n_key_heads * a.key_dim * t, 2 * a.n_heads * a.key_dim * t
    mixed, taps = keys + a.n_heads * a.value_dim * t, a.conv_width - 1
    forward = (
        Pass((2 + 5 * taps) * mixed, (2 + 3 * taps) * mixed, calls=2 + 7 * taps),
        Pass(3 * mixed, 2 * mixed, calls=2),
        Pass(3 * keys + 3 * heads, 2 * keys + 3 * heads, calls=12),
    )
    backward = (
        Pass((6 + 9 * taps) * mixed, (4 + 6 * taps) * mixed, calls=5 + 10 * taps),
        Pass(9 * mixed, 5 * mixed, calls=5),
        Pass(11 * keys + 3 * heads, 6 * keys + 3 * heads, calls=26),
    )
    return StepWork(forward, backward)


def delta_products(a: LinearMixer, chunks: Sequence[int], met: Sequence[int], left: Sequence[int], run: Execution) -> dict[str, StepWork]:
    """Of the rule in chunks: the triangular solve, what stands within chunks with all passes, and what the state carries across them.

    A product of half the square stands for a solve. The rule is in fp32: where activations have two bytes its numbers count twice.
    """
    h, e, v = a.n_heads, a.key_dim, a.value_dim
    solved: list[Work] = []
    for i, c in enumerate(chunks):
        solved.append(Product(c, max(1, c // 2), v + (e if len(met) == len(chunks) or i > 0 else 0), h, "count"))
    within = [p for c in chunks for p in (Product(c, e, c, h, "count"), Product(c, e, c, h, "count"), Product(c, c, v, h, "count"))]
    across = [p for c in met for p in (Product(c, e, v, h, "count"),) * 2] + [Product(e, c, v, h, "count") for c in left]
    wide = h * (4 // run.number_bytes)
    squares, rows, states = sum(c * c for c in chunks) * wide, sum(chunks) * wide, len(left) * e * v * wide
    n = len(chunks)
    forward = Pass(8 * squares + rows * (6 * e + 8 * v) + 3 * states, 7 * squares + rows * (6 * e + 6 * v) + 2 * states, calls=45 * n)
    backward = Pass(
        21 * squares + rows * (33 * e + 14 * v) + 12 * states, 11 * squares + rows * (17 * e + 9 * v) + 6 * states, calls=85 * n
    )
    return {
        "triangular_solve": StepWork(tuple(solved), tuple(solved) * 3),
        "within_chunks": StepWork((*within, forward), (*within, *within, backward)),
        "across_chunks": StepWork(tuple(across), tuple(across) * 2),
    }


def expert_products(mlp: Experts, t: int, n_out: int, n_in: int) -> StepWork:
    """One product of as many rows for each expert as for any other, forward and back, and the stacking of the matrices' gradients."""
    rows = t * mlp.n_active
    experts = min(mlp.n_experts, rows)
    m = rows // experts
    forward = Product(m, n_in, n_out, experts)
    backward = (Product(m, n_out, n_in, experts), Product(n_out, m, n_in, experts, "k"))
    stacked = Pass(masters=2 * mlp.n_experts * n_out * n_in, calls=2 * mlp.n_experts)
    return StepWork((forward, Pass(calls=experts)), (*backward, stacked))


def expert_rows(mlp: Experts, t: int, d: int) -> StepWork:
    """Scores and choice, rows brought to their experts, and what these gave brought back, weighted; and the gradients of all that."""
    n, rows, scored = t * d, t * mlp.n_active * d, t * mlp.n_experts
    forward = (Pass(8 * scored, 6 * scored, calls=16), Pass(5 * rows, 4 * rows + n, calls=7))
    backward = (Pass(6 * scored, 3 * scored, calls=16), Pass(9 * rows, 6 * rows + n, calls=8))
    return StepWork(forward, backward)
