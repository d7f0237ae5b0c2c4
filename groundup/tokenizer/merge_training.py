"""The merge loop of BPE training, compiled: every occurrence of every pair on a list, every pair's count exact at any time, a lazy heap.

The corpus is its distinct pre-tokens, laid end to end as symbols that are linked to their neighbours. A merge walks the list of its pair,
relinks each occurrence that still stands, and appends what it makes to the lists of the new pairs: so learning costs time in proportion to
the occurrences of the pairs that are merged, never to the length of the words around them. The answer is ``merging.learn``'s, which is the
readable form and the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import no_type_check

import numpy as np
from numba import njit

from groundup.errors import UsageError
from groundup.tokenizer.counting import Pretokens
from groundup.tokenizer.merging import Ties, byte_order

FIRST_PAIRS = 1 << 18  # that there is room for at first
SLICE = 1_000  # merges between two calls of progress, where Ctrl-C is heard
NONE = -1

# Columns of the small tables below: struct of arrays in one array each, for numba compiles fewer arguments faster.
LEFT, RIGHT, FIRST, LAST, N_LISTED = range(5)  # of a pair: its symbols, the ends of its list, how many were ever on it
SYMBOL, NEXT, PREVIOUS = range(3)  # of a position
N_PAIRS, N_LISTS, N_HEAP, N_MERGES = range(4)  # of the state
DONE, FULL = range(2)

_compiled = njit(cache=True, nogil=True, boundscheck=False)  # below it ``no_type_check``, which keeps run-time type checkers out


@_compiled
@no_type_check
def _slot(keys, left, right):
    """The slot of a pair, or the empty one where it belongs. 0 is no key: a pair's is its ids, and one."""
    key = ((np.uint64(left) << np.uint64(32)) | np.uint64(right)) + np.uint64(1)
    mask = np.uint64(len(keys) - 1)
    at = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    while True:
        slot = np.int64(at & mask)
        if keys[slot] == key or keys[slot] == np.uint64(0):
            return slot, key
        at += np.uint64(1)


@_compiled
@no_type_check
def _greater(a, b, prefixes, spans, text):
    """Whether token a's bytes are lexicographically greater (1), less (-1) or the same (0)."""
    if prefixes[a] != prefixes[b]:
        return 1 if prefixes[a] > prefixes[b] else -1
    n_a, n_b = spans[a + 1] - spans[a], spans[b + 1] - spans[b]
    for i in range(min(n_a, n_b)):
        x, y = text[spans[a] + i], text[spans[b] + i]
        if x != y:
            return 1 if x > y else -1
    return 0 if n_a == n_b else 1 if n_a > n_b else -1


@_compiled
@no_type_check
def _before(count_p, p, count_q, q, pairs, order, prefixes, spans, text):
    """Whether pair p is merged before pair q. ``order`` gives each token its place where that decides ties, and is empty where bytes do."""
    if count_p != count_q:
        return count_p > count_q
    for side in range(2):
        a, b = pairs[p, side], pairs[q, side]
        if a != b:
            if len(order):
                return order[a] < order[b]
            compared = _greater(a, b, prefixes, spans, text)
            if compared:
                return compared > 0
    return pairs[p, LEFT] < pairs[q, LEFT] or (pairs[p, LEFT] == pairs[q, LEFT] and pairs[p, RIGHT] < pairs[q, RIGHT])


@_compiled
@no_type_check
def _sink(heap_counts, heap_pairs, n, at, pairs, order, prefixes, spans, text):
    """Moves the entry at a place down to where it belongs."""
    count, pair = heap_counts[at], heap_pairs[at]
    while 2 * at + 1 < n:
        child = 2 * at + 1
        other = child + 1
        if other < n and _before(
            heap_counts[other], heap_pairs[other], heap_counts[child], heap_pairs[child], pairs, order, prefixes, spans, text
        ):
            child = other
        if not _before(heap_counts[child], heap_pairs[child], count, pair, pairs, order, prefixes, spans, text):
            break
        heap_counts[at], heap_pairs[at] = heap_counts[child], heap_pairs[child]
        at = child
    heap_counts[at], heap_pairs[at] = count, pair


