"""Which kernel each part of the model runs on a device, and why: for people, read from the places that choose."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch

from groundup.errors import UsageError
from groundup.kernels.attention import choose_backend
from groundup.kernels.cross_entropy import CHUNK_BYTES


class Choice(NamedTuple):
    """One part of the work."""

    part: str
    """What is computed."""
    kernel: str
    """What computes it."""
    why: str
    """Why that."""


def kernel_choices(device: torch.device) -> list[Choice]:
    """A line for attention, norms, loss, optimizer and tokenizer. UsageError for a device that is neither cpu nor cuda."""
    if device.type not in CHUNK_BYTES:
        raise UsageError(f"device {device.type}: groundup has kernels for cpu and cuda")
    backend, why = choose_backend(device)
    chunk = f"logits {CHUNK_BYTES[device.type] >> 20} MiB at a time"
    if device.type == "cpu":
        loops = "one pass over memory where PyTorch's operations make several"
        return [
            Choice("attention", backend, f"{why}; with QK-norm and rotation in one loop where there is no gain"),
            Choice("norm", "numba loop, fp32", f"{loops}, RMSNorm with its gradient; LayerNorm goes through PyTorch's operations"),
            Choice("loss", "chunked head, numba loop", f"{chunk}, which the cache holds; gradients in place"),
            Choice("optimizer", "AdamW: numba loop; Muon: products", loops),
            _tokenizer(),
        ]
    return [
        Choice("attention", backend, why),
        Choice("norm", "PyTorch's operations", "joined by torch.compile in runs of ten minutes and more"),
        Choice("loss", "chunked head", f"{chunk}, so that all of them never exist"),
        Choice("optimizer", "AdamW: one launch for many tensors; Muon: bf16 products", "launches cost more than their work"),
        _tokenizer(),
    ]


def _tokenizer() -> Choice:
    if find_spec("numba") is None:
        return Choice("tokenizer", "plain Python", "numba is not installed")
    return Choice("tokenizer", "compiled loops", "numba is installed; threads share long texts")
