"""From the token store to the model's device: batches as tensors, with what the counts say of each position."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch

from groundup.data import Batch, BatchStream
from groundup.train.step import TrainBatch


@runtime_checkable
class PositionFeatures(Protocol):
    """What the counts know of every position of a store: row i is about predicting token i."""

    log_p: np.ndarray
    """[N, K] log-probability of token i under each expert."""
    features: np.ndarray
    """[N, C] features of its context."""


def to_tensors(batch: Batch, device: torch.device, table: PositionFeatures | None = None) -> TrainBatch:
    """A batch on the device. With a table, row b's column t gets the row of position b + t + 1, the target's (the store is a ring)."""
    log_p = features = None
    if table is not None:
        n = len(table.log_p)
        rows = (np.maximum(batch.positions, 0)[:, None] + np.arange(1, batch.tokens.shape[1] + 1)) % n
        log_p = torch.from_numpy(table.log_p[rows]).to(device, torch.float32)
        features = torch.from_numpy(table.features[rows]).to(device, torch.float32)
    tokens, targets, documents = (torch.from_numpy(a).to(device) for a in (batch.tokens, batch.targets, batch.documents))
    return TrainBatch(tokens, targets, documents, log_p, features)


class Feed:
    """Training batches by step: a pure function of the step number, so that resuming needs no state."""

    def __init__(self, stream: BatchStream, device: torch.device, table: PositionFeatures | None = None):
        self.stream, self.device, self.table = stream, device, table

    def __call__(self, step: int) -> TrainBatch:
        """The rank's rows of step 0, 1, 2, ..."""
        return to_tensors(self.stream.batch(step), self.device, self.table)
