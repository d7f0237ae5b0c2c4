"""Where a pre-token can be cut into segments that are encoded by themselves, since no token reaches across.

A merge makes a token, so none crosses a place where no token has both what ends before and what begins after it, whatever the ranks. Asked
is only before a character, and not between two of ASCII. A *crossing* is what can be seen of a token at such a place within it: the byte
before, and up to three bytes of the character behind, of the second and third their lower six bits. A table has one bit for every hash of
a crossing; other places that share a hash are not cut either, which costs time and changes nothing.

In languages written without spaces a clause is one pre-token, that no cache has seen before, and its segments are words, that are seen
all the time.
"""

from __future__ import annotations

import numpy as np

from groundup.tokenizer.machine import load8, load32, load64, loop, store32

_MIX = np.uint64(0x9E3779B97F4A7C15)
_BEYOND_ASCII = np.uint64(0x8080808080808080)
_BITS_EACH = 16  # of the table for every crossing: one in sixteen places that could be cut is not


@loop
def _is_crossed(at, crossings, shift):
    """May a token reach across the place before the character that begins here?"""
    key = load32(at - 1)
    first = (key >> 8) & 255
    if first < 0xC0:
        key &= 0xFFFF
    elif first < 0xE0:
        key &= 0x3FFFFF
    else:
        key &= 0x3F3FFFFF
    bit = np.int64((np.uint64(key) * _MIX) >> np.uint64(shift))
    return (load8(crossings + (bit >> 3)) >> (bit & 7)) & 1


@loop
def find_segments(source, n, crossings, shift, ends):
    """Writes where the segments of n bytes end, int32; returns how many. Some bytes beyond may be read.

    Every place is written and counted only if it is one, for the processor cannot guess which are.
    """
    k, at = 0, 1
    while at < n:
        if load64(source + at - 1) & _BEYOND_ASCII == np.uint64(0):
            at += 7
            continue
        byte = load8(source + at)
        if byte & 0xC0 != 0x80 and (byte | load8(source + at - 1)) & 0x80:
            store32(ends + 4 * k, at)
            k += 1 - _is_crossed(source + at, crossings, shift)
        at += 1
    store32(ends + 4 * k, n)
    return k + 1


def crossing_table(blob: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The table for tokens ``blob[offsets[i] : offsets[i + 1]]``, uint8, a power of two of bits."""
    inner = np.ones(offsets[-1], bool)
    inner[offsets[:-1][offsets[:-1] < offsets[-1]]] = False
    before, first = np.concatenate(([0], blob[: offsets[-1] - 1])), blob[: offsets[-1]]
    places = np.flatnonzero(inner & (first & 0xC0 != 0x80) & ((first | before) & 0x80 != 0))
    seen = offsets[np.searchsorted(offsets, places, "right")] - places  # bytes of the token from here on
    keys = []
    first = blob[places]
    for asked, here in ((1, first < 0xC0), (2, (first >= 0xC0) & (first < 0xE0)), (3, first >= 0xE0)):
        for known in range(1, asked + 1):
            at = places[here & (seen >= known if known == asked else seen == known)]
            key = blob[at - 1].astype(np.uint64)
            for i in range(known):
                key |= (blob[at + i] & (0x3F if i else 0xFF)).astype(np.uint64) << np.uint64(8 * i + 8)
            key = np.unique(key)
            for i in range(known, asked):  # the token ends within the character: it may be any
                key = (key[:, None] | np.arange(64, dtype=np.uint64) << np.uint64(8 * i + 8)).ravel()
            keys.append(key)
    found = np.concatenate(keys)
    n_bits = max((_BITS_EACH * found.size).bit_length(), 6)
    bits = np.zeros(1 << n_bits, bool)
    bits[(found * _MIX) >> np.uint64(64 - n_bits)] = True
    return np.packbits(bits, bitorder="little")
