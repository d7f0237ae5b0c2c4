"""From a corpus to merges: pre-tokens are counted as the text streams past, then merged where pairs are most frequent.

Little text is counted by processes in plain Python and merged by ``merging.learn``, before numba would have begun; more is counted by
threads in ``counting`` and merged by ``merge_training``. Both give the same merges.
"""

from __future__ import annotations

import hashlib
import heapq
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from groundup.errors import UsageError
from groundup.tokenizer.merging import Ties, learn
from groundup.tokenizer.parallel import batched, map_batches, map_threads, resolve_threads
from groundup.tokenizer.patterns import PATTERNS, Pattern, cut_at, pieces, splitter, to_text

if TYPE_CHECKING:
    from groundup.tokenizer.counting import Pretokens

COMPILED_BYTES = 32 << 20
"""Text from which on it is counted by compiled loops."""
COMPILED_SYMBOLS = 1_000_000
"""Bytes of distinct pre-tokens from which on they are merged by a compiled loop."""
PLAIN_PIECE, PIECE = 1 << 16, 1 << 20  # in plain Python small, so a stretch of ASCII in a text that is not is split the fast way
BATCH_BYTES = 1 << 19
SAMPLE_BYTES = 1 << 14
"""Of a block that is in a sample or not."""
MEMORY_BYTES = 8 << 30
"""What training may take by default."""
MERGING_BYTES = 80
"""Memory for each byte of the distinct pre-tokens while they merge: symbols, where pairs are, the pairs themselves."""
PLAIN_BYTES = 150
"""Memory for each distinct pre-token in a Python dict."""


@runtime_checkable
class Progress(Protocol):
    """Told how far training has come: bytes counted (their total unknown, None), then merges learned."""

    def __call__(self, stage: Literal["count", "merge"], done: int, total: int | None) -> object: ...


def learn_merges(
    segments: Iterable[bytes],
    pattern: Pattern,
    n_merges: int,
    *,
    ties: Ties,
    n_workers: int | None,
    progress: Progress,
    memory_bytes: int = MEMORY_BYTES,
) -> list[tuple[int, int]] | None:
    """Up to n_merges merges of the pre-tokens of all segments, as pairs of ids; None where there is no pre-token.

    Where the distinct pre-tokens would take more than ``memory_bytes``, the rarest are left out, and this says so.
    """
    merged = partial(progress, "merge")
    few, more = _first(segments, COMPILED_BYTES) if pattern in PATTERNS else (segments, None)
    if more is not None:
        from groundup.tokenizer import merge_training  # here, for numba takes half a second to import

        counted = count_by_threads(chain(few, more), pattern, n_workers, progress, memory_bytes)
        return merge_training.learn(counted, n_merges, merged, ties)
    counts: Counter[str] = Counter()
    n_bytes = 0
    parts = chain.from_iterable(pieces(segment, PLAIN_PIECE, cut_at(pattern)) for segment in few)
    for batch_counts, batch_bytes in map_batches(partial(_count, pattern), batched(parts, BATCH_BYTES, len), n_workers):
        counts.update(batch_counts)
        if PLAIN_BYTES * len(counts) > memory_bytes:
            counts = Counter(dict(counts.most_common(len(counts) // 2)))
            _say_what_is_left_out(memory_bytes)
        n_bytes += batch_bytes
        progress("count", n_bytes, None)
    if not counts:
        return None
    if sum(map(len, counts)) < COMPILED_SYMBOLS:
        return learn(counts, n_merges, merged, ties)
    from groundup.tokenizer import counting, merge_training

    return merge_training.learn(counting.Pretokens.of(counts), n_merges, merged, ties)


def sample(segments: Iterable[bytes], max_bytes: int, pattern: Pattern) -> list[bytes]:
    """Of the segments, cut into blocks, those with the smallest hashes, as few as reach ``max_bytes``.

    This is bottom-k sampling (Cohen & Kaplan 2007).
    """
    if max_bytes < 1:
        raise UsageError(f"max_bytes is {max_bytes}: ask for at least 1")
    kept: list[tuple[int, bytes]] = []  # a heap with the greatest hash on top
    total = 0
    for block in chain.from_iterable(pieces(segment, SAMPLE_BYTES, cut_at(pattern)) for segment in segments):
        heapq.heappush(kept, (-int.from_bytes(hashlib.blake2b(block, digest_size=8).digest(), "big"), block))
        total += len(block)
        while total - len(kept[0][1]) >= max_bytes:
            total -= len(heapq.heappop(kept)[1])
    return [block for _, block in sorted(kept)]


def count_by_threads(
    segments: Iterable[bytes], pattern: str, n_threads: int | None, progress: Progress, memory_bytes: int = MEMORY_BYTES
) -> Pretokens:
    """The pre-tokens of all segments: each thread counts in a table of its own, which are joined in the end.

    All tables together, and what merging needs after them, take at most ``memory_bytes``.
    """
    from groundup.tokenizer import counting

    mine, tables, n_bytes = threading.local(), [], 0
    n_threads = resolve_threads(n_threads)
    limit_bytes = memory_bytes // (n_threads + 1)

    def count(batch: list[bytes]) -> int:
        if not hasattr(mine, "table"):
            mine.table = counting.Counter(pattern, limit_bytes=limit_bytes)
            tables.append(mine.table)
        for part in batch:
            mine.table.add(part)
        return sum(map(len, batch))

    parts = chain.from_iterable(pieces(segment, PIECE) for segment in segments)
    for counted in map_threads(count, batched(parts, PIECE, len), n_threads):
        n_bytes += counted
        progress("count", n_bytes, None)
    whole, *others = tables
    whole.limit_bytes = 2 * limit_bytes
    for other in others:
        whole.join(other.pretokens())
    found, forgotten = whole.pretokens().frequent(memory_bytes // MERGING_BYTES)
    if forgotten or any(table.forgotten for table in tables):
        _say_what_is_left_out(memory_bytes)
    return found


@lru_cache(maxsize=1)
def _say_what_is_left_out(memory_bytes: int) -> None:
    print(
        f"the text has more different pre-tokens than fit into {memory_bytes / 1e9:.3g} GB, so the rarest do not count: "
        "the merges are close to exact, not exact (memory_bytes decides)",
        file=sys.stderr,
    )


def _first(segments: Iterable[bytes], n_bytes: int) -> tuple[list[bytes], Iterator[bytes] | None]:
    """Segments until there are so many bytes, and those after them; None where there are not so many."""
    segments, few, found = iter(segments), [], 0
    for segment in segments:
        few.append(segment)
        found += len(segment)
        if found >= n_bytes:
            return few, segments
    return few, None


def _count(pattern: Pattern, texts: list[bytes]) -> tuple[Counter[str], int]:
    """How often each pre-token occurs in some texts, and how many bytes these have."""
    split = splitter(pattern)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(to_text(text)))
    return counts, sum(map(len, texts))
