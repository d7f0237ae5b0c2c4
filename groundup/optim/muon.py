"""Muon: momentum, orthogonalized."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from groundup.optim.config import Muon
from groundup.optim.orthogonal import JORDAN, orthogonalize, polar_express


def update_scale(config: Muon, rows: int, cols: int) -> float:
    """The factor of an orthogonal update of shape [rows, cols] = [out, in]; see ``Muon.scale`` for both conventions."""
    return math.sqrt(max(1, rows / cols)) if config.scale == "spectral" else 0.2 * math.sqrt(max(rows, cols))


class MuonState:
    """The momentum buffers of one group of matrices, or stacks of them: each of X experts' matrices is orthogonalized alone."""

    def __init__(self, config: Muon, parameters: dict[str, Tensor]) -> None:
        self.config = config
        self.parameters = list(parameters.values())
        self.buffers = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.quintics = polar_express(config.steps, config.lower) if config.coefficients == "polar_express" else (JORDAN,) * config.steps
        # Matrices of one shape go through one batched product, and so does that shape lying down: a transpose is free.
        self.stacks: dict[tuple[int, int], list[int]] = {}
        for i, parameter in enumerate(self.parameters):
            sides = parameter.shape[-2:]
            self.stacks.setdefault((min(sides), max(sides)), []).append(i)

    def slots(self) -> dict[str, Tensor]:
        """The state by "parameter/slot"; the tensors are live."""
        return {f"{name}/momentum": buffer for name, buffer in self.buffers.items()}

    def step(self, gradients: list[Tensor], lr: float, weight_decay: float, step: int) -> None:
        """b <- mu b + (1 - mu) g; u = b, or (1 - mu) g + mu b (Nesterov); w <- w (1 - lr * weight_decay) - lr s O(u).

        mu is the momentum, O is ``orthogonalize``, s is ``update_scale``. (Jordan et al. 2024; decay as in Liu et al. 2025.)
        """
        buffers = list(self.buffers.values())
        torch._foreach_lerp_(buffers, gradients, 1 - self.config.momentum)
        updates = torch._foreach_lerp(gradients, buffers, self.config.momentum) if self.config.nesterov else buffers
        if weight_decay:
            torch._foreach_mul_(self.parameters, 1 - lr * weight_decay)
        for sides, members in self.stacks.items():
            parts = [_lying(updates[i], updates[i]).reshape(-1, *sides) for i in members]
            moved = orthogonalize(torch.cat(parts), self.quintics).split([len(part) for part in parts])
            for i, update in zip(members, moved, strict=True):
                parameter = self.parameters[i]
                parameter.add_(_lying(update, parameter).view_as(parameter), alpha=-lr * update_scale(self.config, *parameter.shape[-2:]))


def _lying(matrix: Tensor, like: Tensor) -> Tensor:
    """The matrix, or each of a stack, transposed where ``like`` has more rows than columns."""
    return matrix.mT if like.shape[-2] > like.shape[-1] else matrix
