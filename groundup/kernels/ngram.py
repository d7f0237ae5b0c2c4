"""The hot loops of n-gram counts: a trie in open-addressing tables, and one walk over a document that reads its counts for every token.

A trie is four arrays: ``slots`` (a power of two, 0 where empty) finds the node of (parent, token); ``parents`` and ``tokens`` [M] name
the edge that leads to each node; ``stats`` [M, 3] holds its count as a prediction (COUNT), and as a context how many tokens followed
(TOTAL) and how many different ones (KINDS). Node 0 is the root, the empty context; as an n-gram's number, 0 is none. See ``model.prior``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

COUNT, TOTAL, KINDS = 0, 1, 2
LOG_ZERO = -60.0  # log of a probability that is zero: e^-60 changes no fp32 sum, and -60 fits fp16
SPARSE = 2  # followers that a context needs before a longer one is counted


@njit(cache=True, nogil=True)
def _place(slots, parents, tokens, parent, token):
    """The slot that holds (parent, token), or the empty one where it belongs."""
    mask = np.uint64(slots.shape[0] - 1)
    mixed = np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15) ^ (np.uint64(token) + np.uint64(1)) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while slots[slot] != 0 and (parents[slots[slot]] != parent or tokens[slots[slot]] != token):
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def fill_slots(slots, parents, tokens, n):
    """Puts nodes 1 .. n - 1 into empty slots."""
    for node in range(1, n):
        slots[_place(slots, parents, tokens, parents[node], tokens[node])] = node


@njit(cache=True, nogil=True)
def count_order(text, opens, k, shorter, context, slots, parents, tokens, stats, n, out):
    """Counts the n-grams of k + 1 tokens; returns the number of nodes there are now, of which there were n.

    text [N]; opens [N] tells where documents start. context, shorter [N]: nodes of the k and of the k - 1 tokens that end at each
    position (0 is none), unused for k = 0 and k < 2. out [N] gets the nodes of the k + 1 tokens that end at each position.
    """
    for t in range(text.shape[0]):
        parent = 0
        if k > 0:
            parent = 0 if opens[t] else context[t - 1]
            if parent == 0 or (k > 1 and stats[shorter[t - 1], TOTAL] < SPARSE):
                out[t] = 0
                continue
        slot = _place(slots, parents, tokens, parent, text[t])
        node = slots[slot]
        if node == 0:
            node = n
            n += 1
            slots[slot], parents[node], tokens[node] = node, parent, text[t]
        out[t] = node
        if not opens[t]:  # a document's first token is given, not predicted
            stats[parent, KINDS] += stats[node, COUNT] == 0
            stats[node, COUNT] += 1
            stats[parent, TOTAL] += 1
    return n


@njit(cache=True, nogil=True)
def _extend(text, i, n_orders, paths, local, n, slots, parents, tokens):
    """Adds the n-grams that end at text[i] to a document's trie; returns its number of nodes, of which there were n.

    paths [L, K + 1]: node of the last k tokens that end at each position, column 0 the root; row i is filled. local = (slots, parents,
    tokens, links) is the document's trie, links [M] the node of the static trie (slots, parents, tokens) with the same tokens, or -1.
    """
    own_slots, own_parents, own_tokens, links = local
    for k in range(min(n_orders - 1, i) + 1):
        parent = paths[i - 1, k] if k > 0 else 0
        slot = _place(own_slots, own_parents, own_tokens, parent, text[i])
        node = own_slots[slot]
        if node == 0:
            node = n
            n += 1
            own_slots[slot], own_parents[node], own_tokens[node] = node, parent, text[i]
            static = slots[_place(slots, parents, tokens, links[parent], text[i])] if links[parent] >= 0 else 0
            links[node] = static if static > 0 else -1
        paths[i, k + 1] = node
    return n


@njit(cache=True, nogil=True)
def _learn(i, n_orders, paths, past):
    """Counts the n-grams that end at position i, which is not a document's first."""
    for k in range(min(n_orders - 1, i) + 1):
        node, parent = paths[i, k + 1], paths[i - 1, k] if k > 0 else 0
        past[parent, KINDS] += past[node, COUNT] == 0
        past[node, COUNT] += 1
        past[parent, TOTAL] += 1