@_compiled
@no_type_check
def _push(heap_counts, heap_pairs, n, count, pair, pairs, order, prefixes, spans, text):
    """Adds an entry."""
    at = n
    while at > 0:
        parent = (at - 1) >> 1
        if not _before(count, pair, heap_counts[parent], heap_pairs[parent], pairs, order, prefixes, spans, text):
            break
        heap_counts[at], heap_pairs[at] = heap_counts[parent], heap_pairs[parent]
        at = parent
    heap_counts[at], heap_pairs[at] = count, pair


@_compiled
@no_type_check
def _list(pair, at, pairs, lists, state):
    """Puts a position on a pair's list."""
    node = state[N_LISTS]
    state[N_LISTS] = node + 1
    lists[node, 0], lists[node, 1] = at, NONE
    if pairs[pair, LAST] == NONE:
        pairs[pair, FIRST] = node
    else:
        lists[pairs[pair, LAST], 1] = node
    pairs[pair, LAST] = node
    pairs[pair, N_LISTED] += 1


@_compiled
@no_type_check
def _add(left, right, weight, at, keys, values, pairs, counts, lists, state):
    """Counts an occurrence of a pair and puts it on its list; the pair, and whether it is new."""
    slot, key = _slot(keys, left, right)
    new = keys[slot] == np.uint64(0)
    if new:
        pair = state[N_PAIRS]
        state[N_PAIRS] = pair + 1
        keys[slot], values[slot] = key, pair
        pairs[pair, LEFT], pairs[pair, RIGHT], pairs[pair, FIRST], pairs[pair, LAST], pairs[pair, N_LISTED] = left, right, NONE, NONE, 0
        counts[pair] = 0
    pair = values[slot]
    counts[pair] += weight
    _list(pair, at, pairs, lists, state)
    return pair, new


@_compiled
@no_type_check
def count_pairs(first, symbols, weights, keys, values, pairs, counts, lists, state):
    """Counts the pairs from a position on, until the end (DONE) or until the next might not fit (FULL); the position it came to."""
    for at in range(first, len(symbols)):
        if symbols[at, NEXT] != NONE:
            if state[N_PAIRS] == len(counts):
                return at, FULL
            _add(symbols[at, SYMBOL], symbols[at + 1, SYMBOL], weights[at], at, keys, values, pairs, counts, lists, state)
    return len(symbols), DONE


@_compiled
@no_type_check
def fill_slots(keys, values, pairs, n):
    """Enters the first n pairs into an empty table."""
    for pair in range(n):
        slot, key = _slot(keys, pairs[pair, LEFT], pairs[pair, RIGHT])
        keys[slot], values[slot] = key, pair


