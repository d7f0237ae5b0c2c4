"""The compiled encoder: split, look each pre-token up in a cache, cut those that are not there, merge the segments that are not there.

The cache is two tables of sets of two entries, so its size never changes and nothing is ever cleared. A *narrow* entry, 32 bytes, holds a
pre-token of at most 15 bytes and at most 4 ids; a *wide* one, 256 bytes, at most 120 bytes and 32 ids. Entries hold the pre-token itself,
so what is found is what was asked for. A new entry goes to its set's second place; one that is found there changes places with the first.
Segments (see ``crossings``) are kept as if they were pre-tokens, with a MARK only where these become tokens that merges do not make.

A chunk's pre-tokens are hashed and their sets asked for (``prefetch``) before any is looked up, so that memory is waited for once, not
a thousand times.
"""

from __future__ import annotations

import numpy as np

from groundup.tokenizer.crossings import find_segments
from groundup.tokenizer.machine import (
    compiled,
    copy16,
    copy_but16,
    equal16,
    keep_and_add16,
    load8,
    load32,
    load64,
    load_int,
    loop,
    prefetch,
    store8,
    store32,
    store64,
)
from groundup.tokenizer.merge_loops import SHORT, merge_long, merge_short
from groundup.tokenizer.scan import CHUNK, ENDS, MARGIN, copy_tail, split_chunk

(
    SCRATCH, CLASSES, KIND, NARROW, NARROW_SHIFT, WIDE, WIDE_SHIFT, PAIRS, PAIR_MASK, BYTE_IDS, BYTE_PAIRS, WORK, WORK_LIMIT,
    WHOLE, WHOLE_MASK, BLOB, OFFSETS, CROSSINGS, CROSSINGS_SHIFT, SEGMENTS, GIVEN, KEYS, MASKS, REACHED, NEEDED, N_FIELDS,
) = range(26)  # fmt: skip
"""What stands where in a state, an int64 array: addresses of tables, their sizes, and what the encoder has to say beside its ids."""

NARROW_BYTES, WIDE_BYTES = 32, 256
NARROW_KEY, NARROW_IDS = 15, 4
WIDE_KEY, WIDE_IDS = 120, 32
MARK = 128
"""Added to the length of a segment that must not pass for a pre-token."""

GIVEN_KIND = -1
"""In place of a pattern: the ends are given, as int32 at GIVEN."""

COPY = 16
"""Bytes that decoding moves at a time."""

BATCH = 256
"""Pre-tokens that are hashed together."""

KEYS_BYTES = 24 * BATCH
"""A key of 16 bytes for each, then the addresses of their sets."""

_ZERO, _ALL = np.uint64(0), np.uint64(2**64 - 1)
_A, _B, _C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0xD6E8FEB86659FD93)
_IDS = np.uint64(0xFFFFFFFF00FFFFFF)  # two ids, without how many there are in all


@loop
def _hash_bytes(at, n):
    """A hash of n bytes, of which some beyond the end may be read."""
    mixed = np.uint64(n) * _C
    for i in range(0, n, 8):
        word = load64(at + i)
        if n - i < 8:
            word &= _ALL >> np.uint64(64 - 8 * (n - i))
        mixed = (mixed ^ word) * _A
        mixed ^= mixed >> np.uint64(32)
    return mixed * _B


def hash_of(data: bytes) -> int:
    """What ``_hash_bytes`` makes of some bytes."""
    modulus = 1 << 64
    mixed = len(data) * int(_C) % modulus
    for i in range(0, len(data), 8):
        mixed = (mixed ^ int.from_bytes(data[i : i + 8], "little")) * int(_A) % modulus
        mixed ^= mixed >> 32
    return mixed * int(_B) % modulus


def key_masks() -> np.ndarray:
    """What makes a key of 16 bytes read: for each length up to NARROW_KEY 16 bytes to keep and 16 to add, uint8, shape [17, 32].

    The last row is for what is longer, and makes a key that no entry has.
    """
    rows = np.zeros((NARROW_KEY + 2, 32), np.uint8)
    for n in range(NARROW_KEY + 1):
        rows[n, :n], rows[n, 31] = 255, n
    rows[-1, 31] = 255
    return rows


