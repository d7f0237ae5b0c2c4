"""What stands between a column of numbers and a line on paper: smoothing, thinning, places for labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64


def smooth(values: Float64[np.ndarray, " n"], span: float) -> Float64[np.ndarray, " n"]:
    """Exponential moving average without the bias towards its start.

    m_t = s_t / w_t with s_t = b_t s_(t-1) + x_t, w_t = b_t w_(t-1) + 1 (Kingma & Ba 2015, section 3), b_t = 1 - 1/span_t, and
    span_t = min(span, 1 + t/8): early on a loss falls so fast that a long average would lag behind it.
    A value that is not finite carries no weight; before the first finite one the average is NaN.
    """
    total = weight = 0.0
    averages = np.full(len(values), math.nan)
    for t, value in enumerate(values.tolist()):
        decay = 1.0 - 1.0 / max(min(span, 1.0 + t / 8), 1.0)
        total, weight = decay * total, decay * weight
        if math.isfinite(value):
            total, weight = total + value, weight + 1.0
        if weight > 0.0:
            averages[t] = total / weight
    return averages


def thin(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], most: int = 600
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """At most about ``most`` of the points, the lowest and the highest of every stretch kept so that no spike is lost."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= most:
        return x, y
    kept: set[int] = {0, len(x) - 1}
    for stretch in np.array_split(np.arange(len(x)), most // 2):
        kept |= {int(stretch[np.argmin(y[stretch])]), int(stretch[np.argmax(y[stretch])])}
    chosen = np.array(sorted(kept))
    return x[chosen], y[chosen]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels: at least ``gap`` apart, within [low, high], in the order given by ``positions``, as near to them as can be.

    Least squares under the gaps is isotonic regression of p_i - i gap, solved by pooling adjacent violators (Barlow et al. 1972),
    and the bounds clip it. Where they do not fit, the gap shrinks.
    """
    if not positions:
        return []
    gap = min(gap, (high - low) / max(len(positions) - 1, 1))
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    pools: list[tuple[float, int]] = []  # mean, count
    for rank, i in enumerate(order):
        mean, count = positions[i] - rank * gap, 1
        while pools and pools[-1][0] > mean:
            before, n = pools.pop()
            mean, count = (mean * count + before * n) / (count + n), count + n
        pools.append((mean, count))
    shifted = [mean for mean, count in pools for _ in range(count)]
    limit = max(high - (len(positions) - 1) * gap, low)
    places = [0.0] * len(positions)
    for rank, i in enumerate(order):
        places[i] = min(max(shifted[rank], low), limit) + rank * gap
    return places