@_compiled
@no_type_check
def fill_heap(heap_counts, heap_pairs, counts, state, pairs, order, prefixes, spans, text):
    """All pairs as a heap (Floyd 1964)."""
    n = state[N_PAIRS]
    state[N_HEAP] = n
    for pair in range(n):
        heap_counts[pair], heap_pairs[pair] = counts[pair], pair
    for at in range(n // 2 - 1, -1, -1):
        _sink(heap_counts, heap_pairs, n, at, pairs, order, prefixes, spans, text)


@_compiled
@no_type_check
def _name(new, left, right, prefixes, spans, text):
    """Writes down the bytes of a new token."""
    n_left, n_right = spans[left + 1] - spans[left], spans[right + 1] - spans[right]
    start = spans[new]
    for i in range(n_left):
        text[start + i] = text[spans[left] + i]
    for i in range(n_right):
        text[start + n_left + i] = text[spans[right] + i]
    spans[new + 1] = start + n_left + n_right
    prefix = np.uint64(0)
    for i in range(8):
        prefix = (prefix << np.uint64(8)) | np.uint64(text[start + i] if i < n_left + n_right else 0)
    prefixes[new] = prefix


@_compiled
@no_type_check
def merge_pairs(
    n_merges, symbols, weights, keys, values, pairs, counts, lists, heap_counts, heap_pairs, state, order, prefixes, spans, text, merges
):
    """Merges until there are n_merges, or no pair is left (DONE), or the next merge might not fit (FULL)."""
    while state[N_MERGES] < n_merges and state[N_HEAP] > 0:
        count, pair = heap_counts[0], heap_pairs[0]
        left, right = pairs[pair, LEFT], pairs[pair, RIGHT]
        new = 256 + state[N_MERGES]
        size = spans[left + 1] - spans[left] + spans[right + 1] - spans[right]
        if state[N_PAIRS] + 2 * pairs[pair, N_LISTED] > len(counts) or spans[new] + size > len(text):
            return FULL
        n = state[N_HEAP] - 1
        state[N_HEAP] = n
        heap_counts[0], heap_pairs[0] = heap_counts[n], heap_pairs[n]
        _sink(heap_counts, heap_pairs, n, 0, pairs, order, prefixes, spans, text)
        if counts[pair] != count:  # counts only fall: the entry goes back with what is true
            if counts[pair] > 0:
                _push(heap_counts, heap_pairs, n, counts[pair], pair, pairs, order, prefixes, spans, text)
                state[N_HEAP] = n + 1
            continue
        if count == 0:
            continue
        merges[state[N_MERGES], 0], merges[state[N_MERGES], 1] = left, right
        state[N_MERGES] += 1
        _name(new, left, right, prefixes, spans, text)
        first_made = state[N_PAIRS]
        _merge_all(pair, left, right, new, symbols, weights, keys, values, pairs, counts, lists, state)
        for made in range(first_made, state[N_PAIRS]):
            _push(heap_counts, heap_pairs, state[N_HEAP], counts[made], made, pairs, order, prefixes, spans, text)
            state[N_HEAP] += 1
    return DONE


@_compiled
@no_type_check
def _merge_all(pair, left, right, new, symbols, weights, keys, values, pairs, counts, lists, state):
    """Replaces every occurrence of a pair that still stands, first to last, and recounts its neighbours."""
    node = pairs[pair, FIRST]
    while node != NONE:
        at, node = lists[node, 0], lists[node, 1]
        after = symbols[at, NEXT]
        if symbols[at, SYMBOL] != left or after == NONE or symbols[after, SYMBOL] != right:
            continue
        weight = weights[at]
        before, beyond = symbols[at, PREVIOUS], symbols[after, NEXT]
        symbols[at, SYMBOL], symbols[after, SYMBOL], symbols[at, NEXT] = new, NONE, beyond
        if before != NONE:
            slot, _ = _slot(keys, symbols[before, SYMBOL], left)
            counts[values[slot]] -= weight
            _add(symbols[before, SYMBOL], new, weight, before, keys, values, pairs, counts, lists, state)
        if beyond != NONE:
            symbols[beyond, PREVIOUS] = at
            slot, _ = _slot(keys, right, symbols[beyond, SYMBOL])
            counts[values[slot]] -= weight
            _add(new, symbols[beyond, SYMBOL], weight, at, keys, values, pairs, counts, lists, state)
    counts[pair] = 0


class _Learner:
    """The arrays that the compiled loops work on, grown where they say that they are full."""

    def __init__(self, pretokens: Pretokens, n_merges: int, ties: Ties) -> None:
        ends = pretokens.ends
        lengths = np.diff(ends, prepend=0)
        n = len(pretokens.text)
        if 3 * n >= 1 << 31:
            raise UsageError(f"{n:,} bytes of different pre-tokens are more than training takes: give less text, or max_bytes")
        self.symbols = np.empty((n, 3), np.int32)
        self.symbols[:, SYMBOL] = pretokens.text
        self.symbols[:, NEXT] = np.arange(1, n + 1)
        self.symbols[ends - 1, NEXT] = NONE
        self.symbols[:, PREVIOUS] = np.arange(-1, n - 1)
        self.symbols[ends - lengths, PREVIOUS] = NONE
        self.weights = np.repeat(pretokens.counts, lengths)
        self.lists = np.empty((3 * n + 1, 2), np.int32)  # each position once, and two for each of fewer than n merges of two symbols
        self.state = np.zeros(4, np.int64)
        self.merges = np.zeros((n_merges, 2), np.int32)
        self.order = np.zeros(0, np.int64) if ties == "greatest" else np.concatenate((byte_order(), 256 + np.arange(n_merges)))
        self.prefixes = np.zeros(256 + n_merges, np.uint64)
        self.prefixes[:256] = np.arange(256, dtype=np.uint64) << np.uint64(56)
        self.spans = np.zeros(257 + n_merges, np.int64)
        self.spans[:257] = np.arange(257)
        self.text = np.arange(max(256, 16 * (256 + n_merges)), dtype=np.int64).astype(np.uint8)
        self.pairs, self.counts = np.empty((0, 5), np.int32), np.empty(0, np.int64)
        self._grow(FIRST_PAIRS)
        self.heap_counts, self.heap_pairs = np.empty(0, np.int64), np.empty(0, np.int32)

    def count(self) -> None:
        """Counts all pairs and makes the heap."""
        at, status = 0, FULL
        while status == FULL:
            at, status = count_pairs(
                at, self.symbols, self.weights, self.keys, self.values, self.pairs, self.counts, self.lists, self.state
            )
            if status == FULL:
                self._grow(2 * len(self.counts))
        self._grow_heap()
        fill_heap(self.heap_counts, self.heap_pairs, self.counts, self.state, self.pairs, *self._ties)

    def merge(self, n_merges: int) -> None:
        """Goes on to so many merges, or to the last that there is."""
        while (
            merge_pairs(
                n_merges,
                self.symbols,
                self.weights,
                self.keys,
                self.values,
                self.pairs,
                self.counts,
                self.lists,
                self.heap_counts,
                self.heap_pairs,
                self.state,
                *self._ties,
                self.merges,
            )
            == FULL
        ):
            listed = int(self.pairs[self.heap_pairs[0], N_LISTED])
            self._grow(max(2 * len(self.counts), int(self.state[N_PAIRS]) + 2 * listed))
            self._grow_heap()
            self.text = _longer(self.text, 2 * len(self.text))

    @property
    def n_merges(self) -> int:
        """Merges so far."""
        return int(self.state[N_MERGES])

    @property
    def exhausted(self) -> bool:
        """Whether no pair is left."""
        return bool(self.state[N_HEAP] == 0)

    @property
    def _ties(self) -> tuple[np.ndarray, ...]:
        return self.order, self.prefixes, self.spans, self.text

    def _grow(self, capacity: int) -> None:
        self.pairs, self.counts = _longer(self.pairs, capacity), _longer(self.counts, capacity)
        n_slots = 1 << (2 * capacity - 1).bit_length()  # at most half full
        self.keys, self.values = np.zeros(n_slots, np.uint64), np.zeros(n_slots, np.int32)
        fill_slots(self.keys, self.values, self.pairs, self.state[N_PAIRS])

    def _grow_heap(self) -> None:
        self.heap_counts = _longer(self.heap_counts, len(self.counts))
        self.heap_pairs = _longer(self.heap_pairs, len(self.counts))


def _longer(array: np.ndarray, length: int) -> np.ndarray:
    out = np.empty((length, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


def learn(pretokens: Pretokens, n_merges: int, progress: Callable[[int, int], object], ties: Ties = "greatest") -> list[tuple[int, int]]:
    """``merging.learn``, compiled: the same merges, in a time that grows with the occurrences of what is merged.

    ``progress`` is called every SLICE merges; what it raises, KeyboardInterrupt too, ends the learning and leaves nothing.
    """
    learner = _Learner(pretokens, n_merges, ties)
    learner.count()
    while learner.n_merges < n_merges and not learner.exhausted:
        learner.merge(min(n_merges, learner.n_merges + SLICE))
        progress(learner.n_merges, n_merges)
    return [(left, right) for left, right in learner.merges[: learner.n_merges].tolist()]
