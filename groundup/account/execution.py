"""How a step is computed, as far as bytes and seconds care: precision, and which operations are one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from groundup.config import ATTENTION_BLOCK

Recompute = Literal["none", "attention", "mlp", "layers"]
"""What backward computes again from its input instead of keeping it (Chen et al. 2016): each layer's attention, its MLP, or all of it."""


@dataclass(frozen=True)
class Execution:
    """How a step is computed, as far as memory and time care."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of activations; weights, gradients and moments are fp32 masters in both."""
    attention_block: int | None = ATTENTION_BLOCK
    """Queries a block of an attention that keeps its probabilities; None is a fused kernel that recomputes them."""
    fused_norm: bool = True
    """Whether a norm keeps its output only, or also its input."""
    compiled: bool = False
    """Whether a chain of pointwise operations is one kernel, as torch.compile makes it; else each reads and writes memory."""
    loss_chunk_bytes: int = 8 << 20
    """Logits that exist at a time, in bytes of fp32."""
    recompute: Recompute = "none"
    """What backward computes again."""
    allocator_overhead: float = 0.30
    """Resident bytes beyond the live ones, as a share of them: holes in the C heap. On glibc, three models of 180 to 530 MB live had
    0.25, 0.36 and 0.40 after six steps. 0 predicts live bytes, as an allocation tracker counts them."""

    @property
    def number_bytes(self) -> int:
        """Bytes of one activation."""
        return 4 if self.precision == "fp32" else 2


CPU = Execution()
"""The decoder on a processor."""
GPU = Execution("bf16", None, False, loss_chunk_bytes=256 << 20, allocator_overhead=0.0)
"""The decoder on a GPU; live bytes, to be held against ``torch.cuda.max_memory_allocated``."""
IDEAL = Execution("bf16", None, True, compiled=True, loss_chunk_bytes=256 << 20, allocator_overhead=0.0)
"""Every tensor read and written once by each component, attention in one kernel: the least that memory must carry."""
