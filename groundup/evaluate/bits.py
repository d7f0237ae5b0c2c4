"""Bits per byte of held-out documents, with every byte accounted for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from groundup.data import Batch, TokenStore, evaluation_windows
from groundup.errors import GroundupError
from groundup.evaluate.statistics import bootstrap
from groundup.model.decoder import Decoder
from groundup.train.feed import PositionFeatures, to_tensors


@dataclass(frozen=True)
class Score:
    """What a model made of held-out text."""

    bits_per_byte: dict[str, float]
    """By predictor: "model" (what the model says), and with a prior "network" and "counts" alone."""
    n_bytes: int
    """Source bytes scored: all of them, unless only some windows were."""
    n_tokens: int
    """Tokens scored."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of "model" over documents; None with fewer than three documents, or where only some windows were scored."""
    document_bits: np.ndarray
    """Bits of each document under "model"."""


@torch.no_grad()
def evaluate(
    model: Decoder,
    store: TokenStore,
    *,
    seq_len: int,
    batch_size: int = 16,
    stride: int | None = None,
    table: PositionFeatures | None = None,
    counts_nats: np.ndarray | None = None,
    max_tokens: int | None = None,
    token_bytes: np.ndarray | None = None,
) -> Score:
    """bits per byte = sum of nats over every token / (ln 2 * sum of source bytes), never a mean of ratios.

    Each token but the documents' opening ``<|endoftext|>`` is scored once, predicted from at least seq_len - stride tokens of its own
    document where there are so many (stride defaults to half the window). ``token_bytes`` [V], the source bytes of each token, lets the
    bytes of scored tokens be held against the bytes read: GroundupError if they differ. ``max_tokens`` scores evenly spread windows
    only, for a quick look, at most about so many; then bytes are those of the tokens scored. ``counts_nats`` [N] are the counts' own
    nats of each token.
    """
    device = next(model.parameters()).device
    totals = np.zeros(3)  # network, model, counts
    n_bytes = n_tokens = 0
    document_nats = np.zeros(store.n_documents)
    every = 1 if max_tokens is None else max(1, math.ceil(store.n_tokens / max_tokens))
    for batch in _windows(store, seq_len, max(1, seq_len // 2) if stride is None else stride, batch_size, every):
        data = to_tensors(batch, device, table)
        _, nats = model.loss(data.tokens, data.targets, data.documents, expert_log_p=data.expert_log_p, features=data.features)
        nats_each = nats.double().cpu().numpy()
        scored = batch.targets >= 0
        places = batch.positions[:, None] + np.arange(1, batch.tokens.shape[1] + 1)
        totals[:2] += nats_each.sum((1, 2))
        if counts_nats is not None:
            totals[2] += counts_nats[places[scored]].sum(dtype=np.float64)
        if token_bytes is not None:
            n_bytes += int(token_bytes[batch.targets[scored]].sum())
        n_tokens += int(scored.sum())
        owners = np.searchsorted(store.document_starts, places[scored], side="right") - 1
        document_nats += np.bincount(owners, weights=nats_each[1][scored], minlength=store.n_documents)
    if every == 1:
        if token_bytes is not None and n_bytes != store.n_bytes:
            raise GroundupError(
                f"evaluation counted {n_bytes} bytes of {store.n_bytes} read: tokenizer and token store do not belong together"
            )
        n_bytes = store.n_bytes
    if n_bytes == 0 or not np.isfinite(totals).all():
        raise GroundupError(f"evaluation of {n_tokens} tokens gave {totals.tolist()} nats over {n_bytes} bytes: nothing to report")
    network, mixed, counts = (totals / (math.log(2) * n_bytes)).tolist()
    bits = {"model": mixed}
    if table is not None:
        bits |= {"network": network} | ({"counts": counts} if counts_nats is not None else {})
    document_bits = document_nats / math.log(2)
    interval = None if every > 1 else bootstrap(document_bits, store.document_bytes)
    return Score(bits, n_bytes, n_tokens, interval, document_bits)


def _windows(store: TokenStore, seq_len: int, stride: int, batch_size: int, every: int) -> Iterator[Batch]:
    """All batches, or every k-th."""
    rows_each = max(1, batch_size // 4) if every > 1 else batch_size  # smaller batches spread a sample over more places
    for i, batch in enumerate(evaluation_windows(store, seq_len, stride, rows_each)):
        if i % every == 0:
            yield batch
