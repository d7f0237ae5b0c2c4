"""Batches: windows of the token stream, for training as a pure function of the step, for evaluation each target exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from groundup.data.shards import TokenStore
from groundup.errors import UsageError


class Batch(NamedTuple):
    """B rows of T tokens, each a contiguous piece of the store's stream."""

    tokens: Int64[np.ndarray, "B T"]
    """The input ids."""
    targets: Int64[np.ndarray, "B T"]
    """The token that follows each input, or -1 where it is not scored: it opens another document, was scored before, or is padding."""
    documents: Int32[np.ndarray, "B T"]
    """Which document of its row an input belongs to, counted from 0 in each row; -1 for padding. Attention stays within one."""
    positions: Int64[np.ndarray, " B"]
    """Position in the store of each row's first token; -1 for a row of padding."""


class BatchStream:
    """Training batches: ``batch(step)`` is a pure function of the step, so the loader's whole state is the step number.

    An epoch of a store of N tokens is W = max(1, N // T) windows that start at (phase + k T) mod N for k = 0 .. W - 1, in an order
    shuffled by (seed, epoch), like the phase, uniform in 0 .. N - 1: every window is seen once before any is seen again, their inputs
    do not overlap, and the fewer than T tokens that are left out lie elsewhere in each epoch. The stream is a ring: a window that runs
    over the end, or is longer than the store, goes on at its start, as a new document. Row i of step s is window s * batch_size + i
    of the epochs one after another, and rank r of w takes rows r, r + w, ... , so the global batch is the same for any w.
    """

    def __init__(self, store: TokenStore, batch_size: int, seq_len: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        """``batch_size``: rows of the global batch, a multiple of ``world_size``; ``seq_len``: T. UsageError for what makes no sense."""
        if batch_size < 1 or seq_len < 1 or seed < 0:
            raise UsageError(f"batch_size {batch_size} and seq_len {seq_len} must be at least 1, seed {seed} not negative")
        if not 0 <= rank < world_size or batch_size % world_size:
            raise UsageError(f"batch_size {batch_size} must be a multiple of world_size {world_size}, and rank {rank} below it")
        if store.n_tokens < 2:
            raise UsageError("a store of one token has nothing to predict: give more text")
        self.n_windows = max(1, store.n_tokens // seq_len)
        """Windows in an epoch."""
        self._store, self._seq_len, self._seed = store, seq_len, seed
        self._batch_size, self._rows = batch_size, np.arange(rank, batch_size, world_size)
        self._epoch = lru_cache(maxsize=4)(self._shuffle)

    def batch(self, step: int) -> Batch:
        """The rank's rows of step 0, 1, 2, ...: [batch_size / world_size, seq_len]."""
        epochs, windows = np.divmod(step * self._batch_size + self._rows, self.n_windows)
        positions = np.empty(len(self._rows), np.int64)
        for epoch in np.unique(epochs).tolist():
            phase, order = self._epoch(epoch)
            inside = epochs == epoch
            positions[inside] = phase + order[windows[inside]] * self._seq_len
        positions %= self._store.n_tokens
        tokens = np.stack([self._ring(start) for start in positions.tolist()])
        documents = self._documents(positions)
        targets = np.where(documents[:, 1:] == documents[:, :-1], tokens[:, 1:], -1)
        return Batch(np.ascontiguousarray(tokens[:, :-1]), targets, np.ascontiguousarray(documents[:, :-1]), positions)

    def _shuffle(self, epoch: int) -> tuple[int, Int64[np.ndarray, " W"]]:
        # Raw bits and a stable sort: numpy promises that bit generators never change, and not so for shuffles.
        bits = np.random.Philox(np.random.SeedSequence([self._seed, epoch])).random_raw(self.n_windows + 1)
        return int(bits[-1] % self._store.n_tokens), np.argsort(bits[:-1], kind="stable")

    def _ring(self, start: int) -> Int64[np.ndarray, " L"]:
        n, stop = self._store.n_tokens, start + self._seq_len + 1
        if stop <= n:
            return self._store.slice(start, stop)
        laps = [self._store.slice(max(0, start - lap), min(n, stop - lap)) for lap in range(0, stop, n)]
        return np.concatenate(laps)

    def _documents(self, positions: Int64[np.ndarray, " B"]) -> Int32[np.ndarray, "B L"]:
        laps, places = np.divmod(positions[:, None] + np.arange(self._seq_len + 1), self._store.n_tokens)
        documents = np.searchsorted(self._store.document_starts, places, side="right") + laps * self._store.n_documents
        return (documents - documents[:, :1]).astype(np.int32)


def evaluation_windows(store: TokenStore, seq_len: int, stride: int, batch_size: int) -> Iterator[Batch]:
    """Batches [batch_size, seq_len] in which every token but the first of each document (``<|endoftext|>``) is a target exactly once.

    A row goes on where the row before ended, begun early enough that its first target is predicted from seq_len - stride + 1 tokens
    of its own document, or from all before it if there are fewer; later targets see more. Documents that fit share a row. Cost: about
    seq_len / stride times the tokens. The last batch is filled with padding (tokens 0, targets and documents -1).
    Raises UsageError unless 1 <= stride <= seq_len and batch_size >= 1.
    """
    if not 1 <= stride <= seq_len or batch_size < 1:
        raise UsageError(f"stride {stride} must be from 1 to seq_len {seq_len}, and batch_size {batch_size} at least 1")
    rows: list[tuple[int, int]] = []
    for row in _evaluation_rows(store, seq_len, stride):
        rows.append(row)
        if len(rows) == batch_size:
            yield _evaluation_batch(store, rows, batch_size, seq_len)
            rows = []
    if rows:
        yield _evaluation_batch(store, rows, batch_size, seq_len)


def _evaluation_rows(store: TokenStore, seq_len: int, stride: int) -> Iterator[tuple[int, int]]:
    """Rows as (position of the first input, position of the first target that no row before has)."""
    starts = store.document_starts
    target = 0
    while target < store.n_tokens:
        document_start = int(starts[np.searchsorted(starts, target, side="right") - 1])
        row_start = max(document_start, target - 1 - (seq_len - stride))
        if row_start + 1 < store.n_tokens:  # else a document of <|endoftext|> alone ends the stream
            yield row_start, target
        target = row_start + seq_len + 1


def _evaluation_batch(store: TokenStore, rows: list[tuple[int, int]], batch_size: int, seq_len: int) -> Batch:
    tokens = np.zeros((batch_size, seq_len), np.int64)
    targets = np.full((batch_size, seq_len), -1, np.int64)
    documents = np.full((batch_size, seq_len), -1, np.int32)
    positions = np.full(batch_size, -1, np.int64)
    for i, (start, first_target) in enumerate(rows):
        ids = store.slice(start, min(start + seq_len + 1, store.n_tokens))
        places = np.arange(start, start + len(ids))
        owners = np.searchsorted(store.document_starts, places, side="right")
        scored = (owners[1:] == owners[:-1]) & (places[1:] >= first_target)
        n_inputs = min(seq_len, len(ids))  # at the end of the stream the last token is an input without a target
        tokens[i, :n_inputs] = ids[:n_inputs]
        targets[i, : len(ids) - 1] = np.where(scored, ids[1:], -1)
        documents[i, :n_inputs] = owners[:n_inputs] - owners[0]
        positions[i] = start
    return Batch(tokens, targets, documents, positions)
