"""Gradient clipping by the norm of all gradients together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from groundup.errors import UsageError


def clip_by_global_norm(parameters: Iterable[Tensor], max_norm: float) -> Float[Tensor, ""]:
    """Scales all gradients in place so that their common norm is at most ``max_norm``, and returns the norm before.

    g <- g * min(1, max_norm / (|g| + 1e-6)), |g|^2 = the sum of squares over every gradient, in fp32 (Pascanu et al. 2013).
    Parameters without a gradient are passed over; a row-sparse gradient is coalesced first. Nothing is checked and nothing waits
    for the device: if any gradient is not finite then neither is the norm, the gradients are spoilt, and the caller must not step.
    Raises UsageError unless ``max_norm`` is above 0.
    """
    if not max_norm > 0:
        raise UsageError(f"max_norm must be above 0, not {max_norm}: leave clipping out to turn it off")
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    if not values:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values, 2, dtype=torch.float32)))
    torch._foreach_mul_(values, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
