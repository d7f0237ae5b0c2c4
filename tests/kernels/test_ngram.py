"""The trie of n-grams against counting with dictionaries."""

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.kernels.ngram import COUNT, KINDS, PARENT, STATIC_COLUMNS, TOKEN, TOTAL, count_order, fill_slots

documents = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=25), min_size=1, max_size=5)


def count_naively(texts: list[list[int]], n_orders: int) -> tuple[dict, dict, dict]:
    """Counts of n-grams, followers of contexts, and different followers; a document's first token is not counted."""
    count, total, kinds = defaultdict(int), defaultdict(int), defaultdict(set)
    for text in texts:
        for t in range(1, len(text)):
            for k in range(min(n_orders, t + 1)):
                gram = tuple(text[t - k : t + 1])
                count[gram] += 1
                total[gram[:-1]] += 1
                kinds[gram[:-1]].add(gram[-1])
    return count, total, {h: len(tokens) for h, tokens in kinds.items()}


def grow_trie(texts: list[list[int]], n_orders: int) -> np.ndarray:
    text = np.concatenate(texts).astype(np.int32)
    opens = np.zeros(len(text), np.bool_)
    opens[np.cumsum([0] + [len(t) for t in texts[:-1]])] = True
    slots, nodes = np.zeros(2048, np.int32), np.zeros((len(text) * n_orders + 1, STATIC_COLUMNS), np.int32)
    shorter, context, n = np.zeros_like(text), np.zeros_like(text), 1
    for k in range(n_orders):
        out = np.empty_like(text)
        n = count_order(text, opens, k, shorter, context, slots, nodes, n, out)
        shorter, context = context, out
    again = np.zeros(4096, np.int32)
    fill_slots(again, nodes, n)
    assert sorted(again[again > 0]) == sorted(slots[slots > 0]) == list(range(1, n))
    return nodes[:n]


def grams_of(nodes: np.ndarray) -> list[tuple[int, ...]]:
    grams: list[tuple[int, ...]] = [()]
    for node in nodes[1:].tolist():
        grams.append((*grams[node[PARENT]], node[TOKEN]))
    return grams


@settings(max_examples=60)
@given(documents, st.integers(1, 5))
def test_counts_equal_a_dictionary(texts: list[list[int]], n_orders: int) -> None:
    count, total, kinds = count_naively(texts, n_orders)
    nodes = grow_trie(texts, n_orders)
    grams = grams_of(nodes)
    assert len(set(grams)) == len(grams)
    for gram, stat in zip(grams, nodes, strict=True):
        assert stat[COUNT] == count.get(gram, 0)
        if len(gram) < 2 or total.get(gram[1:], 0) >= 2:
            assert stat[TOTAL] == total.get(gram, 0) or len(gram) == n_orders
            assert stat[KINDS] == kinds.get(gram, 0) or len(gram) == n_orders


@settings(max_examples=60)
@given(documents, st.integers(3, 5))
def test_contexts_that_can_say_nothing_new_are_left_out(texts: list[list[int]], n_orders: int) -> None:
    count, total, _ = count_naively(texts, n_orders)
    grams = grams_of(grow_trie(texts, n_orders))
    kept = {g for g in count if len(g) < 3 or total[g[1:-1]] >= 2}
    assert {g for g in grams if g in count} == kept
