"""The hot loop of n-gram counts: walks documents once and says what the counts make of every token."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

N_EXPERTS = 3
N_FEATURES = 12


@njit(cache=True, nogil=True)
def scan(nodes, starts, first, last, counts, totals, distinct, discounts, weight, vocab_size, leave_out, log_p, features):
    """Fills log_p [N, 3] and features [N, 12] for the tokens of documents [first, last).

    nodes [K+1, N]: number of the n-gram of k+1 tokens that ends at each position, all orders numbered together, -1 where it would cross
    the document's start. Its context is nodes[k-1, t-1], or node M (the last of ``totals``) for k = 0. counts [M]: how often it was
    counted as a prediction; totals, distinct [M+1]: how often its n-gram was followed by any token, and by how many different ones.
    With ``leave_out`` the document's own counts are taken out of all three before they are used. See ``model.prior`` for the experts.
    """
    n_orders = nodes.shape[0]
    size = totals.shape[0]
    root = size - 1
    own_pair = np.zeros(size, np.int32)  # counts of the whole document
    own_total = np.zeros(size, np.int32)
    own_only = np.zeros(size, np.int32)  # continuations that only this document has
    past_pair = np.zeros(size, np.int32)  # counts of the document so far
    past_total = np.zeros(size, np.int32)
    past_distinct = np.zeros(size, np.int32)
    for document in range(first, last):
        begin, end = starts[document], starts[document + 1]
        if leave_out:
            for t in range(begin + 1, end):
                for k in range(min(n_orders, t - begin + 1)):
                    own_pair[nodes[k, t]] += 1
                    own_total[root if k == 0 else nodes[k - 1, t - 1]] += 1
            for t in range(begin + 1, end):
                for k in range(min(n_orders, t - begin + 1)):
                    g = nodes[k, t]
                    if own_pair[g] == counts[g]:
                        own_only[root if k == 0 else nodes[k - 1, t - 1]] += 1
                        counts[g] = -counts[g]  # seen; turned back below
            for t in range(begin + 1, end):
                for k in range(min(n_orders, t - begin + 1)):
                    g = nodes[k, t]
                    if counts[g] < 0:
                        counts[g] = -counts[g]
        for t in range(begin + 1, end):
            static = joint = 1.0 / vocab_size
            deep_static = deep_past = 0
            static_total = static_distinct = past_deep_total = past_deep_distinct = 0.0
            n = min(n_orders, t - begin + 1)
            for k in range(n):
                g = nodes[k, t]
                c = root if k == 0 else nodes[k - 1, t - 1]
                seen, total, kinds = counts[g] - own_pair[g], totals[c] - own_total[c], distinct[c] - own_only[c]
                p_seen, p_total, p_kinds = past_pair[g], past_total[c], past_distinct[c]
                d = discounts[k]
                if total > 0:
                    static = (max(seen - d, 0.0) + d * kinds * static) / total
                    deep_static, static_total, static_distinct = k, total, kinds
                if p_total > 0:
                    deep_past, past_deep_total, past_deep_distinct = k, p_total, p_kinds
                if total > 0 or p_total > 0:
                    w = weight
                    joint = (max(seen - d, 0.0) + w * max(p_seen - d, 0.0) + d * (kinds + w * p_kinds) * joint) / (total + w * p_total)
                if k == 1:
                    features[t, 6] = math.log1p(total) / 8
                    features[t, 7] = kinds / max(total, 1)
                if k == 2:
                    features[t, 8] = math.log1p(total) / 8
                    features[t, 9] = kinds / max(total, 1)
            own = joint
            for k in range(1, n):
                c = nodes[k - 1, t - 1]
                if past_total[c] > 0:
                    d = 0.5
                    own = (max(past_pair[nodes[k, t]] - d, 0.0) + d * past_distinct[c] * own) / past_total[c]
            log_p[t, 0], log_p[t, 1], log_p[t, 2] = math.log(static), math.log(joint), math.log(own)
            features[t, 0] = deep_static / n_orders
            features[t, 1] = math.log1p(static_total) / 8
            features[t, 2] = static_distinct / max(static_total, 1)
            features[t, 3] = deep_past / n_orders
            features[t, 4] = math.log1p(past_deep_total) / 4
            features[t, 5] = past_deep_distinct / max(past_deep_total, 1)
            features[t, 10] = math.log1p(t - begin) / 8
            features[t, 11] = 1.0 if past_deep_total > 0 and past_deep_distinct == 1 else 0.0
            for k in range(n):
                g = nodes[k, t]
                c = root if k == 0 else nodes[k - 1, t - 1]
                if past_pair[g] == 0:
                    past_distinct[c] += 1
                past_pair[g] += 1
                past_total[c] += 1
        for t in range(begin + 1, end):
            for k in range(min(n_orders, t - begin + 1)):
                g = nodes[k, t]
                c = root if k == 0 else nodes[k - 1, t - 1]
                own_pair[g] = own_total[c] = own_only[c] = 0
                past_pair[g] = past_total[c] = past_distinct[c] = 0


@njit(cache=True, nogil=True)
def number_keys(keys):
    """Numbers equal keys alike, in the order in which they first come: (number of each key [N], the distinct keys), by a hash table.

    Sorting does the same; on millions of keys of which half repeat this is several times faster (docs/lab.md).
    """
    n = keys.shape[0]
    size = 1024
    while size < 2 * n:
        size *= 2
    slots = np.full(size, -1, np.int32)
    numbers, distinct = np.empty(n, np.int32), np.empty(n, np.int64)
    found = 0
    mask = np.uint64(size - 1)
    for i in range(n):
        mixed = np.uint64(keys[i]) * np.uint64(0x9E3779B97F4A7C15)
        slot = (mixed ^ (mixed >> np.uint64(29))) & mask
        while slots[slot] >= 0 and distinct[slots[slot]] != keys[i]:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] < 0:
            slots[slot] = found
            distinct[found] = keys[i]
            found += 1
        numbers[i] = slots[slot]
    return numbers, distinct[:found]


@njit(cache=True, nogil=True)
def tally(nodes, starts, counts, totals):
    """Adds up counts [M] of every n-gram and totals [M+1] of every context; a document's first token is never counted."""
    root = totals.shape[0] - 1
    for document in range(starts.shape[0] - 1):
        for t in range(starts[document] + 1, starts[document + 1]):
            for k in range(min(nodes.shape[0], t - starts[document] + 1)):
                counts[nodes[k, t]] += 1
                totals[root if k == 0 else nodes[k - 1, t - 1]] += 1