@loop
def _mix(low, high):
    """The hash of a key, the best of it in the upper bits."""
    return low * _A + high * _B


@loop
def _narrow_key(at, n, length):
    """The two words that stand for n <= NARROW_KEY bytes, of a length that may have a MARK, and their hash."""
    bits = 8 * n
    low = load64(at) & (_ALL >> np.uint64(64 - bits if bits < 64 else 0))
    high = load64(at + 8) & ((np.uint64(1) << np.uint64(bits - 64 if bits > 64 else 0)) - np.uint64(1))
    high |= np.uint64(length) << np.uint64(56)
    return low, high, _mix(low, high)


@loop
def _write_keys(source, begin, k, ends, keys, masks, narrow, shift):
    """For each pre-token what ``_narrow_key`` makes of it, and where its set is; for one too long a key that no entry has."""
    for i in range(k):
        end = load32(ends + 4 * i)
        n = end - begin
        row = masks + ((n if n <= NARROW_KEY else NARROW_KEY + 1) << 5)
        keep_and_add16(keys + 16 * i, source + begin, row, row + 16)
        begin = end
        mixed = _mix(load64(keys + 16 * i), load64(keys + 16 * i + 8))
        where = narrow + (np.int64(mixed >> np.uint64(shift)) << 6)
        prefetch(where)
        store64(keys + 16 * BATCH + 8 * i, np.uint64(where))


@loop
def _wide_is(entry, at, n, length):
    """Does a wide entry hold these n bytes, of a length that may have a MARK?"""
    if load8(entry) != length:
        return False
    for i in range(0, n, 8):
        word = load64(at + i)
        if n - i < 8:
            word &= _ALL >> np.uint64(64 - 8 * (n - i))
        if load64(entry + 8 + i) != word:
            return False
    return True


@loop
def _swap(a, b, n):
    for i in range(0, n, 8):
        word = load64(a + i)
        store64(a + i, load64(b + i))
        store64(b + i, word)


@loop
def _find_wide(entries, at, n, length, out):
    """Writes the ids that a set has for n bytes; returns how many, 0 if it has none."""
    if not _wide_is(entries, at, n, length):
        if not _wide_is(entries + WIDE_BYTES, at, n, length):
            return 0
        _swap(entries, entries + WIDE_BYTES, WIDE_BYTES)
    m = load8(entries + 1)
    for i in range(0, 4 * m, 8):
        store64(out + i, load64(entries + 8 + WIDE_KEY + i))
    return m


@loop
def _find_whole(at, n, state):
    """The id of the token that is these n bytes, among those that merges do not make; -1 if it is none."""
    mask = load_int(state + 8 * WHOLE_MASK)
    table, blob, offsets = load_int(state + 8 * WHOLE), load_int(state + 8 * BLOB), load_int(state + 8 * OFFSETS)
    slot = np.int64(_hash_bytes(at, n) & np.uint64(mask))
    while True:
        token = load32(table + 4 * slot)
        if token == 0xFFFFFFFF:
            return -1
        begin, end = load_int(offsets + 8 * token), load_int(offsets + 8 * token + 8)
        if end - begin == n:
            i = 0
            while i < n and load8(at + i) == load8(blob + begin + i):
                i += 1
            if i == n:
                return token
        slot = (slot + 1) & mask


@loop
def _merge(at, n, state, out):
    """Writes the ids of at most WORK_LIMIT bytes; returns how many."""
    work = load_int(state + 8 * WORK)
    byte_ids, byte_pairs = load_int(state + 8 * BYTE_IDS), load_int(state + 8 * BYTE_PAIRS)
    pairs, mask = load_int(state + 8 * PAIRS), load_int(state + 8 * PAIR_MASK)
    if n <= SHORT:
        m = merge_short(at, n, byte_ids, byte_pairs, pairs, mask, work, np.int64(1))
    else:
        m = merge_long(at, n, byte_ids, byte_pairs, pairs, mask, work)
    for i in range(m):
        store32(out + 4 * i, load32(work + 4 * i))
    return m


