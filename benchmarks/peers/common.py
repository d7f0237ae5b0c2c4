"""What all peers share: random windows to train on, a loop that ends on time, and nats of given targets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Trained(Protocol):
    """What training returns."""

    steps: int
    """Updates made."""
    parameters: int
    """Numbers learned (for counts: n-grams kept)."""

    def nats(self, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """-log p of each target given the tokens of its row up to its own column: [B, T] and [B, T] in, [B, T] out; 0 where -1."""
        ...


class TrainedNetwork:
    """A network that maps tokens [B, T] to logits [B, T, V]."""

    def __init__(self, model: nn.Module, steps: int):
        self.model, self.steps = model, steps
        self.parameters = sum(p.numel() for p in model.parameters())

    @torch.no_grad()
    def nats(self, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """See ``Trained.nats``."""
        return cross_entropy(self.model(torch.from_numpy(tokens)), torch.from_numpy(targets), "none").reshape(targets.shape).numpy()


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """-log p of the targets from all logits at once, as both peers do it; targets of -1 count for nothing."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1, reduction=reduction)


def random_windows(tokens: np.ndarray, batch_size: int, seq_len: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets [B, T] from uniformly random places of one long stream, documents' bounds ignored."""
    starts = random.integers(len(tokens) - seq_len, size=(batch_size, 1))
    windows = torch.from_numpy(tokens[starts + np.arange(seq_len + 1)].astype(np.int64))
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def train_within(seconds: float, step: Callable[[float, int], None]) -> int:
    """Calls step(progress, i) for i = 0, 1, ... as often as fits into so many seconds, and returns how often that was.

    progress, what schedules follow, is the share of the time gone by since the first step ended: the first step holds all compilation,
    so a schedule is neither skipped through by a slow start nor cut off by a wrong forecast of the number of steps.
    """
    started = time.monotonic()
    step(0.0, 0)
    began = now = time.monotonic()
    left = max(1e-9, started + seconds - began)
    steps, longest = 1, 0.0
    while now - began + longest <= left:
        step((now - began) / left, steps)
        steps += 1
        longest, now = max(0.9 * longest, time.monotonic() - now), time.monotonic()  # of the last dozen steps or so
    return steps
