"""N-gram counts against counting by hand, whole and in chunks."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import UsageError
from groundup.history.counts import Counts, count
from groundup.kernels import trie

BEGIN, V = 3, 4
TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=6).filter(lambda texts: any(texts))


def arrays(texts: list[list[int]]) -> list[np.ndarray]:
    return [np.array(text, np.int64) for text in texts]


def by_hand(texts: list[list[int]], order: int) -> Counter:
    found: Counter = Counter()
    for text in texts:
        full = [BEGIN, *text]
        for k in range(1, order + 1):
            found.update(tuple(full[i : i + k]) for i in range(len(full) - k + 1))
    return found


def nodes(counts: Counts) -> dict[tuple[int, ...], int]:
    """Every n-gram of the trie, unseen single tokens too."""
    out, todo = {}, [(0, ())]
    while todo:
        node, gram = todo.pop()
        if node < len(counts.first) - 1:
            for child in range(counts.first[node], counts.first[node + 1]):
                out[*gram, int(counts.token[child])] = child
                todo.append((child, (*gram, int(counts.token[child]))))
    return out


@settings(max_examples=60)
@given(TEXTS, st.integers(1, 4), st.sampled_from([1 << 20, 12, 1]))
def test_the_trie_holds_every_ngram_with_its_count_and_its_suffix(texts, order, chunk_tokens):
    counts = count(arrays(texts), order=order, vocab_size=V, begin=BEGIN, chunk_tokens=chunk_tokens)
    kept = [text for text in texts if text]
    expected, found = by_hand(texts, order), nodes(counts)
    if len(kept) < len(texts):
        expected[BEGIN,] = counts.count[1 + BEGIN]  # whether an empty document counts as one is nobody's business
    assert {gram: int(counts.count[node]) for gram, node in found.items() if counts.count[node]} == dict(expected)
    assert counts.n_tokens == sum(map(len, texts))
    for gram, node in found.items():
        assert counts.suffix[node] == (found[gram[1:]] if len(gram) > 1 else 0)
        assert counts.levels[len(gram)] <= node < counts.levels[len(gram) + 1]


@settings(max_examples=40)
@given(TEXTS, st.integers(2, 4))
def test_adjusted_counts_are_of_different_tokens_before(texts, order):
    counts = count(arrays(texts), order=order, vocab_size=V, begin=BEGIN)
    expected, before = by_hand(texts, order), defaultdict(set)
    for gram in expected:
        before[gram[1:]].add(gram[0])
    adjusted = counts.adjusted()
    for gram, node in nodes(counts).items():
        if gram == (BEGIN,):
            assert adjusted[node] == 0
        elif len(gram) == order or gram[0] == BEGIN:
            assert adjusted[node] == expected[gram]
        else:
            assert adjusted[node] == len(before[gram])


def test_nodes_past_two_to_the_31_would_be_numbered_in_64_bits():
    counts = count(arrays([[0, 1, 0, 2, 1, 0]]), order=3, vocab_size=V, begin=BEGIN)
    for dtype in (np.int32, np.int64):
        first, suffix = counts.first.astype(dtype), counts.suffix.astype(dtype)
        node = 0
        for w in (BEGIN, 0, 1, 0):
            node = trie.advance(node, w, counts.token, first, suffix)
        assert node == nodes(counts)[1, 0]


def test_what_cannot_be_counted_is_said():
    with pytest.raises(UsageError, match="no tokens to count"):
        count([], order=2, vocab_size=V, begin=BEGIN)
    with pytest.raises(UsageError, match="no tokens to count"):
        count(arrays([[], []]), order=2, vocab_size=V, begin=BEGIN)
    for bad in (BEGIN, V, -1):
        with pytest.raises(UsageError, match=f"document 2 has token {bad}"):
            count(arrays([[0, 1], [], [1, bad, 1]]), order=2, vocab_size=V, begin=BEGIN, chunk_tokens=4)
    with pytest.raises(UsageError, match="order must be at least 1"):
        count(arrays([[0]]), order=0, vocab_size=V, begin=BEGIN)
