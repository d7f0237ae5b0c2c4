"""Byte-pair merges of one pre-token, compiled: quadratic but quick for short ones, n log n for long ones.

A pair of neighbouring ids is looked up in a hash table of 16-byte entries: the pair, then its rank and what it makes. Of the pairs in
sight the one of the lowest rank merges first, the leftmost of equals, as byte-pair encoding prescribes (Sennrich et al. 2016).
"""

from __future__ import annotations

import numpy as np

from groundup.tokenizer.machine import load8, load32, load64, loop, store32, store64

NONE = np.uint64(2**64 - 1)
"""What a pair that does not merge is said to make."""

SHORT = 48
"""Bytes up to which the quadratic loop is the faster one."""

BYTES_EACH = 40
"""Working memory for each byte of a pre-token."""

_MIX = np.uint64(0x9E3779B97F4A7C15)


@loop
def pair_slot(key, mask):
    """Where the search for a pair begins; ``new_pair_table`` must agree."""
    mixed = key * _MIX
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))


@loop
def look_up_pair(left, right, pairs, mask):
    """The rank of a pair in the upper and the id it makes in the lower half of a word, or NONE."""
    key = (np.uint64(left) << np.uint64(32)) | np.uint64(right)
    slot = pair_slot(key, mask)
    while True:
        found = load64(pairs + 16 * slot)
        if found == key:
            return load64(pairs + 16 * slot + 8)
        if found == NONE:
            return NONE
        slot = (slot + 1) & mask


@loop
def merge_short(source, n, byte_ids, byte_pairs, pairs, mask, work, fewest):
    """Merges n <= SHORT bytes until only ``fewest`` ids are left; these are then at ``work``, int32; returns how many."""
    made = work + 4 * SHORT + 64  # what each pair makes
    for i in range(n):
        store32(work + 4 * i, load32(byte_ids + 4 * load8(source + i)))
    for i in range(n - 1):
        store64(made + 8 * i, load64(byte_pairs + 8 * (load8(source + i) << 8 | load8(source + i + 1))))
    while n > fewest:
        best, at = NONE, 0
        for i in range(n - 1):
            value = load64(made + 8 * i)
            if value < best:
                best, at = value, i
        if best == NONE:
            break
        store32(work + 4 * at, np.int64(best & np.uint64(0xFFFFFFFF)))
        n -= 1
        for i in range(at + 1, n):
            store32(work + 4 * i, load32(work + 4 * i + 4))
        for i in range(at + 1, n - 1):
            store64(made + 8 * i, load64(made + 8 * i + 8))
        new = load32(work + 4 * at)
        if at > 0:
            store64(made + 8 * at - 8, look_up_pair(load32(work + 4 * at - 4), new, pairs, mask))
        if at < n - 1:
            store64(made + 8 * at, look_up_pair(new, load32(work + 4 * at + 4), pairs, mask))
    return n


@loop
def _push(heap, n, value):
    """Adds a value to a heap of n, the smallest on top."""
    i = n
    while i > 0:
        above = (i - 1) >> 1
        other = load64(heap + 8 * above)
        if other <= value:
            break
        store64(heap + 8 * i, other)
        i = above
    store64(heap + 8 * i, value)
    return n + 1


@loop
def _pop(heap, n):
    """Takes the top off a heap of n values, of which the caller has made a copy."""
    n -= 1
    value = load64(heap + 8 * n)
    i = 0
    while 2 * i + 1 < n:
        below = 2 * i + 1
        other = load64(heap + 8 * below)
        if below + 1 < n and load64(heap + 8 * below + 8) < other:
            below += 1
            other = load64(heap + 8 * below)
        if value <= other:
            break
        store64(heap + 8 * i, other)
        i = below
    store64(heap + 8 * i, value)
    return n


@loop
def merge_long(source, n, byte_ids, byte_pairs, pairs, mask, work):
    """Merges n bytes in time n log n; their ids are then at ``work``, int32; returns how many.

    Symbols are linked, each at the place of its first byte. The heap holds a rank and a place for every pair that was ever in sight; an
    entry counts only while the pair at its place still has that rank.
    """
    before, after, heap = work + 4 * n, work + 8 * n, (work + 12 * n + 7) & -8
    size = np.int64(0)
    for i in range(n):
        store32(work + 4 * i, load32(byte_ids + 4 * load8(source + i)))
        store32(before + 4 * i, i - 1)
        store32(after + 4 * i, i + 1)
    for i in range(n - 1):
        value = load64(byte_pairs + 8 * (load8(source + i) << 8 | load8(source + i + 1)))
        if value != NONE:
            size = _push(heap, size, (value & ~np.uint64(0xFFFFFFFF)) | np.uint64(i))
    gone = 0xFFFFFFFF  # instead of the id of a symbol that another has taken in
    while size > 0:
        top = load64(heap)
        size = _pop(heap, size)
        i = np.int64(top & np.uint64(0xFFFFFFFF))
        left = load32(work + 4 * i)
        j = load32(after + 4 * i)
        if left == gone or j >= n:
            continue
        value = look_up_pair(left, load32(work + 4 * j), pairs, mask)
        if value == NONE or value >> np.uint64(32) != top >> np.uint64(32):
            continue
        new = np.int64(value & np.uint64(0xFFFFFFFF))
        store32(work + 4 * i, new)
        store32(work + 4 * j, gone)
        following = load32(after + 4 * j)
        store32(after + 4 * i, following)
        if following < n:
            store32(before + 4 * following, i)
            value = look_up_pair(new, load32(work + 4 * following), pairs, mask)
            if value != NONE:
                size = _push(heap, size, (value & ~np.uint64(0xFFFFFFFF)) | np.uint64(i))
        if i > 0:
            previous = load32(before + 4 * i)
            value = look_up_pair(load32(work + 4 * previous), new, pairs, mask)
            if value != NONE:
                size = _push(heap, size, (value & ~np.uint64(0xFFFFFFFF)) | np.uint64(previous))
    m = 0
    for i in range(n):
        token = load32(work + 4 * i)
        if token != gone:
            store32(work + 4 * m, token)
            m += 1
    return m
