"""Near-identical documents: one-permutation MinHash (Li, Owen & Zhang 2012), banded hashing (Broder 1997; Leskovec et al. 2014,
chapter 3) and union-find. A document is the set of its 8-byte shingles; two are near-identical when their sets' Jaccard similarity
is about 0.8 or more."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64, UInt16, UInt64

SHINGLE_BYTES = 8
N_BINS = 128
"""Minima kept of a document: the similarity read off two sketches has a standard error of sqrt(J (1 - J) / 128), 0.035 at 0.8."""
BINS_A_BAND = 4
"""Two documents are compared when 4 neighbouring bins agree in any of 32 bands: missed with (1 - J^4)^32, 5e-8 at J = 0.8."""
JOINED_FROM = 0.7
"""Similarity read off the sketches from which two documents are joined: three standard errors below 0.8, so that those are."""
NEIGHBOURS = 8
"""Documents that agree in a band are sorted, and each is compared with the next 8, so that boilerplate cannot make it quadratic."""
CHUNK = 1 << 15
_M1, _M2, _M3 = (np.uint64(m) for m in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))  # splitmix64's constants
_ALL = np.uint64(2**64 - 1)


def sketch(text: bytes) -> UInt16[np.ndarray, " bins"]:
    """Of every bin of the hashed shingles the smallest, 16 bits of it; 0 marks an empty bin."""
    n_shingles = max(1, len(text) - SHINGLE_BYTES + 1)
    # Small hashes are all that can be minima: about 16 a bin nearly always suffice, and where not, all are taken.
    some = np.uint64(min(2**64 - 1, (2**64 - 1) * 16 * N_BINS // n_shingles))
    minima = _bin_minima(text, some)
    if some != _ALL and (minima == _ALL).any():
        minima = _bin_minima(text, _ALL)
    bits = ((minima * _M3) >> np.uint64(41)).astype(np.uint16)  # below the 7 bits that chose the bin
    return np.where(minima == _ALL, np.uint16(0), np.maximum(bits, np.uint16(1)))


def _bin_minima(text: bytes, limit: np.uint64) -> UInt64[np.ndarray, " bins"]:
    data = np.frombuffer(text.ljust(SHINGLE_BYTES, b"\0"), np.uint8)
    n_shingles = len(data) - SHINGLE_BYTES + 1
    minima = np.full(N_BINS, _ALL)
    for start in range(0, n_shingles, CHUNK):
        # Every 8 bytes that follow one another are one integer: a view, no copy.
        hashes = np.ndarray((min(CHUNK, n_shingles - start),), "<u8", data, offset=start, strides=(1,)) * _M1
        hashes ^= hashes >> np.uint64(32)
        hashes *= _M2
        hashes = hashes[hashes < limit]
        np.minimum.at(minima, (hashes * _M3 >> np.uint64(57)).astype(np.intp), hashes)
    return minima


def similarity(a: UInt16[np.ndarray, "n bins"], b: UInt16[np.ndarray, "n bins"]) -> Float[np.ndarray, " n"]:
    """Estimates the Jaccard similarity |A and B| / |A or B| of the documents behind the sketches, row by row."""
    filled = (a != 0) | (b != 0)
    return ((a == b) & filled).sum(1) / np.maximum(1, filled.sum(1))


def cluster(sketches: UInt16[np.ndarray, "n bins"]) -> Int64[np.ndarray, " n"]:
    """Joins near-identical documents: for each the smallest index in its cluster.

    Time O(n log n) in the number of documents. The answer depends on the order of the rows only where more than 8 documents agree in
    a band, so give them sorted by content.
    """
    bands = np.ascontiguousarray(sketches).view("<u8")
    parents: dict[int, int] = {}

    def root(i: int) -> int:
        while (parent := parents.get(i, i)) != i:
            parents[i] = parents.get(parent, parent)
            i = parent
        return i

    for band in range(bands.shape[1]):
        key, tie = bands[:, band], bands[:, (band + 1) % bands.shape[1]]
        order = np.lexsort((tie, key))
        for distance in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            left, right = order[:-distance], order[distance:]
            same = (key[left] == key[right]) & (key[left] != 0)
            for i, j in _near_pairs(sketches, left[same], right[same]):
                i, j = sorted((root(i), root(j)))
                parents[j] = i
    labels = np.arange(len(sketches))
    for i in parents:
        labels[i] = root(i)
    return labels


def _near_pairs(
    sketches: UInt16[np.ndarray, "n bins"], left: Int64[np.ndarray, " p"], right: Int64[np.ndarray, " p"]
) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(left), CHUNK):
        i, j = left[start : start + CHUNK], right[start : start + CHUNK]
        near = similarity(sketches[i], sketches[j]) >= JOINED_FROM
        pairs += zip(i[near].tolist(), j[near].tolist(), strict=True)
    return pairs
