"""Lines of an ARPA file, written into a buffer."""

from __future__ import annotations

import numpy as np
from numba import njit

DECIMALS = 7
"""Of a log10: float32 has no more where it matters."""
NUMBER_BYTES = 14
"""Most bytes of a number: -99.1234567 and a little."""


@njit(cache=True, nogil=True)
def _put_number(x, out, at):
    """Writes x with DECIMALS decimals; returns where it ends."""
    if x < 0:
        out[at] = 45  # -
        at += 1
        x = -x
    scaled = np.int64(x * 10**DECIMALS + 0.5)
    whole, rest = scaled // 10**DECIMALS, scaled % 10**DECIMALS
    digits = 1
    while whole >= 10**digits:
        digits += 1
    for i in range(digits):
        out[at + digits - 1 - i] = 48 + whole // 10**i % 10
    at += digits
    out[at] = 46  # .
    for i in range(DECIMALS):
        out[at + DECIMALS - i] = 48 + rest // 10**i % 10
    return at + 1 + DECIMALS


@njit(cache=True, nogil=True)
def write_lines(grams, log_prob, log_backoff, names, name_starts, out):
    """prob, tab, words, [tab, backoff,] newline for each n-gram of grams [m, k]; returns the bytes written.

    names: all names end to end, uint8; log_backoff is empty for the longest n-grams.
    """
    at = 0
    for i in range(grams.shape[0]):
        at = _put_number(log_prob[i], out, at)
        for j in range(grams.shape[1]):
            out[at] = 9 if j == 0 else 32  # tab, space
            at += 1
            for c in range(name_starts[grams[i, j]], name_starts[grams[i, j] + 1]):
                out[at] = names[c]
                at += 1
        if log_backoff.shape[0] > 0:
            out[at] = 9
            at = _put_number(log_backoff[i], out, at + 1)
        out[at] = 10
        at += 1
    return at
