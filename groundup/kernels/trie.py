"""The loops of n-gram counting and of back-off models over one trie of sorted arrays.

The trie of all n-grams of 1 .. n tokens stands level by level in flat arrays; node 0 is the root (the empty context), nodes 1 .. V are the
single tokens in order, seen or not, and within a level the n-grams are in lexicographic order, so that the children of a node stand
together, sorted by token:

    token [M]        last token of each n-gram
    first [L + 1]    node j's children are first[j] .. first[j + 1] - 1, for the L nodes that are shorter than n
    suffix [M]       the n-gram without its first token

A context is a node. One search gives both what a token's probability is and the next context. See ``history.counts``.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def sort_tokens(text, fill, order):
    """Positions sorted by token, stable. fill [V] is where each token's positions begin in order [N], and is moved on."""
    for i in range(text.shape[0]):
        order[fill[text[i]]] = i
        fill[text[i]] += 1


@njit(cache=True, nogil=True)
def sort_longer(text, opens, shorter, fill, order):
    """Positions of (k + 1)-grams sorted, from those of k-grams (``shorter``): those one earlier, told apart by their own token.

    opens [N] tells where documents start: no n-gram goes beyond one. fill [V] is zero. Returns how many there are in ``order``.
    """
    for place in shorter:
        if not opens[place]:
            fill[text[place - 1]] += 1
    n = 0
    for v in range(fill.shape[0]):
        fill[v], n = n, n + fill[v]
    for place in shorter:
        if not opens[place]:
            v = text[place - 1]
            order[fill[v]] = place - 1
            fill[v] += 1
    return n


@njit(cache=True, nogil=True)
def number(text, order, shorter, longer):
    """Numbers the different (k + 1)-grams: longer [N] from the numbers of k-grams, shorter [N]; returns how many there are."""
    n, last, tail = 0, np.int64(-1), np.int64(-1)
    for i in order:
        if text[i] != last or shorter[i + 1] != tail:
            last, tail = text[i], shorter[i + 1]
            n += 1
        longer[i] = n - 1
    return n


@njit(cache=True, nogil=True)
def describe(text, k, order, shorter, longer, token, count, suffix, children):
    """Fills a level's token, count and suffix [m] from its sorted positions, and adds to children [m_k] of the level before."""
    for i in order:
        j = longer[i]
        if count[j] == 0:
            token[j] = text[i + k]
            suffix[j] = shorter[i + 1]
            children[shorter[i]] += 1
        count[j] += 1


@njit(cache=True, nogil=True)
def merge_level(pairs, first_a, first_b, token_a, token_b, count_a, count_b, token, count, children, out):
    """One level of two tries merged: for each pair of parents (-1 where one has none), their children by token.

    pairs [m, 2]; first_x: where the children of a parent of that trie begin; token, count, out [.., 2] are filled, children [m] counted.
    Returns how many there are.
    """
    n = 0
    for j in range(pairs.shape[0]):
        before = n
        a, b = pairs[j, 0], pairs[j, 1]
        at_a, end_a = (first_a[a], first_a[a + 1]) if a >= 0 else (np.int64(0), np.int64(0))
        at_b, end_b = (first_b[b], first_b[b + 1]) if b >= 0 else (np.int64(0), np.int64(0))
        while at_a < end_a or at_b < end_b:
            in_a = at_a < end_a and (at_b == end_b or token_a[at_a] <= token_b[at_b])
            in_b = at_b < end_b and (at_a == end_a or token_b[at_b] <= token_a[at_a])
            token[n] = token_a[at_a] if in_a else token_b[at_b]
            count[n] = (count_a[at_a] if in_a else 0) + (count_b[at_b] if in_b else 0)
            out[n, 0], out[n, 1] = (at_a if in_a else -1), (at_b if in_b else -1)
            at_a += in_a
            at_b += in_b
            n += 1
        children[j] = n - before
    return n


@njit(cache=True, nogil=True)
def tally(numbers, begin, end, out):
    """Adds one to out[j] for every j of numbers[begin:end]: how many different tokens go before each n-gram."""
    for i in range(begin, end):
        out[numbers[i]] += 1


@njit(cache=True, nogil=True)
def interpolate(begin, end, first, suffix, count, discounts, prob, backoff):
    """Interpolated absolute discounting of contexts begin .. end - 1, shorter ones done: prob of their children, and their backoff.

    p(w | h) = (c(h w) - D(c(h w))) / c(h) + gamma(h) p(w | h'),  gamma(h) = sum_w D(c(h w)) / c(h). discounts [4]: for counts 0, 1, 2, 3+.
    """
    for h in range(begin, end):
        total, mass = np.int64(0), 0.0
        for child in range(first[h], first[h + 1]):
            total += count[child]
            mass += discounts[min(count[child], 3)]
        gamma = mass / total if total > 0 else 1.0
        backoff[h] = gamma
        for child in range(first[h], first[h + 1]):
            c = count[child]
            shorter = np.float64(prob[suffix[child]])
            prob[child] = ((c - discounts[min(c, 3)]) / total if total > 0 else 0.0) + gamma * shorter


