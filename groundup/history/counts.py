"""N-gram counts of any order over any symbols, in sorted arrays.

The (k + 1)-grams are sorted from the sorted k-grams by one stable pass over their positions (the radix sort of a suffix array, stopped at
n), so counting N tokens takes O(n N) steps and no comparison. Text is counted in chunks of ``chunk_tokens`` and the chunks' tries are
merged two of a size at a time, so the text is never held whole.

Memory, in bytes, for chunks of C tokens (one document, if that is longer) and M different n-grams of all lengths: 16 M stay. While a chunk
is counted, 30 C more; while two tries are merged, both, the result, and 50 for each n-gram of one length: never more than 100 M. Counts and
node numbers have 32 bits while fewer than 2^31 tokens are counted, and 64 beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64, Integer, UInt32

from groundup.errors import UsageError
from groundup.kernels import trie

CHUNK_TOKENS = 1 << 24
"""Tokens counted at a time: about 500 MB of work."""


@dataclass(frozen=True)
class Counts:
    """All n-grams of 1 .. n tokens of some documents, as a trie (see ``kernels.trie`` for the layout)."""

    order: int
    """n."""
    vocab_size: int
    """V, the begin symbol among them."""
    begin: int
    """The symbol before every document: a context that is never predicted."""
    levels: tuple[int, ...]
    """Where the nodes of each length start: 0 for the root, 1 for single tokens, ..., and last M, the number of nodes."""
    token: UInt32[np.ndarray, " m"]
    """Last token of each n-gram."""
    first: Int[np.ndarray, " l1"]
    """Where the children of each node shorter than n start."""
    suffix: Int[np.ndarray, " m"]
    """The node of the n-gram without its first token."""
    count: Int[np.ndarray, " m"]
    """How often the n-gram was seen."""
    n_tokens: int
    """Tokens counted, without begin symbols."""

    def starting(self, k: int) -> tuple[int, int]:
        """The range of nodes of length k that start with the begin symbol."""
        low, high = 1 + self.begin, 2 + self.begin
        for _ in range(k - 1):
            low, high = int(self.first[low]), int(self.first[high])
        return low, high

    def adjusted(self) -> Int[np.ndarray, " m"]:
        """Kneser and Ney's counts: of an n-gram shorter than n, how many different tokens were seen before it.

        N-grams that start with the begin symbol, and all of length n, keep their count; the begin symbol alone and unseen tokens have 0.
        """
        out = np.zeros_like(self.count)
        for k in range(1, self.order):
            trie.tally(self.suffix, self.levels[k + 1], self.levels[k + 2], out)
            low, high = self.starting(k)
            out[low:high] = self.count[low:high]
        out[self.levels[self.order] :] = self.count[self.levels[self.order] :]
        out[1 + self.begin] = 0
        return out

    def predicted(self) -> Int[np.ndarray, " m"]:
        """The plain counts, with 0 for the begin symbol, which is no prediction."""
        out = self.count.copy()
        out[1 + self.begin] = 0
        return out


class _Level(NamedTuple):
    """The n-grams of one length; numbers count from 0 within a level."""

    token: UInt32[np.ndarray, " m"]
    count: Int[np.ndarray, " m"]
    suffix: Int[np.ndarray, " m"]
    first: Int64[np.ndarray, " m1"]
    """Where the children start in the next level; empty for the longest."""


class _Trie(NamedTuple):
    levels: list[_Level]
    n_tokens: int


def count(
    documents: Iterable[Integer[np.ndarray, " _"]], *, order: int, vocab_size: int, begin: int, chunk_tokens: int = CHUNK_TOKENS
) -> Counts:
    """Counts the n-grams of 1 .. ``order`` tokens within documents, each taken to follow one ``begin`` symbol.

    Documents are arrays of tokens 0 .. V - 1 without the begin symbol; a chunk is at least one document long. Raises UsageError where a
    token is outside of the vocabulary or is the begin symbol, and where there are no tokens at all.
    """
    if order < 1 or not 0 <= begin < vocab_size:
        raise UsageError(
            f"an n-gram model of order {order} with begin symbol {begin} of {vocab_size}: order must be at least 1, begin below"
        )
    done: list[_Trie] = []
    for text, opens in _chunks(documents, vocab_size, begin, chunk_tokens):
        done.append(_count_chunk(text, opens, order, vocab_size))
        del text, opens
        while len(done) > 1 and done[-1].n_tokens >= done[-2].n_tokens / 2:
            b, a = done.pop(), done.pop()
            done.append(_merge(a, b))
    while len(done) > 1:
        b, a = done.pop(), done.pop()
        done.append(_merge(a, b))
    if not done:
        raise UsageError("there are no tokens to count: give documents that are not empty")
    return _flatten(done[0], order, vocab_size, begin)


def _chunks(
    documents: Iterable[Integer[np.ndarray, " _"]], vocab_size: int, begin: int, chunk_tokens: int
) -> Iterator[tuple[UInt32[np.ndarray, " n"], Bool[np.ndarray, " n"]]]:
    """Whole documents, begin symbols put in, about ``chunk_tokens`` at a time; and where documents start."""
    parts: list[np.ndarray] = []
    size = n_before = 0
    for document in documents:
        parts.append(document)
        size += len(document) + 1
        if size >= chunk_tokens:
            chunk = _joined(parts, vocab_size, begin, n_before)
            n_before += len(parts)
            parts, size = [], 0
            yield chunk
    if size > len(parts):
        chunk = _joined(parts, vocab_size, begin, n_before)
        parts.clear()
        yield chunk


def _joined(parts: list[np.ndarray], vocab_size: int, begin: int, n_before: int) -> tuple[UInt32[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """A chunk of documents, the first of which is number ``n_before``."""
    ends = np.cumsum([len(part) + 1 for part in parts])
    opens = np.zeros(ends[-1], np.bool_)
    opens[0], opens[ends[:-1]] = True, True
    tokens = np.concatenate(parts)
    if (bad := (tokens < 0) | (tokens >= vocab_size) | (tokens == begin)).any():
        document = n_before + int(np.searchsorted(np.cumsum([len(part) for part in parts]), bad.argmax(), side="right"))
        raise UsageError(
            f"document {document} has token {tokens[bad.argmax()]}: tokens are 0 .. {vocab_size - 1}, and {begin}, which begins documents, "
            "is put in here"
        )
    text = np.full(len(opens), begin, np.uint32)
    text[~opens] = tokens
    return text, opens


def _count_chunk(text: UInt32[np.ndarray, " n"], opens: Bool[np.ndarray, " n"], order: int, vocab_size: int) -> _Trie:
    dtype = index_type(len(text))
    count_1 = np.bincount(text, minlength=vocab_size)
    fill = np.concatenate([[0], np.cumsum(count_1)[:-1]])
    positions = np.empty(len(text), dtype)
    trie.sort_tokens(text, fill, positions)
    levels = [_Level(np.arange(vocab_size, dtype=np.uint32), count_1.astype(dtype), np.zeros(vocab_size, dtype), np.zeros(0, np.int64))]
    shorter = text.astype(dtype)
    for k in range(1, order):
        out, longer = np.empty(len(positions), dtype), np.empty_like(shorter)
        positions = out[: trie.sort_longer(text, opens, positions, np.zeros(vocab_size, np.int64), out)]
        n = trie.number(text, positions, shorter, longer)
        level = _Level(np.empty(n, np.uint32), np.zeros(n, dtype), np.empty(n, dtype), np.zeros(0, np.int64))
        children = np.zeros(len(levels[-1].token), np.int64)
        trie.describe(text, k, positions, shorter, longer, level.token, level.count, level.suffix, children)
        levels[-1] = levels[-1]._replace(first=_starts(children))
        levels.append(level)
        shorter = longer
    return _Trie(levels, int(len(text) - opens.sum()))


def _merge(a: _Trie, b: _Trie) -> _Trie:
    """The trie of both texts."""
    out: list[_Level] = []
    dtype = index_type(a.n_tokens + b.n_tokens + 1)
    pairs = np.zeros((1, 2), np.int64)
    firsts = [np.array([0, len(t.levels[0].token)], np.int64) for t in (a, b)]
    new_a = new_b = np.zeros(1, np.int64)
    for level_a, level_b in zip(a.levels, b.levels, strict=True):
        room = len(level_a.token) + len(level_b.token)
        token, counts, rows = np.empty(room, np.uint32), np.empty(room, dtype), np.empty((room, 2), np.int64)
        children = np.zeros(len(pairs), np.int64)
        n = trie.merge_level(pairs, *firsts, level_a.token, level_b.token, level_a.count, level_b.count, token, counts, children, rows)
        pairs = rows[:n].copy()
        in_a, in_b = pairs[:, 0] >= 0, pairs[:, 1] >= 0
        suffix = np.empty(n, index_type(n))
        suffix[in_b] = new_b[level_b.suffix[pairs[in_b, 1]]]
        suffix[in_a] = new_a[level_a.suffix[pairs[in_a, 0]]]
        if out:
            out[-1] = out[-1]._replace(first=_starts(children))
        out.append(_Level(token[:n].copy(), counts[:n].copy(), suffix, np.zeros(0, np.int64)))
        new_a, new_b = np.empty(len(level_a.token), np.int64), np.empty(len(level_b.token), np.int64)
        new_a[pairs[in_a, 0]] = np.flatnonzero(in_a)
        new_b[pairs[in_b, 1]] = np.flatnonzero(in_b)
        firsts = [level_a.first, level_b.first]
    return _Trie(out, a.n_tokens + b.n_tokens)


def _flatten(counted: _Trie, order: int, vocab_size: int, begin: int) -> Counts:
    """The levels end to end, after the root, as one trie."""
    levels = counted.levels[::-1]
    starts = [0, *np.cumsum([1, *(len(level.token) for level in counted.levels)]).tolist()]
    counted.levels.clear()  # each level goes as it is copied
    n = starts[-1]
    token, count = np.zeros(n, np.uint32), np.zeros(n, levels[0].count.dtype)
    suffix, first = np.zeros(n, index_type(n)), np.empty(starts[-2] + 1, index_type(n))
    first[0] = 1
    for k in range(1, order + 1):
        level, here = levels.pop(), slice(starts[k], starts[k + 1])
        token[here], count[here], suffix[here] = level.token, level.count, level.suffix
        suffix[here] += starts[k - 1]
        if k < order:
            first[here] = level.first[:-1]
            first[here] += starts[k + 1]
    first[-1] = n
    return Counts(order, vocab_size, begin, tuple(starts), token, first, suffix, count, counted.n_tokens)


def _starts(children: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m1"]:
    out = np.zeros(len(children) + 1, np.int64)
    np.cumsum(children, out=out[1:])
    return out


def index_type(n: int) -> type:
    """The smallest type of node numbers below n, and of -1."""
    return np.int32 if n < 2**31 else np.int64
