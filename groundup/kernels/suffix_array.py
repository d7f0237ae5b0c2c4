"""Suffix arrays by induced sorting (SA-IS: Nong, Zhang and Chan 2009), and the longest match of a context in one.

A suffix is of type S if it is smaller than the next one, else L; a leftmost S-suffix (LMS) follows one of type L. Sorted LMS suffixes
induce the order of all in two scans; they are sorted by sorting the LMS substrings the same way, and the text of their names by recursion.
"""

from __future__ import annotations

import numpy as np
from numba import njit


def suffix_array(text: np.ndarray, n_symbols: int) -> np.ndarray:
    """The starts of all suffixes of text [N], smallest first, in O(N + n_symbols) steps; symbols are 0 .. n_symbols - 1, int32 or int64."""
    n = len(text)
    rises, heads, tails, fill = np.zeros(n, np.bool_), *(np.zeros(n_symbols + 1, text.dtype) for _ in range(3))
    order, number = np.empty(n, text.dtype), np.full(n + 1, -1, text.dtype)
    m = _classify(text, rises, heads, tails, number)
    starts = np.flatnonzero(number >= 0).astype(text.dtype)
    _induce(text, rises, heads, tails, fill, starts, order)
    if m > 1:
        named, in_order = np.empty(m, text.dtype), order[number[order] >= 0]
        n_names = _name(text, starts, in_order, number, named)
        del in_order
        inner = suffix_array(named, n_names) if n_names < m else np.argsort(named).astype(text.dtype)
        _induce(text, rises, heads, tails, fill, starts[inner], order)
    return order


@njit(cache=True, nogil=True)
def _classify(text, rises, heads, tails, number):
    """rises [N]: type S; heads, tails [V + 1]: where each symbol's L- and S-suffixes begin; number [N + 1]: of LMS starts, else -1."""
    n = text.shape[0]
    for i in range(n - 2, -1, -1):
        rises[i] = rises[i + 1] if text[i] == text[i + 1] else text[i] < text[i + 1]
    for i in range(n):
        if rises[i]:
            tails[text[i]] += 1
        else:
            heads[text[i]] += 1
    at = 0
    for v in range(heads.shape[0]):
        n_l, n_s = heads[v], tails[v]
        heads[v], tails[v] = at, at + n_l
        at += n_l + n_s
    m = 0
    for i in range(1, n):
        if rises[i] and not rises[i - 1]:
            number[i] = m
            m += 1
    return m


@njit(cache=True, nogil=True)
def _induce(text, rises, heads, tails, fill, starts, order):
    """All suffixes sorted from LMS starts that are."""
    n = text.shape[0]
    order[:] = -1
    fill[:] = tails
    for i in starts:
        order[fill[text[i]]] = i
        fill[text[i]] += 1
    fill[:] = heads
    if n:
        order[fill[text[n - 1]]] = n - 1
        fill[text[n - 1]] += 1
    for row in range(n):
        i = order[row] - 1
        if i >= 0 and not rises[i]:
            order[fill[text[i]]] = i
            fill[text[i]] += 1
    fill[:-1] = heads[1:]
    for row in range(n - 1, -1, -1):
        i = order[row] - 1
        if i >= 0 and rises[i]:
            fill[text[i]] -= 1
            order[fill[text[i]]] = i


@njit(cache=True, nogil=True)
def _name(text, starts, in_order, number, named):
    """Numbers the different LMS substrings in order: named [m] by place in the text; returns how many there are."""
    n, m, name = text.shape[0], starts.shape[0], 0
    for row in range(m):
        a = in_order[row]
        if row > 0:
            b = in_order[row - 1]
            end_a = starts[number[a] + 1] if number[a] + 1 < m else n
            end_b = starts[number[b] + 1] if number[b] + 1 < m else n
            same = end_a - a == end_b - b and end_a < n and end_b < n
            for j in range(end_a - a + 1):
                if not same:
                    break
                same = text[a + j] == text[b + j]
            name += not same
        named[number[a]] = name
    return name + 1


@njit(cache=True, nogil=True)
def _compare(stored, at, context, end, limit):
    """How many symbols stored[at], stored[at + 1], ... share with context[end - 1], context[end - 2], ..., at most limit; and whether
    what is stored is smaller after that."""
    n = 0
    while n < limit and at + n < stored.shape[0] and stored[at + n] == context[end - 1 - n]:
        n += 1
    smaller = n < limit and (at + n == stored.shape[0] or stored[at + n] < context[end - 1 - n])
    return n, smaller


@njit(cache=True, nogil=True)
def longest_match(stored, order, context, begin, end):
    """The longest end of context[begin:end] that is stored: its length, and the rows [low, high) of the suffixes that start with it.

    stored [N] is the reversed text, order [N] its suffix array.
    """
    low, high = 0, order.shape[0]
    while low < high:
        middle = (low + high) >> 1
        if _compare(stored, order[middle], context, end, end - begin)[1]:
            low = middle + 1
        else:
            high = middle
    length = 0
    for row in range(max(0, low - 1), min(order.shape[0], low + 1)):
        length = max(length, _compare(stored, order[row], context, end, end - begin)[0])
    place = low
    low, high = 0, place
    while low < high:
        middle = (low + high) >> 1
        if _compare(stored, order[middle], context, end, length)[1]:
            low = middle + 1
        else:
            high = middle
    first, high = low, order.shape[0]
    low = place
    while low < high:
        middle = (low + high) >> 1
        if _compare(stored, order[middle], context, end, length)[0] == length:
            low = middle + 1
        else:
            high = middle
    return length, first, low


@njit(cache=True, nogil=True)
def match_texts(stored, order, followers, nothing, text, starts, begin, end, least, most, out):
    """For every token of the texts begin .. end - 1, about the longest match of at most ``most`` tokens before it: out [N, 4] = its length,
    how many tokens followed it, how many of them were this one, and whether they were all alike.

    ``nothing`` among the followers [N] is none; a match shorter than ``least`` leaves zeros.
    """
    for i in range(begin, end):
        for t in range(starts[i], starts[i + 1]):
            out[t] = 0
            since = max(starts[i], t - most)
            if t - since < least:
                continue
            length, low, high = longest_match(stored, order, text, since, t)
            if length < least:
                continue
            out[t, 0] = length
            alike, last = True, nothing
            for row in range(low, high):
                w = followers[row]
                if w != nothing:
                    alike &= out[t, 1] == 0 or w == last
                    last = w
                    out[t, 1] += 1
                    out[t, 2] += w == text[t]
            out[t, 3] = alike


def compile_all() -> None:
    """Compiles these loops for the types that ``history.suffix`` gives them, by looking for next to nothing in six symbols."""
    stored, tokens = np.array([1, 0, 1, 0, 1, 0], np.int32), np.zeros(2, np.uint32)
    order = suffix_array(stored, 2)
    longest_match(stored, order, tokens, 0, 1)
    match_texts(stored, order, tokens, 2, tokens, np.zeros(1, np.int64), 0, 0, 1, 1, np.zeros((1, 4), np.int64))
