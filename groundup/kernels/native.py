"""Loops that numba compiles for the CPU: each goes over its rows once, where a chain of tensor operations goes over memory many times.

All arrays are float32 and C-contiguous unless said otherwise. Rows are independent, so a caller may share them out over threads
(``split_rows``); sums within a row have a fixed order, so results do not depend on how.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numba import njit

_REORDER = {"reassoc", "contract", "nsz", "arcp", "afn"}  # vector sums and fused multiply-adds; NaN and infinity stay what they are
_LOG2_E = np.float32(1 / math.log(2))
_LN_2 = np.float32(math.log(2))
_LEAST = np.float32(-87.0)  # e^-87 is the smallest power that is a normal number
_C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(1 / math.factorial(k)) for k in range(1, 7))
_A1, _A3, _A5, _A7, _A9 = (np.float32(2 / k) for k in (1, 3, 5, 7, 9))
_ROOT_HALF = np.float32(math.sqrt(0.5)).view(np.int32)
_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)
number = np.float32  # what scalars must come as: a Python float would widen every sum to float64
ROWS_WORK = 1 << 20  # numbers that are worth waking another thread for


def split_rows(kernel: Callable, n_rows: int, row_size: int, *arguments: object) -> None:
    """kernel(start, stop, *arguments) over all rows, on as many threads as torch uses where the work is worth it."""
    import torch  # here, for counting uses this file's logarithm, and the process that compiles it ahead needs no torch

    n_threads = min(torch.get_num_threads(), max(1, n_rows * row_size // ROWS_WORK))
    if n_threads == 1:
        kernel(0, n_rows, *arguments)
        return
    edges = [n_rows * i // n_threads for i in range(n_threads + 1)]
    others = [_pool().submit(kernel, edges[i], edges[i + 1], *arguments) for i in range(1, n_threads)]
    kernel(edges[0], edges[1], *arguments)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    import torch

    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="groundup-rows")


@njit(inline="always")
def _exp(x):
    """e^x for x <= 0, to 3e-7 of its value near 0 and 3e-6 far below: 2^n times a Taylor polynomial on [-ln 2 / 2, ln 2 / 2]."""
    x = _LEAST if x < _LEAST else x  # NaN stays NaN
    n = np.int32(x * _LOG2_E - _HALF)
    r = x - np.float32(n) * _LN_2
    p = _ONE + r * (_C1 + r * (_C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))))
    return p * np.int32((n + 127) << 23).view(np.float32)


@njit(inline="always")
def natural_log(x):
    """ln x for positive normal x, to 3e-7: the exponent times ln 2, and 2 atanh((m - 1) / (m + 1)) of a mantissa m around 1."""
    bits = np.float32(x).view(np.int32)
    exponent = (bits - _ROOT_HALF) >> 23
    m = np.int32(bits - (exponent << 23)).view(np.float32)  # in [sqrt(1/2), sqrt(2))
    s = (m - _ONE) / (m + _ONE)
    z = s * s
    return np.float32(exponent) * _LN_2 + s * (_A1 + z * (_A3 + z * (_A5 + z * (_A7 + z * _A9))))


@njit(fastmath=True)
def _peak(row):
    """The largest number of a row; where there is NaN, any number or NaN: only so is it a vector loop."""
    peak = row[0]
    for j in range(row.shape[0]):
        peak = max(peak, row[j])
    return peak


@njit(inline="always")
def _exponentials(row):
    """exp(row - peak) in place; the peak and the sum."""
    peak = _peak(row)
    total = _ZERO
    for j in range(row.shape[0]):
        e = _exp(row[j] - peak)
        row[j] = e
        total += e
    return peak, total


@njit(cache=True, nogil=True, fastmath=_REORDER)
def exp_rows(start, stop, logits, peaks, totals):
    """Rows of logits become exp(logits - peak) in place; peaks, totals [N] get each row's peak and sum, NaN for one that is not finite."""
    for i in range(start, stop):
        peaks[i], totals[i] = _exponentials(logits[i])