@njit(cache=True, nogil=True)
def _find(token, begin, end, w):
    """The place of w in token[begin:end], which is sorted; -1 if it is not there."""
    stop = end
    while begin < end:
        middle = (begin + end) >> 1
        if token[middle] < w:
            begin = middle + 1
        else:
            end = middle
    return begin if begin < stop and token[begin] == w else -1


@njit(cache=True, nogil=True)
def child_of(h, w, token, first):
    """The node of context h followed by w; -1 where that was never seen."""
    return np.int64(1 + w) if h == 0 else np.int64(_find(token, first[h], first[h + 1], np.uint32(w)))


@njit(cache=True, nogil=True)
def advance(h, w, token, first, suffix):
    """The longest context known after h and w."""
    child = child_of(h, w, token, first)
    while child < 0:
        h = np.int64(suffix[h])
        child = child_of(h, w, token, first)
    return child if child < first.shape[0] - 1 else np.int64(suffix[child])


@njit(cache=True, nogil=True)
def score(text, starts, begin, end, token, first, suffix, prob, backoff, scale, log_p):
    """Nats of every token of the texts begin .. end - 1, which start with no context; text i is text[starts[i]:starts[i + 1]].

    p(w | h) = prob(h w) if there is one, else backoff(h) p(w | h'); times scale(h) where scale is not empty.
    """
    for i in range(begin, end):
        context = np.int64(0)
        for t in range(starts[i], starts[i + 1]):
            w, h, p = np.int64(text[t]), context, 1.0
            if scale.shape[0] > 0:
                p = np.float64(scale[h])
            child = child_of(h, w, token, first)
            while child < 0:
                p *= backoff[h]
                h = np.int64(suffix[h])
                child = child_of(h, w, token, first)
            p *= prob[child]
            log_p[t] = math.log(p) if p > 0 else -np.inf
            context = child if child < first.shape[0] - 1 else np.int64(suffix[child])


@njit(cache=True, nogil=True)
def distribution(h, token, first, suffix, prob, backoff, scale, p):
    """p [V]: every token's probability after context h, by going from the empty context to h over what followed each."""
    weight, length = (np.float64(scale[h]) if scale.shape[0] > 0 else 1.0), 0
    node = h
    while node != 0:
        weight *= backoff[node]
        node = np.int64(suffix[node])
        length += 1
    for w in range(p.shape[0]):
        p[w] = weight * prob[1 + w]
    for back in range(length - 1, -1, -1):
        weight, node = (np.float64(scale[h]) if scale.shape[0] > 0 else 1.0), h
        for _ in range(back):
            weight *= backoff[node]
            node = np.int64(suffix[node])
        for child in range(first[node], first[node + 1]):
            p[token[child]] = weight * prob[child]


@njit(cache=True, nogil=True)
def rank(text, starts, begin, end, token, first, suffix, prob, backoff, scale, p, ranks):
    """ranks [N]: how many tokens are likelier than each token of the texts begin .. end - 1, or as likely and smaller. Room for p [V]."""
    for i in range(begin, end):
        context = np.int64(0)
        for t in range(starts[i], starts[i + 1]):
            distribution(context, token, first, suffix, prob, backoff, scale, p)
            mine = p[text[t]]
            higher = 0
            for w in range(p.shape[0]):
                higher += p[w] > mine or (p[w] == mine and w < text[t])
            ranks[t] = higher
            context = advance(context, np.int64(text[t]), token, first, suffix)


@njit(cache=True, nogil=True)
def find(text, starts, begin, end, token, first, suffix, contexts, hits):
    """For every token of the texts: the longest context known before it, contexts [N], and the longest n-gram that ends in it, hits [N]."""
    for i in range(begin, end):
        context = np.int64(0)
        for t in range(starts[i], starts[i + 1]):
            contexts[t] = context
            h, w = context, np.int64(text[t])
            child = child_of(h, w, token, first)
            while child < 0:
                h = np.int64(suffix[h])
                child = child_of(h, w, token, first)
            hits[t] = child
            context = child if child < first.shape[0] - 1 else np.int64(suffix[child])


@njit(cache=True, nogil=True)
def evidence(text, starts, token, first, suffix, count, totals, order, out):
    """out [N, n, 2] (zeros): for every token of the texts and each length k of context, c(h_k w) and c(h_k)."""
    room = np.zeros(order, np.int64)
    for i in range(starts.shape[0] - 1):
        context = np.int64(0)
        for t in range(starts[i], starts[i + 1]):
            w, length, node = np.int64(text[t]), 0, context
            room[0] = node
            while node != 0:
                length += 1
                node = np.int64(suffix[node])
                room[length] = node
            for k in range(length + 1):
                h = room[length - k]
                child = child_of(h, w, token, first)
                out[t, k, 0], out[t, k, 1] = (count[child] if child >= 0 else 0), totals[h]
            context = advance(context, w, token, first, suffix)