@loop
def _keep_narrow(entries, low, high, m, out):
    """Keeps m ids in a set."""
    entry = entries if load64(entries + 8) == _ZERO else entries + NARROW_BYTES
    store64(entry, low)
    store64(entry + 8, high)
    store32(entry + 16, load32(out) | m << 24)
    for i in range(1, m):
        store32(entry + 16 + 4 * i, load32(out + 4 * i))


@loop
def _keep_wide(entries, at, n, length, m, out):
    """Keeps m ids of n bytes in a set."""
    entry = entries if load8(entries) == 0 else entries + WIDE_BYTES
    store64(entry, np.uint64(length | m << 8))
    for i in range(0, n, 8):
        word = load64(at + i)
        if n - i < 8:
            word &= _ALL >> np.uint64(64 - 8 * (n - i))
        store64(entry + 8 + i, word)
    for i in range(m):
        store32(entry + 8 + WIDE_KEY + 4 * i, load32(out + 4 * i))


@loop
def _find_narrow(entries, low, high, out):
    """Writes the ids that a set has for a key; returns how many, 0 if it has none."""
    if load64(entries) != low or load64(entries + 8) != high:
        if load64(entries + NARROW_BYTES) != low or load64(entries + NARROW_BYTES + 8) != high:
            return 0
        _swap(entries, entries + NARROW_BYTES, NARROW_BYTES)
    ids = load64(entries + 16)
    store64(out, ids & _IDS)
    store64(out + 8, load64(entries + 24))
    return np.int64(ids >> np.uint64(24)) & 255


@loop
def _encode_segment(at, n, mark, state, out):
    """Writes the ids of a segment, or of a pre-token that is one, from the cache or by merging; returns how many."""
    entries = wide = np.int64(0)
    low = high = mixed = _ZERO
    if n <= NARROW_KEY:
        low, high, mixed = _narrow_key(at, n, n | mark)
        entries = load_int(state + 8 * NARROW) + (np.int64(mixed >> np.uint64(load_int(state + 8 * NARROW_SHIFT))) << 6)
        m = _find_narrow(entries, low, high, out)
        if m > 0:
            return m
    if n <= WIDE_KEY:
        mixed = _hash_bytes(at, n)
        wide = load_int(state + 8 * WIDE) + (np.int64(mixed >> np.uint64(load_int(state + 8 * WIDE_SHIFT))) << 9)
        m = _find_wide(wide, at, n, n | mark, out)
        if m > 0:
            return m
    m = _merge(at, n, state, out)
    if n <= NARROW_KEY and m <= NARROW_IDS:
        _keep_narrow(entries, low, high, m, out)
    elif n <= WIDE_KEY and m <= WIDE_IDS:
        _keep_wide(wide, at, n, n | mark, m, out)
    return m


@loop
def _encode_other(at, n, low, high, entries, state, out):
    """Writes the ids of a pre-token that is not in the first narrow entry; returns how many, -1 if WORK_LIMIT is too small for it."""
    if n <= NARROW_KEY:
        m = _find_narrow(entries, low, high, out)
        if m > 0:
            return m
    elif n > load_int(state + 8 * WORK_LIMIT):
        return -1
    mark = 0
    if load_int(state + 8 * WHOLE_MASK) >= 0:
        mark = MARK
        token = _find_whole(at, n, state)
        if token >= 0:
            store32(out, token)
            if n <= NARROW_KEY:
                _keep_narrow(entries, low, high, np.int64(1), out)
            return 1
    ends = load_int(state + 8 * SEGMENTS)
    k = find_segments(at, n, load_int(state + 8 * CROSSINGS), load_int(state + 8 * CROSSINGS_SHIFT), ends)
    m = begin = np.int64(0)
    for i in range(k):
        end = load32(ends + 4 * i)
        m += _encode_segment(at + begin, end - begin, mark, state, out + 4 * m)
        begin = end
    if n <= NARROW_KEY and m <= NARROW_IDS and (k > 1 or mark > 0):
        _keep_narrow(entries, low, high, m, out)
    return m


