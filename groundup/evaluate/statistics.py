"""Error bars: of a ratio over documents, of a mean over items, of the difference of two models on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

RESAMPLES = 1000
DRAWN_AT_ONCE = 1 << 22  # numbers held by the bootstrap at a time


class Mean(NamedTuple):
    """A mean and its standard error."""

    mean: float
    error: float


def bootstrap(
    document_bits: Float[np.ndarray, " d"], document_bytes: Shaped[np.ndarray, " d"], seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of sum(bits) / sum(bytes) under resampling of documents (Efron 1979); None below three documents."""
    n = len(document_bits)
    if n < 3:
        return None
    rng, ratios = np.random.default_rng(seed), np.empty(RESAMPLES)
    rows = max(1, DRAWN_AT_ONCE // n)
    for start in range(0, RESAMPLES, rows):
        draws = rng.integers(n, size=(min(rows, RESAMPLES - start), n))
        ratios[start : start + rows] = document_bits[draws].sum(1) / document_bytes[draws].sum(1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def mean_of(values: Sequence[float] | Shaped[np.ndarray, " n"]) -> Mean:
    """Mean and s / sqrt(n) with the sample's standard deviation s; the error is NaN for a single value."""
    x = np.asarray(values, np.float64)
    return Mean(float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan)


def ratio_of(numerators: Sequence[float] | Shaped[np.ndarray, " n"], denominators: Sequence[float] | Shaped[np.ndarray, " n"]) -> Mean:
    """R = sum(x) / sum(y) and its standard error s / (sqrt(n) mean(y)), s the standard deviation of x - R y (delta method)."""
    x, y = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    ratio = float(x.sum() / y.sum())
    return Mean(ratio, mean_of((x - ratio * y) / y.mean()).error)


def paired(a: Sequence[float] | Shaped[np.ndarray, " n"], b: Sequence[float] | Shaped[np.ndarray, " n"]) -> Mean:
    """Mean of a_i - b_i over the same items, with its standard error: what two models' separate errors hide (Miller 2024, section 4)."""
    return mean_of(np.asarray(a, np.float64) - np.asarray(b, np.float64))
