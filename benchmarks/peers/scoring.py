"""One evaluator for all peers: bits per byte of a token store, every byte accounted for."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.peers.common import Trained
from groundup.data import TokenStore, evaluation_windows
from groundup.errors import GroundupError


def bits_per_byte(trained: Trained, store: TokenStore, seq_len: int, token_bytes: np.ndarray, batch_size: int = 16) -> float:
    """sum of nats / (ln 2 * sum of bytes), each token of each document but its opening ``<|endoftext|>`` scored once.

    The windows are those that groundup scores its own models with: ``seq_len`` tokens, half a window apart. ``token_bytes`` [V] are the
    source bytes of each token. Infinite if training diverged. GroundupError unless the bytes of the scored tokens are those of the text.
    """
    nats, n_bytes = 0.0, 0
    for batch in evaluation_windows(store, seq_len, max(1, seq_len // 2), batch_size):
        scored = batch.targets >= 0
        nats += float(trained.nats(batch.tokens, batch.targets)[scored].sum(dtype=np.float64))
        n_bytes += int(token_bytes[batch.targets[scored]].sum())
    if n_bytes != store.n_bytes:
        raise GroundupError(f"scored {n_bytes} bytes of {store.n_bytes}: tokenizer and token store do not belong together")
    return nats / (math.log(2) * n_bytes) if math.isfinite(nats) else math.inf