@loop
def _encode_pretokens(source, k, ends, state, out):
    """Writes the ids of k pre-tokens; returns where the next id goes, and sets NEEDED and REACHED where WORK_LIMIT is too small."""
    keys, masks = load_int(state + 8 * KEYS), load_int(state + 8 * MASKS)
    narrow, narrow_shift = load_int(state + 8 * NARROW), load_int(state + 8 * NARROW_SHIFT)
    begin = np.int64(0)  # as a number written out it would be a type of its own, for which what is called is compiled once more
    for first in range(0, k, BATCH):
        n = k - first if k - first < BATCH else BATCH
        _write_keys(source, begin, n, ends + 4 * first, keys, masks, narrow, narrow_shift)
        for i in range(n):
            key, entry = keys + 16 * i, load_int(keys + 16 * BATCH + 8 * i)
            if equal16(key, entry):
                copy_but16(out, entry + 16, 3)
                out += 4 * load8(entry + 19)
                continue
            if first + i > 0:
                begin = load32(ends + 4 * (first + i - 1))
            length = load32(ends + 4 * (first + i)) - begin
            m = _encode_other(source + begin, length, load64(key), load64(key + 8), entry, state, out)
            if m < 0:
                store64(state + 8 * NEEDED, np.uint64(length))
                store64(state + 8 * REACHED, np.uint64(begin))
                return out
            out += 4 * m
        begin = load32(ends + 4 * (first + n - 1))
    store64(state + 8 * REACHED, np.uint64(begin))
    return out


@compiled("int64(int64, int64, int64, int64)")
def encode(source, n, state, out):
    """Writes the ids of a text of n bytes, uint32; returns how many. There may be n, and WIDE_IDS more may be written over.

    A negative answer -1 - k means k ids, and that WORK_LIMIT must be NEEDED at least to go on from REACHED. A pattern of GIVEN_KIND
    means that n is the number of pre-tokens, their ends are given, and MARGIN bytes can be read behind the last.
    """
    scratch, table, kind = load_int(state + 8 * SCRATCH), load_int(state + 8 * CLASSES), load_int(state + 8 * KIND)
    store64(state + 8 * NEEDED, _ZERO)
    first = out
    if kind == GIVEN_KIND:
        return (_encode_pretokens(source, n, load_int(state + 8 * GIVEN), state, out) - first) >> 2
    begin, end = source, source + n
    while source < end:
        is_last = end - source < CHUNK + MARGIN
        if is_last:
            tail = copy_tail(source, end, scratch)
            begin += tail - source
            source, end = tail, tail + (end - source)
        k = split_chunk(source, end, is_last, scratch, table, kind)
        out = _encode_pretokens(source, k, scratch + ENDS, state, out)
        source += load_int(state + 8 * REACHED)
        if load64(state + 8 * NEEDED) != _ZERO:
            store64(state + 8 * REACHED, np.uint64(source - begin))
            return -1 - ((out - first) >> 2)
    return (out - first) >> 2


@compiled("void(int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def last_pairs(blob, offsets, n_tokens, byte_ids, byte_pairs, pairs, mask, work, out):
    """Writes the two ids, int32, of which each token of 2 .. SHORT bytes is made last; zeros for one that merges do not make."""
    for token in range(n_tokens):
        begin = load_int(offsets + 8 * token)
        n = load_int(offsets + 8 * token + 8) - begin
        store64(out + 8 * token, _ZERO)
        if 2 <= n <= SHORT and merge_short(blob + begin, n, byte_ids, byte_pairs, pairs, mask, work, np.int64(2)) == 2:
            store64(out + 8 * token, load64(work))


@compiled("int64(int64, int64, int64)")
def decoded_size(ids, n, offsets):
    """How many bytes n ids, uint32, stand for, each for blob[offsets[id] : offsets[id + 1]]; they are known to be in range."""
    total = 0
    for i in range(n):
        at = offsets + 8 * load32(ids + 4 * i)
        total += load_int(at + 8) - load_int(at)
    return total


@compiled("void(int64, int64, int64, int64, int64, int64)")
def decode(ids, n, offsets, blob, out, size):
    """Writes the bytes of n ids, ``size`` in all, and nothing behind them."""
    end = out + size
    for i in range(n):
        at = offsets + 8 * load32(ids + 4 * i)
        begin = load_int(at)
        length = load_int(at + 8) - begin
        if out + length + COPY <= end:
            for j in range(0, length, COPY):
                copy16(out + j, blob + begin + j)
        else:
            for j in range(length):
                store8(out + j, load8(blob + begin + j))
        out += length