@njit(cache=True, nogil=True, fastmath=_REORDER)
def rms_norm_rows(start, stop, x, eps, y, inverse):
    """y = x r, r = 1 / sqrt(mean(x^2) + eps); x, y [N, D], r goes to inverse [N]."""
    d = x.shape[1]
    for i in range(start, stop):
        total = _ZERO
        for j in range(d):
            total += x[i, j] * x[i, j]
        r = _ONE / np.sqrt(total / np.float32(d) + eps)
        for j in range(d):
            y[i, j] = x[i, j] * r
        inverse[i] = r


@njit(cache=True, nogil=True, fastmath=_REORDER)
def rms_norm_backward_rows(start, stop, grad, y, inverse, out):
    """out = r (g - y mean(g y)): exact, because eps is inside r."""
    d = y.shape[1]
    for i in range(start, stop):
        inner = _ZERO
        for j in range(d):
            inner += grad[i, j] * y[i, j]
        inner /= np.float32(d)
        r = inverse[i]
        for j in range(d):
            out[i, j] = (grad[i, j] - y[i, j] * inner) * r


@njit(cache=True, nogil=True)
def document_begins(documents, begins):
    """begins [B, T]: the position where each position's run of equal document numbers begins."""
    for b in range(documents.shape[0]):
        begin = 0
        for t in range(documents.shape[1]):
            if documents[b, t] != documents[b, begin]:
                begin = t
            begins[b, t] = begin


