"""What an optimizer is, as data: one frozen dataclass a method, and ``OptimizerConfig``, which says which parameters get which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from groundup.config import SOAP_SIDE
from groundup.errors import UsageError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum (Polyak 1964), optionally Nesterov's (Sutskever et al. 2013)."""

    momentum: float = 0.9
    """Share of the last step's buffer that is kept, in [0, 1); 0 keeps no state."""
    nesterov: bool = False
    """Whether to step along gradient + momentum * buffer instead of along the buffer."""

    def __post_init__(self) -> None:
        _require(0 <= self.momentum < 1, f"sgd.momentum must be in [0, 1), not {self.momentum}")
        _require(self.momentum > 0 or not self.nesterov, "sgd.nesterov needs a momentum above 0")


@dataclass(frozen=True)
class AdamW:
    """Adam (Kingma & Ba 2015) with decoupled weight decay (Loshchilov & Hutter 2019)."""

    beta1: float = 0.9
    """Share of the first moment kept each step (Kingma & Ba 2015)."""
    beta2: float = 0.95
    """Share of the second moment kept each step; 0.95 as in language models since GPT-3 (Brown et al. 2020, appendix B)."""
    eps: float = 1e-10
    """Added to the root of the second moment; below any gradient that matters, as in modded-nanogpt (Jordan et al. 2024)."""

    def __post_init__(self) -> None:
        betas = (self.beta1, self.beta2)
        _require(all(0 <= beta < 1 for beta in betas), f"adamw.beta1 and adamw.beta2 must be in [0, 1), not {betas}")
        _require(self.eps > 0, f"adamw.eps must be above 0, not {self.eps}")


@dataclass(frozen=True)
class Muon:
    """Momentum orthogonalized by Newton-Schulz iterations (Jordan et al. 2024), for matrices only."""

    momentum: float = 0.95
    """Share of the momentum buffer kept each step (Jordan et al. 2024)."""
    nesterov: bool = True
    """Whether to orthogonalize a mix of gradient and buffer instead of the buffer (Jordan et al. 2024)."""
    coefficients: Literal["polar_express", "quintic"] = "polar_express"
    """Minimax polynomials, one a step (Amsel et al. 2025), or one fixed quintic (Jordan et al. 2024)."""
    steps: int = 5
    """Newton-Schulz steps (Amsel et al. 2025); the cost is nearly proportional to them."""
    lower: float = 1e-3
    """polar_express only: singular values above this share of the matrix' norm end near 1. With ``steps`` 5 and 1e-3, 4 and 4e-3,
    or 3 and 1.7e-2, "near" is within 0.16; values below it are enlarged by nearly as much as possible."""
    scale: Literal["spectral", "rms"] = "spectral"
    """What the update's size follows from its shape [rows, cols]. spectral: max(1, rows/cols)^0.5 (Jordan et al. 2024). rms:
    0.2 * max(rows, cols)^0.5, the entries' size under AdamW (Moonlight, Liu et al. 2025), so that one learning rate serves both.
    The default is spectral because it bounds what a step does to the layer's output whatever its width (Yang et al. 2023): the
    planner changes the width with the budget, and the best learning rate should not move with it."""

    def __post_init__(self) -> None:
        _require(0 <= self.momentum < 1, f"muon.momentum must be in [0, 1), not {self.momentum}")
        _require(self.steps >= 1, f"muon.steps must be at least 1, not {self.steps}")
        _require(0 < self.lower < 1, f"muon.lower must be in (0, 1), not {self.lower}")


@dataclass(frozen=True)
class SOAP:
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024), for matrices only."""

    beta1: float = 0.95
    """Share of the first moment kept each step (Vyas et al. 2024)."""
    beta2: float = 0.95
    """Share of the second moment kept each step (Vyas et al. 2024)."""
    shampoo_beta: float = 0.95
    """Share of the two Gram matrices kept each step (Vyas et al. 2024)."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    refresh_every: int = 10
    """Steps between two QR refreshes of the eigenbasis (Vyas et al. 2024)."""
    max_dim: int = SOAP_SIDE
    """A longer side keeps the identity as its basis (Vyas et al. 2024); 0 is plain Adam."""

    def __post_init__(self) -> None:
        betas = (self.beta1, self.beta2, self.shampoo_beta)
        _require(all(0 <= beta < 1 for beta in betas), f"soap.beta1, soap.beta2 and soap.shampoo_beta must be in [0, 1), not {betas}")
        _require(self.eps > 0, f"soap.eps must be above 0, not {self.eps}")
        _require(self.refresh_every >= 1, f"soap.refresh_every must be at least 1, not {self.refresh_every}")
        _require(self.max_dim >= 0, f"soap.max_dim must be at least 0, not {self.max_dim}")


Method = SGD | AdamW | Muon | SOAP


@dataclass(frozen=True)
class OptimizerConfig:
    """Which method and learning rate each kind of parameter gets; the kinds are ``groups.RULES``.

    The learning rates' defaults are those of modded-nanogpt (Jordan et al. 2024) at d_model 768; the planner sets its own.
    """

    matrices: Literal["muon", "soap", "adamw", "sgd"] = "muon"
    """Method of the layers' matrices."""
    others: Literal["adamw", "sgd"] = "adamw"
    """Method of tables, head, gates and vectors: an orthogonalized update means nothing where rows are looked up one by one."""
    matrix_lr: float = 0.02
    """Peak learning rate of the layers' matrices."""
    embedding_lr: float = 0.3
    """Peak learning rate of the token embedding."""
    hash_embedding_lr: float = 0.3
    """Peak learning rate of the hashed n-gram embedding."""
    value_embedding_lr: float = 0.3
    """Peak learning rate of the value embeddings."""
    head_lr: float = 1 / 320
    """Peak learning rate of the head's matrix."""
    gate_lr: float = 0.01
    """Peak learning rate of the value gates and of the prior's gate."""
    vector_lr: float = 0.01
    """Peak learning rate of norm gains and biases."""
    weight_decay: float = 0.01
    """Decoupled decay of the layers' matrices, multiplied by their learning rate; nothing else decays."""
    muon: Muon = Muon()
    """Used where a method is "muon"."""
    soap: SOAP = SOAP()
    """Used where a method is "soap"."""
    adamw: AdamW = AdamW()
    """Used where a method is "adamw"."""
    sgd: SGD = SGD()
    """Used where a method is "sgd"."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_lr") or name == "weight_decay":
                _require(value >= 0, f"{name} must be at least 0, not {value}")
