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


@njit(cache=True, nogil=True, boundscheck=False)
def _hash(text, begin, end):
    """FNV-1a (Fowler, Noll & Vo 1991), 64 bits, its halves mixed because the low bits choose the slot."""
    mixed = np.uint64(0xCBF29CE484222325)
    for i in range(begin, end):
        mixed = (mixed ^ np.uint64(text[i])) * np.uint64(0x100000001B3)
    return mixed ^ (mixed >> np.uint64(32))


@njit(cache=True, nogil=True, boundscheck=False)
def _find(text, begin, end, mixed, slots, hashes, starts, blob):
    """The slot of a pre-token, or the empty one where it belongs; slots hold the number of an entry and one, 0 where empty."""
    mask = np.uint64(len(slots) - 1)
    slot = mixed & mask
    while slots[slot] != 0:
        entry = slots[slot] - 1
        if hashes[entry] == mixed and starts[entry + 1] - starts[entry] == end - begin:
            i, start = 0, starts[entry]
            while i < end - begin and blob[start + i] == text[begin + i]:
                i += 1
            if i == end - begin:
                break
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True, boundscheck=False)
def count_pretokens(text, ends, weights, first, slots, hashes, starts, counts, blob, state):
    """Counts the pre-tokens from the first-th on, each once or by its weight; returns the one for which there is no room, or how many."""
    begin = ends[first - 1] if first else 0
    for i in range(first, len(ends)):
        end = ends[i]
        mixed = _hash(text, begin, end)
        slot = _find(text, begin, end, mixed, slots, hashes, starts, blob)
        if slots[slot] == 0:
            n, n_bytes = state[N], state[N_BYTES]
            if n == len(counts) or n_bytes + end - begin > len(blob):
                return i
            for j in range(end - begin):
                blob[n_bytes + j] = text[begin + j]
            hashes[n], counts[n], starts[n + 1] = mixed, 0, n_bytes + end - begin
            state[N], state[N_BYTES] = n + 1, n_bytes + end - begin
            slots[slot] = n + 1
        counts[slots[slot] - 1] += weights[i] if len(weights) else 1
        begin = end
    return len(ends)


@njit(cache=True, nogil=True, boundscheck=False)
def fill_slots(slots, hashes, n):
    """Enters the first n entries into an empty table."""
    mask = np.uint64(len(slots) - 1)
    for entry in range(n):
        slot = hashes[entry] & mask
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = entry + 1


class Counter:
    """A table of pre-tokens by a pattern, at first with room for so many of so many bytes; one thread at a time."""

    def __init__(self, pattern: str, n: int = FIRST_ENTRIES, n_bytes: int = FIRST_BYTES) -> None:
        self.pattern = pattern
        self.state = np.zeros(2, np.int64)
        self.hashes, self.counts = np.empty(0, np.uint64), np.empty(0, np.int64)
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
        return Pretokens(self.blob[:n_bytes], self.starts[1 : n + 1], self.counts[:n])

    def _add(self, text: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> None:
        at = 0
        while True:
            at = count_pretokens(text, ends, weights, at, self.slots, self.hashes, self.starts, self.counts, self.blob, self.state)
            if at == len(ends):
                return
            longest = int(ends[at] - (ends[at - 1] if at else 0))
            full = self.state[N] == len(self.counts)
            self._grow(len(self.counts) * (2 if full else 1), len(self.blob) if full else 2 * len(self.blob) + longest)

    def _grow(self, n: int, n_bytes: int) -> None:
        self.hashes, self.counts = _longer(self.hashes, n), _longer(self.counts, n)
        self.starts, self.blob = _longer(self.starts, n + 1), _longer(self.blob, n_bytes)
        self.slots = np.zeros(1 << (2 * n - 1).bit_length(), np.int64)  # at most half full
        fill_slots(self.slots, self.hashes, self.state[N])


def _longer(array: np.ndarray, length: int) -> np.ndarray:
    out = np.empty(length, array.dtype)
    out[: len(array)] = array
    return out
