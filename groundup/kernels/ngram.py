"""The hot loops of n-gram counts: a trie in an open-addressing table, and one walk over a document that reads its counts for every token.

A trie is two arrays: ``slots`` (a power of two, 0 where empty) finds the node of (parent, token); ``nodes`` [M, 5] names the edge that
leads to each node (PARENT, TOKEN) and holds its count as a prediction (COUNT), and as a context how many tokens followed (TOTAL) and how
many different ones (KINDS). Node 0 is the root, the empty context; as an n-gram's number, 0 is none. All of a node stands together,
because a walk waits for memory: to compare the edge fetches the counts. See ``model.prior``.

The trie of one document has nodes [M, 9]: COUNT .. KINDS of its tokens so far, LINK to the node of the same tokens in the counts of all
documents, or -1, and OTHERS + COUNT .. OTHERS + KINDS, a copy of what that one says, less what the document itself added if it is left out.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from groundup.kernels.native import natural_log

PARENT, TOKEN, COUNT, TOTAL, KINDS, LINK, OTHERS = 0, 1, 2, 3, 4, 5, 4
STATIC_COLUMNS, LOCAL_COLUMNS = 5, 9
LOG_ZERO = -60.0  # log of a probability that is zero: e^-60 changes no fp32 sum, and -60 fits fp16
SPARSE = 2  # followers that a context needs before a longer one is counted


@njit(cache=True, nogil=True)
def _place(slots, nodes, parent, token):
    """The slot that holds (parent, token), or the empty one where it belongs."""
    mask = np.uint64(slots.shape[0] - 1)
    mixed = np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15) ^ (np.uint64(token) + np.uint64(1)) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while slots[slot] != 0 and (nodes[slots[slot], PARENT] != parent or nodes[slots[slot], TOKEN] != token):
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def fill_slots(slots, nodes, n):
    """Puts nodes 1 .. n - 1 into empty slots."""
    for node in range(1, n):
        slots[_place(slots, nodes, np.int64(nodes[node, PARENT]), np.int64(nodes[node, TOKEN]))] = node


@njit(cache=True, nogil=True)
def count_order(text, opens, k, shorter, context, slots, nodes, n, out):
    """Counts the n-grams of k + 1 tokens; returns the number of nodes there are now, of which there were n.

    text [N]; opens [N] tells where documents start. context, shorter [N]: nodes of the k and of the k - 1 tokens that end at each
    position (0 is none), unused for k = 0 and k < 2. out [N] gets the nodes of the k + 1 tokens that end at each position.
    """
    for t in range(text.shape[0]):
        parent = np.int64(0)
        if k > 0:
            parent = np.int64(0 if opens[t] else context[t - 1])
            if parent == 0 or (k > 1 and nodes[shorter[t - 1], TOTAL] < SPARSE):
                out[t] = 0
                continue
        slot = _place(slots, nodes, parent, np.int64(text[t]))
        node = np.int64(slots[slot])
        if node == 0:
            node = n
            n += 1
            slots[slot], nodes[node, PARENT], nodes[node, TOKEN] = node, parent, text[t]
        out[t] = node
        if not opens[t]:  # a document's first token is given, not predicted
            nodes[parent, KINDS] += nodes[node, COUNT] == 0
            nodes[node, COUNT] += 1
            nodes[parent, TOTAL] += 1
    return n


@njit(cache=True, nogil=True)
def begin(own, nodes):
    """The root of a document's trie."""
    for column in range(COUNT, KINDS + 1):
        own[0, OTHERS + column] = nodes[0, column]


@njit(cache=True, nogil=True)
def _extend(text, i, n_orders, paths, own_slots, own, n, slots, nodes):
    """Adds the n-grams that end at text[i] to a document's trie (own_slots, own); returns its number of nodes, of which there were n.

    paths [L, K + 1]: node of the last k tokens that end at each position, column 0 the root; row i is filled.
    """
    token = np.int64(text[i])
    for k in range(min(n_orders - 1, i) + 1):
        parent = np.int64(paths[i - 1, k] if k > 0 else 0)
        slot = _place(own_slots, own, parent, token)
        node = np.int64(own_slots[slot])
        if node == 0:
            node = n
            n += 1
            own_slots[slot], own[node, PARENT], own[node, TOKEN] = node, parent, token
            above = np.int64(own[parent, LINK])
            static = np.int64(slots[_place(slots, nodes, above, token)] if above >= 0 else 0)
            own[node, LINK] = -1
            if static > 0:
                own[node, LINK] = static
                for column in range(COUNT, KINDS + 1):
                    own[node, OTHERS + column] = nodes[static, column]
        paths[i, k + 1] = node
    return n


@njit(cache=True, nogil=True)
def _learn(i, n_orders, paths, own):
    """Counts the n-grams that end at position i, which is not a document's first."""
    for k in range(min(n_orders - 1, i) + 1):
        node, parent = paths[i, k + 1], paths[i - 1, k] if k > 0 else 0
        own[parent, KINDS] += own[node, COUNT] == 0
        own[node, COUNT] += 1
        own[parent, TOTAL] += 1


