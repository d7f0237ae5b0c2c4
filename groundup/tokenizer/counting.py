"""How often each pre-token occurs, counted by compiled loops in a hash table that holds each of them once, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numba import njit

from groundup.tokenizer.patterns import to_bytes
from groundup.tokenizer.pretokens import pretoken_ends

FIRST_ENTRIES, FIRST_BYTES = 1 << 16, 1 << 20  # that there is room for at first
N, N_BYTES = 0, 1  # of the state
KEY, COUNT, ENTRY, COLUMNS = 0, 1, 2, 4  # of a row, half a line of the cache; a key is never 0
SHORT = 7  # bytes that a key holds whole


class Pretokens(NamedTuple):
    """Distinct pre-tokens and how often each occurs."""

    text: np.ndarray
    """All of them, end to end, uint8, shape [bytes]."""
    ends: np.ndarray
    """Where in it each ends, int64, shape [n]."""
    counts: np.ndarray
    """How often each was seen, int64, shape [n]."""

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Pretokens:
        """From pre-tokens as ``patterns.splitter`` gives them."""
        words = [to_bytes(pretoken) for pretoken in counts]
        ends = np.cumsum([len(word) for word in words], dtype=np.int64)
        return cls(np.frombuffer(b"".join(words), np.uint8), ends, np.array(list(counts.values()), np.int64))

    def frequent(self, n_bytes: int) -> tuple[Pretokens, int]:
        """Those seen more than k times, for the least k that leaves at most so many bytes, and k."""
        lengths = np.diff(self.ends, prepend=0)
        order = np.argsort(-self.counts, kind="stable")
        fits = np.searchsorted(np.cumsum(lengths[order]), n_bytes, "right")
        if fits == len(order):
            return self, 0
        k = int(self.counts[order[fits]])
        kept = self.counts > k
        return Pretokens(self.text[np.repeat(kept, lengths)], np.cumsum(lengths[kept]), self.counts[kept]), k


@njit(cache=True, nogil=True, boundscheck=False)
def _key(text, begin, end):
    """What a pre-token is known by: up to seven bytes themselves and their number; of more, a hash below a byte that no number is.

    The hash is FNV-1a (Fowler, Noll & Vo 1991).
    """
    n, key = end - begin, np.uint64(0)
    if n <= SHORT:
        for i in range(n):
            key = (key << np.uint64(8)) | np.uint64(text[begin + i])
        return key | (np.uint64(n) << np.uint64(56))
    key = np.uint64(0xCBF29CE484222325)
    for i in range(begin, end):
        key = (key ^ np.uint64(text[i])) * np.uint64(0x100000001B3)
    return key | (np.uint64(0xFF) << np.uint64(56))


@njit(cache=True, nogil=True, boundscheck=False)
def _first_row(key, n_rows):
    """Where a key is looked for first (multiplicative hashing, Knuth 1973)."""
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(n_rows - 1))


@njit(cache=True, nogil=True, boundscheck=False)
def _same(text, begin, end, entry, starts, blob):
    """Whether the bytes are those of an entry: a hash alone is no proof."""
    start = starts[entry]
    if starts[entry + 1] - start != end - begin:
        return False
    for i in range(end - begin):  # noqa: SIM110, numba compiles no all()
        if blob[start + i] != text[begin + i]:
            return False
    return True


@njit(cache=True, nogil=True, boundscheck=False)
def count_pretokens(text, ends, weights, first, rows, starts, blob, state):
    """Counts the pre-tokens from the first-th on, each once or by its weight; returns the one for which there is no room, or how many."""
    begin = ends[first - 1] if first else 0
    for i in range(first, len(ends)):
        end = ends[i]
        key = _key(text, begin, end)
        row = _first_row(key, len(rows))
        while rows[row, KEY] != 0 and not (
            rows[row, KEY] == key and (end - begin <= SHORT or _same(text, begin, end, np.int64(rows[row, ENTRY]), starts, blob))
        ):
            row = (row + 1) & (len(rows) - 1)
        if rows[row, KEY] == 0:
            n, n_bytes = state[N], state[N_BYTES]
            if 2 * n >= len(rows) or n + 1 == len(starts) or n_bytes + end - begin > len(blob):
                return i
            for j in range(end - begin):
                blob[n_bytes + j] = text[begin + j]
            starts[n + 1] = n_bytes + end - begin
            state[N], state[N_BYTES] = n + 1, n_bytes + end - begin
            rows[row, KEY], rows[row, ENTRY] = key, np.uint64(n)
        rows[row, COUNT] += np.uint64(weights[i]) if len(weights) else np.uint64(1)
        begin = end
    return len(ends)


@njit(cache=True, nogil=True, boundscheck=False)
def move_rows(old, new):
    """Enters all rows of a table into an empty one."""
    for i in range(len(old)):
        if old[i, KEY] != 0:
            row = _first_row(old[i, KEY], len(new))
            while new[row, KEY] != 0:
                row = (row + 1) & (len(new) - 1)
            new[row] = old[i]


class Counter:
    """A table of pre-tokens by a pattern, at first with room for so many of so many bytes; one thread at a time.

    Where it would take more than ``limit_bytes`` of memory, the rarest pre-tokens are forgotten, so that half of the bytes are left.
    """

    def __init__(self, pattern: str, n: int = FIRST_ENTRIES, n_bytes: int = FIRST_BYTES, limit_bytes: int | None = None) -> None:
        self.pattern, self.limit_bytes = pattern, limit_bytes
        self.forgotten = 0
        """The most times that a forgotten pre-token had been seen since the last time any were; 0 where none was."""
        self.state = np.zeros(2, np.int64)
        self.rows = np.zeros((0, COLUMNS), np.uint64)
        self.starts, self.blob = np.zeros(1, np.int64), np.empty(0, np.uint8)
        self._grow(n, n_bytes)

    def add(self, text: bytes) -> None:
        """Counts the pre-tokens of a text."""
        self._add(np.frombuffer(text, np.uint8), pretoken_ends(text, self.pattern), np.empty(0, np.int64))

    def join(self, other: Pretokens) -> None:
        """Counts what another counter has counted."""
        self._add(*other)

    def pretokens(self) -> Pretokens:
        """What was counted so far."""
        n, n_bytes = self.state.tolist()
        held = self.rows[self.rows[:, KEY] != 0]
        counts = np.empty(n, np.int64)
        counts[held[:, ENTRY].astype(np.int64)] = held[:, COUNT].astype(np.int64)
        return Pretokens(self.blob[:n_bytes], self.starts[1 : n + 1], counts)

    def _add(self, text: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> None:
        at = 0
        while True:
            at = count_pretokens(text, ends, weights, at, self.rows, self.starts, self.blob, self.state)
            if at == len(ends):
                return
            longest = int(ends[at] - (ends[at - 1] if at else 0))
            n, n_bytes = 2 * len(self.starts), 2 * len(self.blob) + longest
            if self.limit_bytes is not None and _table_bytes(n, n_bytes) > self.limit_bytes and self.state[N]:
                self._forget()
            else:
                self._grow(n, n_bytes)

    def _forget(self) -> None:
        """Keeps the most frequent pre-tokens, half of the bytes at most."""
        kept, k = self.pretokens().frequent(int(self.state[N_BYTES]) // 2)
        self.forgotten = max(self.forgotten, k)
        self.rows[:] = 0
        self.state[:] = 0
        self._add(kept.text.copy(), kept.ends, kept.counts)

    def _grow(self, n: int, n_bytes: int) -> None:
        self.starts, self.blob = _longer(self.starts, n + 1), _longer(self.blob, n_bytes)
        rows = np.zeros((_n_rows(n), COLUMNS), np.uint64)
        move_rows(self.rows, rows)
        self.rows = rows


def _n_rows(n: int) -> int:
    """Rows of a table of n pre-tokens, which is at most half full."""
    return 1 << (2 * n - 1).bit_length()


def _table_bytes(n: int, n_bytes: int) -> int:
    """Memory of a table of n pre-tokens of so many bytes, while it grows to that size from half of it."""
    return (8 * COLUMNS * _n_rows(n) + 8 * n + n_bytes) * 3 // 2


def _longer(array: np.ndarray, length: int) -> np.ndarray:
    out = np.empty(length, array.dtype)
    out[: len(array)] = array
    return out
