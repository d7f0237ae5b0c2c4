"""Tokenizers side by side on one text: how much they shorten it, how fast, and what that does to the price of training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from groundup.account import cost
from groundup.account.shapes import architecture
from groundup.account.workload import Training
from groundup.errors import UsageError

D_MODEL, N_LAYERS, HEAD_DIM, CONTEXT_BYTES = 768, 12, 64, 4096  # GPT-2 small's shape, reading as many bytes at a time whatever the tokens
ROUNDS = 3


@runtime_checkable
class Coding(Protocol):
    """What comparing needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        ...

    def encode_ordinary(self, text: bytes) -> np.ndarray:
        """The ids of a text, special tokens' texts taken as ordinary."""
        ...


@dataclass(frozen=True)
class Comparison:
    """One tokenizer on one text."""

    name: str
    """What it was called."""
    vocab_size: int
    """V."""
    n_tokens: int
    """Length of the text in tokens."""
    bytes_per_token: float
    """Bytes of the text over its tokens: the compression."""
    unknown_rate: float
    """Share of the tokens that stand for something the vocabulary lacks; always 0 with bytes at the bottom."""
    megabytes_per_s: float
    """Rate of encoding, one thread, what is cached kept: the median of three rounds."""
    training_flops: float
    """Model FLOPs of one pass over the text by a decoder of GPT-2 small's shape, windows of 4,096 bytes, a head of V rows."""


def compare(tokenizers: Mapping[str, Coding], texts: Sequence[bytes]) -> list[Comparison]:
    """Measures each tokenizer on the same texts, the rounds interleaved; UsageError for no text."""
    n_bytes = sum(map(len, texts))
    if not n_bytes:
        raise UsageError("there is no text to compare on: name files that hold some")
    seconds: dict[str, list[float]] = {name: [] for name in tokenizers}
    ids = {}
    for _ in range(ROUNDS):
        for name, tokenizer in tokenizers.items():
            started = time.perf_counter()
            ids[name] = [tokenizer.encode_ordinary(text) for text in texts]
            seconds[name].append(time.perf_counter() - started)
    return [_comparison(name, tokenizer, ids[name], n_bytes, statistics.median(seconds[name])) for name, tokenizer in tokenizers.items()]


def _comparison(name: str, tokenizer: Coding, ids: list[np.ndarray], n_bytes: int, seconds: float) -> Comparison:
    n_tokens = sum(map(len, ids))
    unknown = getattr(tokenizer, "unknown_id", None)
    n_unknown = 0 if unknown is None else sum(int((part == unknown).sum()) for part in ids)
    seq_len = max(1, round(CONTEXT_BYTES * n_tokens / n_bytes))
    shape = {"d_model": D_MODEL, "n_layers": N_LAYERS, "head_dim": HEAD_DIM, "context_length": seq_len}
    counted = cost(architecture("llama", vocab_size=max(2, tokenizer.vocab_size), **shape), Training(seq_len))
    return Comparison(
        name=name,
        vocab_size=tokenizer.vocab_size,
        n_tokens=n_tokens,
        bytes_per_token=n_bytes / max(1, n_tokens),
        unknown_rate=n_unknown / max(1, n_tokens),
        megabytes_per_s=n_bytes / 1e6 / seconds,
        training_flops=counted.flops_per_token_training * n_tokens,
    )
