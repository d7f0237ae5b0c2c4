"""From a corpus to merges: pre-tokens are counted as the text streams past, then merged where pairs are most frequent.

Little text is counted by processes in plain Python and merged by ``merging.learn``, before numba would have begun; more is counted by
threads in ``counting`` and merged by ``merge_training``. Both give the same merges.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

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


@runtime_checkable
class Progress(Protocol):
    """Told how far training has come: bytes counted (their total unknown, None), then merges learned."""

    def __call__(self, stage: Literal["count", "merge"], done: int, total: int | None) -> object: ...


def learn_merges(
    segments: Iterable[bytes], pattern: Pattern, n_merges: int, *, ties: Ties, n_workers: int | None, progress: Progress
) -> list[tuple[int, int]] | None:
    """Up to n_merges merges of the pre-tokens of all segments, as pairs of ids; None where there is no pre-token."""
    merged = partial(progress, "merge")
    few, more = _first(segments, COMPILED_BYTES) if pattern in PATTERNS else (segments, None)
    if more is not None:
        from groundup.tokenizer import merge_training  # here, for numba takes half a second to import

        return merge_training.learn(count_by_threads(chain(few, more), pattern, n_workers, progress), n_merges, merged, ties)
    counts: Counter[str] = Counter()
    n_bytes = 0
    parts = chain.from_iterable(pieces(segment, PLAIN_PIECE, cut_at(pattern)) for segment in few)
    for batch_counts, batch_bytes in map_batches(partial(_count, pattern), batched(parts, BATCH_BYTES, len), n_workers):
        counts.update(batch_counts)
        n_bytes += batch_bytes
        progress("count", n_bytes, None)
    if not counts:
        return None
    if sum(map(len, counts)) < COMPILED_SYMBOLS:
        return learn(counts, n_merges, merged, ties)
    from groundup.tokenizer import counting, merge_training

    return merge_training.learn(counting.Pretokens.of(counts), n_merges, merged, ties)


def count_by_threads(segments: Iterable[bytes], pattern: str, n_threads: int | None, progress: Progress) -> Pretokens:
    """The pre-tokens of all segments: each thread counts in a table of its own, which are joined in the end."""
    from groundup.tokenizer import counting

    mine, tables, n_bytes = threading.local(), [], 0

    def count(batch: list[bytes]) -> int:
        if not hasattr(mine, "table"):
            mine.table = counting.Counter(pattern)
            tables.append(mine.table)
        for part in batch:
            mine.table.add(part)
        return sum(map(len, batch))

    parts = chain.from_iterable(pieces(segment, PIECE) for segment in segments)
    for counted in map_threads(count, batched(parts, PIECE, len), resolve_threads(n_threads)):
        n_bytes += counted
        progress("count", n_bytes, None)
    whole, *others = tables
    for other in others:
        whole.join(other.pretokens())
    return whole.pretokens()


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