@njit(cache=True, nogil=True, fastmath=_REORDER)
def softmax_rows(start, stop, scores, begins, window, t, offset, low):
    """Probabilities in place of scores [R, S]: row i is query offset + i % t, column j key low + j; hidden keys get 0.

    A query sees the last window keys, itself one of them, from begins [B, T] on; scores holds R / B rows of each sequence.
    """
    per_sequence = scores.shape[0] // begins.shape[0]
    for i in range(start, stop):
        query = offset + i % t
        begin = max(begins[i // per_sequence, query], query - window + 1, low) - low
        end = query + 1 - low
        scores[i, :begin] = _ZERO
        scores[i, end:] = _ZERO
        seen = scores[i, begin:end]
        scale = _ONE / _exponentials(seen)[1]
        for j in range(seen.shape[0]):
            seen[j] *= scale


@njit(cache=True, nogil=True, fastmath=_REORDER)
def heads_rows(start, stop, x, cos, sin, begins, eps, scale, offset_keys, q, k, v, inverse):
    """From a product [B, T, (H + 2 K) E] the normalized, turned heads of attention: q [B, H, T, E] times scale, k and v [B, K, T, E].

    Rows are pairs (b, t). cos, sin [T, E/2]; inverse [B, T, H + K] gets 1 / sqrt(mean(x^2) + eps) of every query and key head. With
    offset_keys quarters 2 and 4 of a key go to the next position, unless that is in another document (see ``functional.offset_keys``).
    """
    t_all, (n_heads, n_kv, dim) = x.shape[1], (q.shape[1], k.shape[1], q.shape[3])
    turned, half, n = np.empty(dim, np.float32), dim // 2, dim // 4
    for i in range(start, stop):
        b, t = i // t_all, i % t_all
        row = x[b, t]
        onward = t + 1 < t_all and begins[b, t + 1] != t + 1
        for h in range(n_heads + n_kv):
            at = h * dim
            total = _ZERO
            for j in range(at, at + dim):
                total += row[j] * row[j]
            r = _ONE / np.sqrt(total / np.float32(dim) + eps)
            inverse[b, t, h] = r
            if h < n_heads:
                r *= scale
            out = q[b, h, t] if h < n_heads else turned if offset_keys else k[b, h - n_heads, t]
            for j in range(half):
                first, second = row[at + j] * r, row[at + half + j] * r
                out[j] = first * cos[t, j] - second * sin[t, j]
                out[half + j] = second * cos[t, j] + first * sin[t, j]
            if h >= n_heads and offset_keys:
                kv = h - n_heads
                for j in range(n):
                    k[b, kv, t, j], k[b, kv, t, 2 * n + j] = turned[j], turned[2 * n + j]
                    if begins[b, t] == t:
                        k[b, kv, t, n + j], k[b, kv, t, 3 * n + j] = _ZERO, _ZERO
                    if onward:
                        k[b, kv, t + 1, n + j], k[b, kv, t + 1, 3 * n + j] = turned[n + j], turned[3 * n + j]
        for h in range(n_kv):
            at = (n_heads + n_kv + h) * dim
            for j in range(dim):
                v[b, h, t, j] = row[at + j]


@njit(cache=True, nogil=True, fastmath=_REORDER)
def heads_backward_rows(start, stop, x, cos, sin, begins, scale, offset_keys, dq, dk, dv, inverse, dx):
    """The gradient of x [B, T, (H + 2 K) E] of ``heads_rows``."""
    t_all, (n_heads, n_kv, dim) = x.shape[1], (dq.shape[1], dk.shape[1], dq.shape[3])
    gathered, half, n = np.empty(dim, np.float32), dim // 2, dim // 4
    for i in range(start, stop):
        b, t = i // t_all, i % t_all
        row, out = x[b, t], dx[b, t]
        onward = t + 1 < t_all and begins[b, t + 1] != t + 1
        for h in range(n_heads + n_kv):
            at, r, kv = h * dim, inverse[b, t, h], h - n_heads
            if h < n_heads:
                for j in range(dim):
                    gathered[j] = dq[b, h, t, j] * scale
            else:
                for j in range(dim):
                    gathered[j] = dk[b, kv, t, j]
                if offset_keys:
                    for j in range(n):
                        gathered[n + j] = dk[b, kv, t + 1, n + j] if onward else _ZERO
                        gathered[3 * n + j] = dk[b, kv, t + 1, 3 * n + j] if onward else _ZERO
            inner = _ZERO
            for j in range(half):  # turned back, then the gradient of x r, where r = 1 / sqrt(mean(x^2) + eps)
                first = gathered[j] * cos[t, j] + gathered[half + j] * sin[t, j]
                second = gathered[half + j] * cos[t, j] - gathered[j] * sin[t, j]
                inner += first * row[at + j] + second * row[at + half + j]
                out[at + j], out[at + half + j] = first, second
            inner *= r * r / np.float32(dim)
            for j in range(at, at + dim):
                out[j] = r * (out[j] - row[j] * inner)
        for h in range(n_kv):
            at = (n_heads + n_kv + h) * dim
            for j in range(dim):
                out[at + j] = dv[b, h, t, j]


@njit(inline="always")
def _adamw(w, g, m, v, beta1, beta2, eps, decay, rate):
    for j in range(w.shape[0]):
        m[j] += (g[j] - m[j]) * (_ONE - beta1)
        v[j] = v[j] * beta2 + g[j] * g[j] * (_ONE - beta2)
        w[j] = w[j] * decay - rate * m[j] / (np.sqrt(v[j]) + eps)


@njit(cache=True, nogil=True, fastmath=_REORDER)
def adamw_numbers(start, stop, weights, grads, first, second, beta1, beta2, eps, decay, rate):
    """AdamW on flat arrays [N]; eps and rate hold the corrections (see ``optim.adamw``)."""
    _adamw(weights[start:stop], grads[start:stop], first[start:stop], second[start:stop], beta1, beta2, eps, decay, rate)


@njit(cache=True, nogil=True, fastmath=_REORDER)
def adamw_rows(start, stop, rows, weights, grads, first, second, beta1, beta2, eps, decay, rate):
    """The same on rows of tables [V, D]: grads [R, D] is of weights[rows]."""
    for i in range(start, stop):
        at = rows[i]
        _adamw(weights[at], grads[i], first[at], second[at], beta1, beta2, eps, decay, rate)
