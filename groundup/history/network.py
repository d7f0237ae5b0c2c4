"""What the study needs of a neural network over bytes: it reads symbols and carries a state; a head turns what it read into 256 logits."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

SYMBOLS = 256
"""V: what is predicted is always a byte."""
START = 256
"""The symbol before a document's first byte; read, and never predicted."""

State = tuple[Tensor, ...]
"""What a network carries from one symbol to the next; each tensor's first dim is rows. () begins a window."""


@runtime_checkable
class Network(Protocol):
    """A network over bytes."""

    width: int
    """Its size: hidden units, or the width of the residual stream."""
    carries: bool
    """Whether training carries the state from one window of a row to the next; if not, every window begins anew."""
    head: Tensor
    """[256, D] weights of the logits."""
    head_bias: Tensor | None
    """[256], or none."""

    def begin(self, n_rows: int) -> Any:
        """The state before the first symbol, to be carried from there on."""
        ...

    def read(self, symbols: Int[Tensor, "b t"], state: Any) -> tuple[Float[Tensor, "b t d"], Any]:
        """What the head reads at every position, and the state after the last."""
        ...

    def forward_flops(self, n_rows: int, n_steps: int) -> int:
        """FLOPs of the matrix products of reading a window and making its logits; products of a masked pair are not counted."""
        ...


@torch.no_grad()
def spread_(weight: Tensor, std: float, generator: torch.Generator) -> None:
    """Fills a weight with a uniform distribution of this standard deviation (LeCun 1998: 1 / sqrt(fan_in) keeps a unit variance)."""
    bound = std * math.sqrt(3)
    weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)
