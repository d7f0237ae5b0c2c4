"""The nearest orthogonal matrix by Newton-Schulz iterations: matrix products only, where an SVD would be slow."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Quintic = tuple[float, float, float]
"""(a, b, c) of p(x) = a x + b x^3 + c x^5."""

JORDAN: Quintic = (3.4445, -4.7750, 2.0315)
"""The fixed quintic of Jordan et al. 2024: fast from small singular values, but it ends in about [0.7, 1.2], not at 1."""

_SAFETY = 1.01
"""Inputs are shrunk by this much against rounding in bf16 (Amsel et al. 2025, section 4.4)."""
_CUSHION = 0.02407327424182761
"""Singular values below this share of the largest do not bend the polynomial any further (Amsel et al. 2025, section 4.4)."""


def _minimax_quintic(lower: float, upper: float) -> Quintic:
    """The odd quintic nearest to 1 on [lower, upper] in the largest error, by Remez' exchange.

    Its error takes its extreme value with alternating signs at four points: both ends and the two extrema q < r between them. So
    solve for (a, b, c, error) given q and r, find the extrema of that polynomial, and repeat.
    """
    if lower > (1 - 5e-6) * upper:  # the limit, where the linear system is singular: p(1) = 1, p'(1) = p''(1) = 0
        return 1.875 / upper, -1.25 / upper**3, 0.375 / upper**5
    q, r = (3 * lower + upper) / 4, (lower + 3 * upper) / 4
    a = b = c = 0.0
    for _ in range(100):
        x = np.array([lower, q, r, upper])
        a, b, c, _error = map(float, np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], axis=1), np.ones(4)))
        root = math.sqrt(9 * b * b - 20 * a * c)
        last, (q, r) = (q, r), (math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c)))
        if abs(q - last[0]) + abs(r - last[1]) < 1e-14:
            break
    return a, b, c


@lru_cache
def polar_express(steps: int, lower: float = 1e-3) -> tuple[Quintic, ...]:
    """Returns the quintics whose composition is nearest to 1 on [lower, 1] (Amsel et al. 2025, algorithm 1 and section 4.4).

    Each is the minimax quintic of the interval that the one before leaves: [l, u] becomes [p(l), 2 - p(l)]. After 5 steps from
    1e-3 every singular value is in [0.85, 1.13], after 6 in [0.98, 1.01]; without the safety factor, in
    [0.87, 1.13] and [0.99, 1.01].
    """
    upper, quintics = 1.0, []
    for _ in range(steps):
        quintic = _minimax_quintic(max(lower, _CUSHION * upper), upper)
        low, high = (_evaluate(quintic, x) for x in (lower, upper))
        recentre = 2 / (low + high)  # 1 unless the cushion has moved the lower end
        quintic = tuple(recentre * k for k in quintic)
        lower = recentre * low
        upper = 2 - lower
        quintics.append(tuple(k / _SAFETY**power for k, power in zip(quintic, (1, 3, 5), strict=True)))
    return tuple(quintics)


def _evaluate(quintic: Quintic, x: float) -> float:
    a, b, c = quintic
    return x * (a + x * x * (b + x * x * c))


def orthogonalize(matrices: Float[Tensor, "n rows cols"], quintics: tuple[Quintic, ...]) -> Float[Tensor, "n rows cols"]:
    """Moves every singular value of each matrix towards 1 and keeps its singular vectors: U S V^T becomes about U V^T.

    X <- X / |X X^T|_F^0.5, then for each quintic X <- a X + b (X X^T) X + c (X X^T)^2 X. The divisor is at least the largest
    singular value, and below the papers' |X|_F by the fourth root of the number of singular values when those are equal: about
    one step's worth, for nothing, since X X^T is needed anyway. A zero matrix stays zero.

    Computed in bf16 on a GPU, whose rounding the iteration bears (Jordan et al. 2024), and in the given precision on a CPU;
    returned in the given precision. On a CPU a matrix at least twice as long as wide iterates on its Gram matrix alone, which
    halves the work: all iterates are polynomials in G = X X^T, so with Z = a + b G + c G^2, Q <- Z Q and G <- Z G Z give
    X <- Q X in the end. (Squaring the singular values costs half the digits of small ones: fp32 has them to spare, bf16 has not.)
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalize(matrices.mT, quintics).mT
    norms = torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True)
    x = matrices / norms.clamp_min(1e-20)  # brings the products into range, whatever the gradient's size
    x = x.bfloat16() if x.is_cuda else x
    gram = x @ x.mT
    norms = torch.linalg.vector_norm(gram.to(matrices.dtype), dim=(-2, -1), keepdim=True).clamp_min(0.01 / gram.shape[-1])
    x.mul_(norms.rsqrt())
    gram.div_(norms)
    by_gram = not x.is_cuda and x.shape[-1] >= 2 * x.shape[-2]
    return (_iterate_gram if by_gram else _iterate)(x, gram, quintics).to(matrices.dtype)


def _iterate(x: Tensor, gram: Tensor, quintics: tuple[Quintic, ...]) -> Tensor:
    for i, (a, b, c) in enumerate(quintics):
        gram = gram if i == 0 else x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_gram(x: Tensor, gram: Tensor, quintics: tuple[Quintic, ...]) -> Tensor:
    product = None
    for i, (a, b, c) in enumerate(quintics):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if i < len(quintics) - 1:
            gram = factor @ gram @ factor
    return x if product is None else product @ x
