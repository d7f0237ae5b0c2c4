"""Muon as nanochat has it (Jordan et al. 2024, with four later refinements), written anew: matrices of one shape move as one stack.

Nesterov momentum; rows brought to their mean norm; orthogonalized by five polynomials of Polar Express (Amsel et al. 2025); brought to the
Frobenius norm of an orthogonal matrix; each row or column, along the longer side, divided by the root of its running mean square at an
unchanged norm (NorMuon, Li et al. 2025); decay only where it points the same way as the update (Chen et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

POLYNOMIALS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""a, b, c of a X + b (X X^T) X + c (X X^T)^2 X, one a step (Amsel et al. 2025, with their safety factor of 0.02)."""
BETA2 = 0.9


def orthogonalize(g: Tensor) -> Tensor:
    """The nearest matrices with all singular values near 1, [..., m, n]."""
    x = g / (1.01 * g.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    wide = x.mT if x.shape[-2] > x.shape[-1] else x  # the smaller Gram matrix
    for a, b, c in POLYNOMIALS:
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.mT if x.shape[-2] > x.shape[-1] else wide


def update(weights: Tensor, grads: Tensor, buffer: Tensor, squares: Tensor, rate: Tensor, momentum: Tensor, decay: Tensor) -> None:
    """Moves a stack of matrices [K, m, n] in place; ``squares`` is [K, m, 1] or, for wide matrices, [K, 1, n]."""
    m, n = weights.shape[-2:]
    buffer.lerp_(grads, 1 - momentum)
    g = grads.lerp(buffer, momentum)
    g = g * (g.norm(dim=(-2, -1), keepdim=True) / m**0.5 / g.norm(dim=-1, keepdim=True).clamp_min(1e-6))
    g = orthogonalize(g)
    size = min(m, n) ** 0.5
    g = g * (size / g.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-6))
    squares.lerp_(g.square().mean(dim=-1 if m >= n else -2, keepdim=True), 1 - BETA2)
    scaled = g * squares.clamp_min(1e-10).rsqrt()
    g = scaled * (size / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))
    weights.sub_(rate * (g + decay * weights * (g * weights >= 0)))


class Muon:
    """Momentum, mean squares and stacks of all matrices given."""

    def __init__(self, parameters: Iterable[Tensor], compiled: bool = False):
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for p in parameters:
            by_shape.setdefault(tuple(p.shape), []).append(p)
        self._stacks = list(by_shape.values())
        self._buffers = [torch.zeros(len(stack), *stack[0].shape) for stack in self._stacks]
        self._squares = [b.mean(-1 if b.shape[-2] >= b.shape[-1] else -2, keepdim=True) for b in self._buffers]
        self._update: Callable = torch.compile(update, dynamic=False, fullgraph=True) if compiled else update

    @torch.no_grad()
    def step(self, rate: float, momentum: float, decay: float) -> None:
        """Moves every matrix; rates grow with max(1, rows / columns)^0.5."""
        for stack, buffer, squares in zip(self._stacks, self._buffers, self._squares, strict=True):
            rows, columns = stack[0].shape
            weights = torch.stack(stack)
            # As tensors, for a compiled update would otherwise be compiled again for every value.
            numbers = (torch.tensor(v) for v in (rate * max(1.0, rows / columns) ** 0.5, momentum, decay))
            self._update(weights, torch.stack([p.grad for p in stack if p.grad is not None]), buffer, squares, *numbers)
            torch._foreach_copy_(stack, list(weights.unbind(0)))
