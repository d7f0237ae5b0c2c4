"""Where the pre-tokens of a text end: compiled pre-tokenization by itself, for counting them and for looking at them."""

from __future__ import annotations

import numpy as np

from groundup.tokenizer.machine import compiled, load32, store64
from groundup.tokenizer.scan import CHUNK, ENDS, KINDS, MARGIN, address_of_classes, copy_tail, new_scratch, split_chunk


@compiled("int64(int64, int64, int64, int64, int64, int64)")
def _find_ends(source, n, scratch, table, kind, out):
    """Writes the ends of the pre-tokens of n bytes, int64; returns how many."""
    begin, end = source, source + n
    total = 0
    while source < end:
        is_last = end - source < CHUNK + MARGIN
        if is_last:
            tail = copy_tail(source, end, scratch)
            begin += tail - source
            source, end = tail, tail + (end - source)
        k = split_chunk(source, end, is_last, scratch, table, kind)
        for i in range(k):
            store64(out + 8 * (total + i), np.uint64(source - begin + load32(scratch + ENDS + 4 * i)))
        total += k
        source += load32(scratch + ENDS + 4 * (k - 1))
    return total


def pretoken_ends(data: bytes | np.ndarray, pattern: str) -> np.ndarray:
    """Where the pre-tokens of a text end, in bytes, int64, shape [n]; the first begins at 0. ``pattern`` is one of KINDS."""
    array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    out = np.empty(array.size + 1, np.int64)
    scratch = new_scratch()
    n = _find_ends(array.ctypes.data, array.size, scratch.ctypes.data, address_of_classes(pattern), KINDS[pattern], out.ctypes.data)
    return out[:n].copy()
