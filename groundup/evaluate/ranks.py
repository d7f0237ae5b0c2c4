"""How many tokens a model would write before the one that came."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ranks_of(logits: Float[Tensor, "n v"], ids: Int[Tensor, "n 1"]) -> Int[Tensor, " n"]:
    """For each row the tokens with higher logits, and of those with equal ones the smaller: argmax has rank 0, and it alone."""
    own = logits.gather(1, ids)
    return ((logits > own) | ((logits == own) & (torch.arange(logits.shape[1], device=ids.device) < ids))).sum(1)