@njit(cache=True, nogil=True)
def _describe(i, n_orders, paths, links, stats, own, past, totals, features):
    """What is known of the context of position i: totals [2, K] (static, document), and features [4 (K - 1) + 1]."""
    for k in range(n_orders):
        kinds = past_kinds = 0
        totals[0, k] = totals[1, k] = 0
        if k <= i:
            node = paths[i - 1, k] if k > 0 else 0
            static = links[node]
            if static >= 0 and (k < 2 or totals[0, k - 1] >= SPARSE):
                totals[0, k] = stats[static, TOTAL] - own[node, TOTAL]
                kinds = stats[static, KINDS] - own[node, KINDS]
            totals[1, k] = past[node, TOTAL]
            past_kinds = past[node, KINDS]
        if k > 0:
            at = 4 * (k - 1)
            features[at] = math.log((totals[0, k] + 0.2) / (kinds - 0.6)) / 2 if kinds > 0 else 0.0
            features[at + 1] = math.log1p(kinds) / 3
            features[at + 2] = math.log((totals[1, k] + 0.2) / (past_kinds - 0.6)) / 2 if past_kinds > 0 else 0.0
            features[at + 3] = math.log1p(past_kinds) / 2
    features[4 * (n_orders - 1)] = math.log1p(i) / 8


@njit(cache=True, nogil=True)
def _experts(counts, totals, vocab_size, log_p):
    """log_p [1 + 2 K] from counts [2, K] of the token and totals [2, K] of its contexts; an unseen one says what the shorter one does."""
    n_orders = counts.shape[1]
    log_p[0] = -math.log(vocab_size)
    for source in range(2):
        said = log_p[0]
        for k in range(n_orders):
            if totals[source, k] > 0:
                count = counts[source, k]
                said = math.log(count / totals[source, k]) if count > 0 else LOG_ZERO
            log_p[1 + source * n_orders + k] = said


@njit(cache=True, nogil=True)
def scan(text, begin, end, n_orders, slots, parents, tokens, stats, leave_out, vocab_size, log_p, features):
    """Walks the document text[begin:end] and fills log_p [L, 1 + 2 K] and features [L, 4 (K - 1) + 1] of its tokens.

    With ``leave_out`` all that the document itself added to the static counts is taken out of them first.
    """
    length = end - begin
    capacity = length * n_orders + 1
    size = 1
    while size < 2 * capacity:
        size *= 2
    links = np.full(capacity, -1, np.int32)
    links[0] = 0
    local = np.zeros(size, np.int32), np.zeros(capacity, np.int32), np.zeros(capacity, np.int32), links
    own, past = np.zeros((capacity, 3), np.int32), np.zeros((capacity, 3), np.int32)
    paths = np.zeros((length, n_orders + 1), np.int32)
    document = text[begin:end]
    n = 1
    for i in range(length):
        n = _extend(document, i, n_orders, paths, local, n, slots, parents, tokens)
        if leave_out and i > 0:
            for k in range(min(n_orders - 1, i) + 1):
                own[paths[i, k + 1], COUNT] += 1
                own[paths[i - 1, k] if k > 0 else 0, TOTAL] += 1
    if leave_out:
        for node in range(1, n):  # kinds that only this document has
            static = links[node]
            if static >= 0 and own[node, COUNT] > 0 and own[node, COUNT] == stats[static, COUNT]:
                own[local[1][node], KINDS] += 1
    counts, totals = np.zeros((2, n_orders), np.int32), np.zeros((2, n_orders), np.int32)
    for i in range(length):
        _describe(i, n_orders, paths, links, stats, own, past, totals, features[i])
        for k in range(min(n_orders - 1, i) + 1):
            node = paths[i, k + 1]
            counts[0, k] = stats[links[node], COUNT] - own[node, COUNT] if links[node] >= 0 else 0
            counts[1, k] = past[node, COUNT]
        _experts(counts, totals, vocab_size, log_p[i])
        if i > 0:
            _learn(i, n_orders, paths, past)


@njit(cache=True, nogil=True)
def push(text, i, n_orders, paths, local, past, n, slots, parents, tokens):
    """Takes text[i] into a document's trie and counts; returns its number of nodes, of which there were n."""
    n = _extend(text, i, n_orders, paths, local, n, slots, parents, tokens)
    if i > 0:
        _learn(i, n_orders, paths, past)
    return n


@njit(cache=True, nogil=True)
def distribution(i, n_orders, paths, local, past, slots, parents, tokens, stats, log_p, features):
    """log_p [V, 1 + 2 K] of every token at position i, and the features that ``scan`` gives there."""
    own_slots, own_parents, own_tokens, links = local
    counts, totals = np.zeros((2, n_orders), np.int32), np.zeros((2, n_orders), np.int32)
    nothing = np.zeros_like(past)
    _describe(i, n_orders, paths, links, stats, nothing, past, totals, features)
    for token in range(log_p.shape[0]):
        for k in range(n_orders):
            node = paths[i - 1, k] if k > 0 and k <= i else 0
            counts[0, k] = counts[1, k] = 0
            if totals[0, k] > 0:
                found = slots[_place(slots, parents, tokens, links[node], token)]
                counts[0, k] = stats[found, COUNT] if found > 0 else 0
            if totals[1, k] > 0:
                found = own_slots[_place(own_slots, own_parents, own_tokens, node, token)]
                counts[1, k] = past[found, COUNT] if found > 0 else 0
        _experts(counts, totals, log_p.shape[0], log_p[token])
