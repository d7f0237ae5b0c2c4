"""AdamW, for dense gradients and for tables of which a step touches few rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from groundup.optim.config import AdamW


def adamw_(
    config: AdamW,
    weights: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    lr: float,
    weight_decay: float,
    step: int,
) -> None:
    """One AdamW step in place, over lists of tensors of equal shapes; ``step`` counts from 1.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    w <- w (1 - lr * weight_decay) - lr * (m / (1 - beta1^step)) / ((v / (1 - beta2^step))^0.5 + eps).
    (Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2.)
    """
    first_share, second_root = 1 - config.beta1**step, math.sqrt(1 - config.beta2**step)
    torch._foreach_lerp_(first, gradients, 1 - config.beta1)
    torch._foreach_mul_(second, config.beta2)
    torch._foreach_addcmul_(second, gradients, gradients, value=1 - config.beta2)
    # Both corrections are scalars, so they go into eps and the learning rate instead of into one more pass over memory each.
    scales = torch._foreach_sqrt(second)
    torch._foreach_add_(scales, config.eps * second_root)
    if weight_decay:
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
    torch._foreach_addcdiv_(weights, first, scales, value=-lr * second_root / first_share)


class AdamWState:
    """The moments of one group.

    A gradient may be a sparse COO tensor over rows, as an embedding makes. Then only the touched rows move ("lazy Adam"): the
    moments, the weights and the decay of all other rows stand still, while the bias correction follows the global step. Where
    every row is touched in every step this is AdamW; a rarely touched row remembers its last gradients instead of forgetting them.
    """

    def __init__(self, config: AdamW, parameters: dict[str, Tensor]) -> None:
        self.config = config
        self.parameters = list(parameters.values())
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def slots(self) -> dict[str, Tensor]:
        """The state by "parameter/slot"; the tensors are live."""
        return {f"{name}/first": m for name, m in self.first.items()} | {f"{name}/second": v for name, v in self.second.items()}

    def step(self, gradients: list[Tensor], lr: float, weight_decay: float, step: int) -> None:
        """Moves every parameter by ``adamw_``, tables with a sparse gradient by their touched rows alone."""
        whole = list(zip(self.parameters, gradients, self.first.values(), self.second.values(), strict=True))
        if all(weight.device.type == "cpu" for weight in self.parameters):
            for weight, gradient, *moments in whole:
                self._move_on_cpu(weight, gradient, moments, lr, weight_decay, step)
            return
        dense = [item for item in whole if not item[1].is_sparse]
        if dense:
            weights, dense_gradients, first, second = map(list, zip(*dense, strict=True))
            adamw_(self.config, weights, dense_gradients, first, second, lr, weight_decay, step)
        for table, gradient, *moments in (item for item in whole if item[1].is_sparse):
            gradient = gradient.coalesce()
            rows, state = gradient.indices()[0], (table, *moments)
            weights, first, second = ([tensor.index_select(0, rows)] for tensor in state)
            adamw_(self.config, weights, [gradient.values()], first, second, lr, weight_decay, step)
            for tensor, (touched,) in zip(state, (weights, first, second), strict=True):
                tensor.index_copy_(0, rows, touched)

    def _move_on_cpu(self, weight: Tensor, gradient: Tensor, moments: list[Tensor], lr: float, weight_decay: float, step: int) -> None:
        """``adamw_`` in one pass over memory."""
        from groundup.kernels import native  # only where it runs: a GPU's machine need not have numba

        c, second_root = self.config, math.sqrt(1 - self.config.beta2**step)
        numbers = (c.beta1, c.beta2, c.eps * second_root, 1 - lr * weight_decay, lr * second_root / (1 - c.beta1**step))
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, values = gradient.indices()[0].numpy(), gradient.values()
            table, *state = (tensor.detach().numpy() for tensor in (weight, *moments))
            native.split_rows(native.adamw_rows, *values.shape, rows, table, values.numpy(), *state, *map(native.number, numbers))
            return
        flat = [tensor.detach().view(-1).numpy() for tensor in (weight, gradient.contiguous(), *moments)]
        native.split_rows(native.adamw_numbers, len(flat[0]), 1, *flat, *map(native.number, numbers))
