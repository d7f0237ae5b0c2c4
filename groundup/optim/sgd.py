"""Stochastic gradient descent with momentum."""

from __future__ import annotations

import torch
from torch import Tensor

from groundup.optim.config import SGD


class SGDState:
    """The momentum buffers of one group."""

    def __init__(self, config: SGD, parameters: dict[str, Tensor]) -> None:
        self.config = config
        self.parameters = list(parameters.values())
        self.buffers = {name: torch.zeros_like(p) for name, p in parameters.items()} if config.momentum else {}

    def slots(self) -> dict[str, Tensor]:
        """The state by "parameter/slot"; the tensors are live."""
        return {f"{name}/momentum": buffer for name, buffer in self.buffers.items()}

    def step(self, gradients: list[Tensor], lr: float, weight_decay: float, step: int) -> None:
        """b <- momentum * b + g; w <- w * (1 - lr * weight_decay) - lr * u, with u = b, or g + momentum * b (Nesterov).

        b starts at 0. (Polyak 1964; Sutskever et al. 2013; decay as in Loshchilov & Hutter 2019, algorithm 1.)
        """
        updates = gradients
        if self.buffers:
            buffers = list(self.buffers.values())
            torch._foreach_mul_(buffers, self.config.momentum)
            torch._foreach_add_(buffers, gradients)
            updates = torch._foreach_add(gradients, buffers, alpha=self.config.momentum) if self.config.nesterov else buffers
        if weight_decay:
            torch._foreach_mul_(self.parameters, 1 - lr * weight_decay)
        torch._foreach_add_(self.parameters, updates, alpha=-lr)
