"""Compiled pre-tokenization: where the pre-tokens of ``patterns`` end, 64 bytes at a time.

A pattern is looked at twice. ``match`` says where the pre-token that begins here ends, character by character, exactly; it is the pattern
spelled out. ``boundaries`` (in ``rules``) says where pre-tokens begin from the classes of a character and its neighbours alone, in
machine words with a bit for every byte. It marks as *hard* the bytes where that is not enough (contractions, marks, rare spaces, numbers
outside ASCII), and as *certain* those where a pre-token begins whatever stands around. From a pre-token's beginning nothing before it
matters, so ``_repair`` matches afresh from the certain beginning before a hard byte to the one after it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from groundup.tokenizer.classes import class_table
from groundup.tokenizer.machine import (
    classify_ascii,
    copy64,
    highest,
    load8,
    load64,
    loop,
    lowest,
    n_set,
    store8,
    store16,
    store32,
    store64,
)
from groundup.tokenizer.matching import char_at, match
from groundup.tokenizer.rules import boundaries

KINDS = {"gpt2": 0, "smollm": 1, "cl100k": 2, "qwen2": 3, "o200k": 4, "deepseek-v3": 5}
"""The compiled patterns, by the number that stands for them in compiled code."""

CHUNK = 4096
"""Bytes looked at in one go: what is written about them stays in the nearest cache."""

MARGIN = 192
"""Bytes behind a chunk that may be read."""

_MOST = CHUNK + 512  # bytes in a chunk, the last one of a text being larger
_CLASSES = 64  # where things lie in the scratch memory; there are 64 bytes of classes before the first
_STARTS = _CLASSES + _MOST + 128
_HARD = _STARTS + _MOST // 8
_CERTAIN = _HARD + _MOST // 8
_TAIL = _CERTAIN + _MOST // 8
ENDS = _TAIL + _MOST + 256
SCRATCH_BYTES = ENDS + 4 * _MOST + 256
"""Size of the memory that ``split_chunk`` works in; its results lie ENDS bytes from the beginning."""

_ONE, _ALL = np.uint64(1), np.uint64(2**64 - 1)


@lru_cache
def address_of_classes(pattern: str) -> int:
    """Where a pattern's class table lies in memory, which it does until the process ends."""
    return class_table(pattern).ctypes.data


def new_scratch() -> np.ndarray:
    """Memory for one thread to split in, uint8, shape [SCRATCH_BYTES]."""
    scratch = np.zeros(SCRATCH_BYTES, np.uint8)
    scratch[:_CLASSES] = 4  # WHITE: what stands before a chunk joins nothing
    return scratch


@loop
def _classify(source, n, classes, table):
    """Writes the class of each character over all its bytes."""
    end = source + n + 8
    painted = 0
    last = 0
    for i in range(0, n, 64):
        high = classify_ascii(classes + i, source + i)
        if high == np.uint64(0):
            continue
        if painted > i:
            for p in range(i, painted):
                store8(classes + p, last)
            high &= _ALL << np.uint64(painted - i)
        while high != np.uint64(0):
            p = i + lowest(high)
            char = char_at(source + p, end, table)
            length = char >> 8
            last = char & 255
            if length == 1:
                store8(classes + p, last)
            else:
                store16(classes + p, last * 257)
                store16(classes + p + length - 2, last * 257)
            painted = p + length
            high = high & (_ALL << np.uint64(painted - i)) if painted - i < 64 else np.uint64(0)


@loop
def _only_start(starts, p, q):
    """Makes q the one start in p + 1 .. q."""
    for w in range((p + 1) & -64, q + 1, 64):
        bits = load64(starts + (w >> 3))
        kept = np.uint64(0)
        if w <= p:
            kept |= _ALL >> np.uint64(63 - (p - w))
        if q - w < 64:
            kept |= _ALL << np.uint64(q - w)
            bits |= _ONE << np.uint64(q - w)
        store64(starts + (w >> 3), bits & kept)


@loop
def _repair(source, end, limit, scratch, table, kind):
    """Matches anew around every hard byte before the limit."""
    done = 0
    for w in range(0, limit, 64):
        hard = load64(scratch + _HARD + (w >> 3))
        while hard != np.uint64(0):
            t = w + lowest(hard)
            hard &= hard - _ONE
            if t < done:
                continue
            if t >= limit:
                return
            v = w
            before = load64(scratch + _CERTAIN + (v >> 3)) & (_ALL >> np.uint64(63 - (t - w)))
            while before == np.uint64(0):
                v -= 64
                before = load64(scratch + _CERTAIN + (v >> 3))
            p = v + highest(before)
            while p < limit and (p <= t or (load8(scratch + _CERTAIN + (p >> 3)) >> (p & 7)) & 1 == 0):
                q = match(source + p, end, table, kind) - source
                _only_start(scratch + _STARTS, p, q)
                p = q
            done = p


@loop
def _extract(starts, limit, ends):
    """Writes the positions of the starts after 0 and before the limit, then the limit; returns how many that are."""
    k = 0
    for w in range(0, limit, 64):
        bits = load64(starts + (w >> 3))
        if w == 0:
            bits &= ~_ONE
        if limit - w < 64:
            bits &= (_ONE << np.uint64(limit - w)) - _ONE
        count = n_set(bits)
        for q in range(0, count, 8):  # eight at a time without asking whether there are so many: what is too much is written over
            for z in range(8):
                store32(ends + 4 * (k + q + z), w + lowest(bits))
                bits &= bits - _ONE
        k += count
    store32(ends + 4 * k, limit)
    return k + 1


@loop
def _split_far(source, end, scratch, table, kind):
    """Splits where no beginning is certain: a long stretch without spaces."""
    k = p = 0
    while p < CHUNK:
        p = match(source + p, end, table, kind) - source
        store32(scratch + ENDS + 4 * k, p)
        k += 1
    return k


@loop
def split_chunk(source, end, is_last, scratch, table, kind):
    """Finds the ends of the next pre-tokens, int32 from the source on, at scratch + ENDS; returns how many.

    A pre-token begins at the source. There are MARGIN + CHUNK bytes before the end; or it is the last chunk, with MARGIN blanks behind it.
    """
    n = (end - source + 63) & -64 if is_last else CHUNK
    _classify(source, n + 64, scratch + _CLASSES, table)
    boundaries(source, scratch + _CLASSES, n, kind, scratch + _STARTS, scratch + _HARD, scratch + _CERTAIN)
    store64(scratch + _CERTAIN, load64(scratch + _CERTAIN) | _ONE)
    if is_last:
        limit = end - source
    else:
        w = n - 64
        while w > 0 and load64(scratch + _CERTAIN + (w >> 3)) == np.uint64(0):
            w -= 64
        limit = w + highest(load64(scratch + _CERTAIN + (w >> 3)))
        if limit == 0:
            return _split_far(source, end, scratch, table, kind)
    _repair(source, end, limit, scratch, table, kind)
    return _extract(scratch + _STARTS, limit, scratch + ENDS)


@loop
def copy_tail(source, end, scratch):
    """Copies what is left of a text to where MARGIN blanks follow it; returns where."""
    n = end - source
    i = 0
    while i + 64 <= n:
        copy64(scratch + _TAIL + i, source + i)
        i += 64
    while i < n:
        store8(scratch + _TAIL + i, load8(source + i))
        i += 1
    for i in range(n, n + MARGIN):
        store8(scratch + _TAIL + i, 32)
    return scratch + _TAIL