@njit(cache=True, nogil=True)
def _describe(i, n_orders, paths, own, totals, features):
    """What is known of the context of position i: totals [2, K] (other documents, this one), and features [4 (K - 1) + 1]."""
    for k in range(n_orders):
        kinds = past_kinds = 0
        totals[0, k] = totals[1, k] = 0
        if k <= i:
            node = paths[i - 1, k] if k > 0 else 0
            if k < 2 or totals[0, k - 1] >= SPARSE:
                totals[0, k] = own[node, OTHERS + TOTAL]
                kinds = own[node, OTHERS + KINDS]
            totals[1, k] = own[node, TOTAL]
            past_kinds = own[node, KINDS]
        if k > 0:
            at = 4 * (k - 1)
            features[at] = natural_log((totals[0, k] + 0.2) / (kinds - 0.6)) / 2 if kinds > 0 else 0.0
            features[at + 1] = natural_log(1 + kinds) / 3
            features[at + 2] = natural_log((totals[1, k] + 0.2) / (past_kinds - 0.6)) / 2 if past_kinds > 0 else 0.0
            features[at + 3] = natural_log(1 + past_kinds) / 2
    features[4 * (n_orders - 1)] = natural_log(1 + i) / 8


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
                said = natural_log(count / totals[source, k]) if count > 0 else LOG_ZERO
            log_p[1 + source * n_orders + k] = said


@njit(cache=True, nogil=True)
def scan(text, n_orders, slots, nodes, leave_out, vocab_size, paths, own_slots, own, counts, totals, log_p, features):
    """Walks the document text [L] and fills log_p [L, 1 + 2 K] and features [L, 4 (K - 1) + 1] of its tokens.

    With ``leave_out`` all that the document itself added to the static counts is taken out of them first. The caller makes all arrays,
    full of zeros (numba takes seconds to compile np.zeros): paths [L, K + 1], own [K L + 1, 9], room for counts and totals [2, K].
    """
    begin(own, nodes)
    n = np.int64(1)  # so _extend is compiled once
    for i in range(text.shape[0]):
        n = _extend(text, i, n_orders, paths, own_slots, own, n, slots, nodes)
        if leave_out and i > 0:
            for k in range(min(n_orders - 1, i) + 1):
                node, parent = paths[i, k + 1], paths[i - 1, k] if k > 0 else 0
                if own[node, LINK] >= 0:
                    own[node, OTHERS + COUNT] -= 1
                    own[parent, OTHERS + TOTAL] -= 1
                    own[parent, OTHERS + KINDS] -= own[node, OTHERS + COUNT] == 0
    for i in range(text.shape[0]):
        _describe(i, n_orders, paths, own, totals, features[i])
        for k in range(min(n_orders - 1, i) + 1):
            node = paths[i, k + 1]
            counts[0, k], counts[1, k] = own[node, OTHERS + COUNT], own[node, COUNT]
        _experts(counts, totals, vocab_size, log_p[i])
        if i > 0:
            _learn(i, n_orders, paths, own)


@njit(cache=True, nogil=True)
def push(text, i, n_orders, paths, own_slots, own, n, slots, nodes):
    """Takes text[i] into a document's trie and counts; returns its number of nodes, of which there were n."""
    n = _extend(text, i, n_orders, paths, own_slots, own, n, slots, nodes)
    if i > 0:
        _learn(i, n_orders, paths, own)
    return n


@njit(cache=True, nogil=True)
def distribution(i, n_orders, slots, nodes, paths, own_slots, own, counts, totals, log_p, features):
    """log_p [V, 1 + 2 K] of every token at position i, and the features that ``scan`` gives there; room for counts and totals [2, K]."""
    _describe(i, n_orders, paths, own, totals, features)
    for token in range(log_p.shape[0]):
        for k in range(n_orders):
            node = np.int64(paths[i - 1, k] if k > 0 and k <= i else 0)
            counts[0, k] = counts[1, k] = 0
            if totals[0, k] > 0:
                found = slots[_place(slots, nodes, np.int64(own[node, LINK]), token)]
                counts[0, k] = nodes[found, COUNT] if found > 0 else 0
            if totals[1, k] > 0:
                found = own_slots[_place(own_slots, own, node, token)]
                counts[1, k] = own[found, COUNT] if found > 0 else 0
        _experts(counts, totals, log_p.shape[0], log_p[token])


def compile_all() -> None:
    """Compiles these loops for the types that ``model.prior`` gives them, by a walk over two tokens."""
    text, opens, found = np.ones(2, np.int32), np.zeros(2, np.bool_), np.zeros(2, np.int32)
    nodes, slots = np.zeros((3, STATIC_COLUMNS), np.int32), np.zeros(4, np.int32)
    fill_slots(slots, nodes, 1)
    count_order(text, opens, 0, found, found, slots, nodes, 1, found.copy())
    own, paths, room = np.zeros((3, LOCAL_COLUMNS), np.int32), np.zeros((2, 2), np.int32), np.zeros((2, 2, 1), np.int32)
    log_p, features = np.zeros((2, 3), np.float32), np.zeros((2, 1), np.float32)
    scan(text, 1, slots, nodes, False, 2, paths, np.zeros(4, np.int32), own.copy(), *room, log_p, features)
    own_slots = np.zeros(4, np.int32)
    begin(own, nodes)
    push(text, 0, 1, paths, own_slots, own, 1, slots, nodes)
    distribution(1, 1, slots, nodes, paths, own_slots, own, *room, log_p, features[0])
