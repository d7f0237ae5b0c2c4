"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.optim.config import SOAP


def eigenbasis(gram: Float[Tensor, "n dim dim"]) -> Float[Tensor, "n dim dim"]:
    """Eigenvectors in columns, largest eigenvalue first."""
    return torch.linalg.eigh(gram).eigenvectors.flip(-1)


def refresh(gram: Float[Tensor, "n dim dim"], basis: Float[Tensor, "n dim dim"]) -> tuple[Float[Tensor, "n dim dim"], Int[Tensor, "n dim"]]:
    """One step of orthogonal iteration, Q of the QR decomposition of gram @ basis, on columns sorted by their Rayleigh quotients.

    Returns the new basis and the order that sorted the old one. (Vyas et al. 2024, algorithm 4.)
    """
    order = (basis * (gram @ basis)).sum(-2).argsort(dim=-1, descending=True, stable=True)
    basis = basis.gather(-1, order[:, None, :].expand_as(basis))
    return torch.linalg.qr(gram @ basis).Q, order


class _Stack:
    """The state of all matrices of one shape, stacked: moments [n, rows, cols]; Gram matrices and bases [n, side, side]."""

    def __init__(self, config: SOAP, names: list[str], parameters: list[Tensor]) -> None:
        self.names, self.parameters = names, parameters
        like = torch.stack([parameter.detach() for parameter in parameters])
        self.first, self.second = torch.zeros_like(like), torch.zeros_like(like)
        self.grams: dict[int, Tensor] = {}
        self.bases: dict[int, Tensor] = {}
        for dim in (-2, -1):
            side = like.shape[dim]
            if side <= config.max_dim:
                self.grams[dim] = like.new_zeros(len(names), side, side)
                self.bases[dim] = torch.eye(side, dtype=like.dtype, device=like.device).repeat(len(names), 1, 1)

    def into_basis(self, x: Tensor) -> Tensor:
        if -2 in self.bases:
            x = self.bases[-2].mT @ x
        return x @ self.bases[-1] if -1 in self.bases else x

    def out_of_basis(self, x: Tensor) -> Tensor:
        if -2 in self.bases:
            x = self.bases[-2] @ x
        return x @ self.bases[-1].mT if -1 in self.bases else x

    def track(self, gradient: Tensor, beta: float) -> None:
        """Moves the Gram matrices: L <- beta L + (1 - beta) G G^T, R <- beta R + (1 - beta) G^T G."""
        for dim, gram in self.grams.items():
            left, right = (gradient, gradient.mT) if dim == -2 else (gradient.mT, gradient)
            gram.baddbmm_(left, right, beta=beta, alpha=1 - beta)

    def turn(self) -> None:
        """Refreshes the bases, and lets the second moments follow the order of their axes."""
        for dim, gram in self.grams.items():
            basis, order = refresh(gram, self.bases[dim])
            self.bases[dim].copy_(basis)
            order = order[:, :, None] if dim == -2 else order[:, None, :]
            self.second.copy_(self.second.gather(dim, order.expand_as(self.second)))


class SOAPState:
    """Moments, Gram matrices and eigenbases of one group of matrices."""

    def __init__(self, config: SOAP, parameters: dict[str, Tensor]) -> None:
        self.config = config
        self.order = list(parameters)
        shapes: dict[torch.Size, list[str]] = {}
        for name, parameter in parameters.items():
            shapes.setdefault(parameter.shape, []).append(name)
        self.stacks = [_Stack(config, names, [parameters[name] for name in names]) for names in shapes.values()]

    def slots(self) -> dict[str, Tensor]:
        """The state by "parameter/slot"; the tensors are live."""
        slots = {}
        for stack in self.stacks:
            kinds = {"first": stack.first, "second": stack.second}
            for dim, side in ((-2, "rows"), (-1, "cols")):
                if dim in stack.bases:
                    kinds |= {f"gram_{side}": stack.grams[dim], f"basis_{side}": stack.bases[dim]}
            slots |= {f"{name}/{kind}": tensor[i] for kind, tensor in kinds.items() for i, name in enumerate(stack.names)}
        return slots

    def step(self, gradients: list[Tensor], lr: float, weight_decay: float, step: int) -> None:
        """One step; ``step`` counts from 1. With G the gradient [rows, cols], and L, R the moving averages of G G^T and G^T G:

        M <- beta1 M + (1 - beta1) G;  G' = Q_L^T G Q_R, M' = Q_L^T M Q_R;  V <- beta2 V + (1 - beta2) G'^2;
        W <- W (1 - lr * weight_decay) - lr Q_L (M' / (1 - beta1^step)) / ((V / (1 - beta2^step))^0.5 + eps) Q_R^T.
        Q_L and Q_R are the eigenvectors of L and R: of the first gradient's at step 1, and after every ``refresh_every`` steps
        renewed by one QR. (Vyas et al. 2024, algorithm 3; theirs spends the first step on the basis alone.)
        """
        config, by_name = self.config, dict(zip(self.order, gradients, strict=True))
        first_share, second_root = 1 - config.beta1**step, math.sqrt(1 - config.beta2**step)
        for stack in self.stacks:
            gradient = torch.stack([by_name[name] for name in stack.names])
            if step == 1:
                stack.track(gradient, config.shampoo_beta)
                for dim, gram in stack.grams.items():
                    stack.bases[dim].copy_(eigenbasis(gram))
            stack.first.lerp_(gradient, 1 - config.beta1)
            turned = stack.into_basis(gradient)
            stack.second.mul_(config.beta2).addcmul_(turned, turned, value=1 - config.beta2)
            scales = stack.second.sqrt().add_(config.eps * second_root)
            update = stack.out_of_basis(stack.into_basis(stack.first) / scales)
            if weight_decay:
                torch._foreach_mul_(stack.parameters, 1 - lr * weight_decay)
            torch._foreach_add_(stack.parameters, update.unbind(0), alpha=-lr * second_root / first_share)
            if step > 1:
                stack.track(gradient, config.shampoo_beta)
                if step % config.refresh_every == 0:
                    stack.turn()
