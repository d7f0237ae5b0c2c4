"""Counts alone: interpolated n-grams with absolute discounting (Ney et al. 1994; Kneser & Ney 1995), in plain numpy, no network.

p_n(w | h) = max(c(h w) - D_n, 0) / c(h) + D_n N(h) / c(h) * p_{n-1}(w | h'),  p_0 = 1 / V,
with h' the context less its oldest token, N(h) the number of different tokens seen after h, and D_n = n1 / (n1 + 2 n2) from how many
n-grams were seen once and twice. The longest order counts occurrences; the shorter ones count, as Kneser and Ney do, in how many different
contexts a token was seen (``continuation``).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from groundup.errors import UsageError

LADDERS = {"order": (2, 3, 4, 5), "vocab_size": (1024, 2048, 4096)}


@dataclass(frozen=True)
class Settings:
    """How long the n-grams are."""

    order: int = 4
    """Tokens of the longest n-gram."""
    continuation: bool = True
    """Whether shorter orders count contexts instead of occurrences."""
    vocab_size: int = 2048
    """Tokens of the tokenizer that it is given."""
    seq_len: int = 256
    """Window of the evaluator."""


class _Order:
    """The n-grams of one order: sorted keys w_1 V^(n-1) + ... + w_n, their counts, and totals by context."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, vocab_size: int):
        self.keys, self.counts = keys, counts
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        self.discount = float(once / (once + 2 * twice)) if once else 0.5
        contexts = keys // np.uint64(vocab_size)
        starts = np.flatnonzero(np.diff(contexts, prepend=contexts[:1] + np.uint64(1)))
        self.contexts = contexts[starts]
        self.totals = np.add.reduceat(counts, starts)
        self.kinds = np.diff(starts, append=len(keys))

    def interpolate(self, keys: np.ndarray, contexts: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """p_n of each n-gram, given p_{n-1} of it less its oldest token."""
        total = _look_up(self.contexts, self.totals, contexts)
        kinds = _look_up(self.contexts, self.kinds, contexts)
        count = _look_up(self.keys, self.counts, keys)
        seen = np.maximum(count - self.discount, 0) + self.discount * kinds * shorter
        return np.where(total > 0, seen / np.maximum(total, 1), shorter)


class NgramCounts:
    """Probabilities of the next token from counts."""

    def __init__(self, tokens: np.ndarray, vocab_size: int, settings: Settings):
        """Counts a stream of ids [N]; UsageError where n-grams of this order do not fit 64 bits."""
        if settings.order < 1 or vocab_size**settings.order > 1 << 64:
            raise UsageError(f"order {settings.order} with {vocab_size} tokens does not fit 64 bits: take a shorter order")
        self.vocab_size, self.steps = vocab_size, 1
        self._orders: list[_Order] = []
        longer: np.ndarray | None = None
        for n in range(settings.order, 0, -1):
            if longer is not None and settings.continuation:
                found = longer % np.uint64(vocab_size**n)
            else:
                found = _keys(np.lib.stride_tricks.sliding_window_view(tokens, n), vocab_size)
            longer, counts = np.unique(found, return_counts=True)
            self._orders.insert(0, _Order(longer, counts, vocab_size))
        self.parameters = sum(len(order.keys) for order in self._orders)

    def nats(self, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """-log p of each target [B, T] given the tokens [B, T] of its row up to its own column; 0 where the target is -1."""
        p = np.full(targets.shape, 1 / self.vocab_size)
        for n, order in enumerate(self._orders, start=1):
            grams = np.stack([*(_shift(tokens, k) for k in range(n - 2, -1, -1)), targets], axis=-1)
            there = (grams >= 0).all(-1)  # a context that runs over the row's start is left at the shorter order
            keys = _keys(grams[there], self.vocab_size)
            p[there] = order.interpolate(keys, keys // np.uint64(self.vocab_size), p[there])
        return np.where(targets >= 0, -np.log(p), 0.0)


def train_for(seconds: float, train_tokens: np.ndarray, vocab_size: int, *, seed: int, settings: Settings) -> NgramCounts:
    """Counts; takes the seconds that it takes, and no seed changes it. UsageError if that was longer than it was given."""
    started = time.monotonic()
    counts = NgramCounts(train_tokens, vocab_size, settings)
    if time.monotonic() - started > seconds:
        raise UsageError(f"--budget: counting took longer than {seconds:.0f} s: give more time or less text")
    return counts


def _keys(grams: np.ndarray, vocab_size: int) -> np.ndarray:
    """n-grams [..., n] as one number each [...]."""
    keys = np.zeros(grams.shape[:-1], np.uint64)
    for column in np.moveaxis(grams, -1, 0):
        keys = keys * np.uint64(vocab_size) + column.astype(np.uint64)
    return keys


def _shift(tokens: np.ndarray, k: int) -> np.ndarray:
    """The token k columns before, -1 where the row had not begun."""
    return np.pad(tokens, ((0, 0), (k, 0)), constant_values=-1)[:, : tokens.shape[1]]


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where there is none."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
