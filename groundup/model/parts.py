"""What the decoder's modules share: holders of weights and gains, and the view of a cache that they have."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from groundup.config import Norm
from groundup.kernels import elementwise
from groundup.model import functional as F


@runtime_checkable
class Cache(Protocol):
    """What mixers need of a cache of what was computed before."""

    length: int
    recent: Tensor  # [B, p] the last tokens before these: all that are there, or as many as the longest hashed n-gram looks back

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """[B, t, K, E] of new keys and values in; [B, s, K, E] out: all of them, of a layer with a window the last that it can see."""
        ...

    def state(self, layer: int) -> tuple[Tensor, ...] | None:
        """What a layer kept of its own after the positions before these, or None at the start."""
        ...

    def keep_state(self, layer: int, state: tuple[Tensor, ...]) -> None:
        """Replaces what a layer keeps of its own."""
        ...


class Weights(nn.Module):
    """A weight [out, in] or a gain [d], or one of each expert [X, out, in], with an optional bias, and nothing else."""

    def __init__(self, *shape: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))
        self.bias = nn.Parameter(torch.zeros(shape[:-1])) if bias else None


class NormLayer(nn.Module):
    """Holds the gain and bias that a Norm asks for, and applies it."""

    def __init__(self, config: Norm, dim: int):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.zeros(dim) if config.plus_one else torch.ones(dim)) if config.weight else None
        self.bias = nn.Parameter(torch.zeros(dim)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """norm(x) over the last dimension, of x's type; on a CPU through the fused backward, unless the gain comes before the cast."""
        c = self.config
        cast_first = not c.wide_gain or x.dtype in (torch.float32, torch.float64)
        if c.kind == "rms" and x.device.type == "cpu" and cast_first:
            y = elementwise.rms_norm(x, c.eps)
            if self.weight is None:
                return y
            return y * (1 + F.wide(self.weight) if c.plus_one else self.weight).to(x.dtype)
        return F.norm(x, c, self.weight, self.bias)
