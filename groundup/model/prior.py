"""The prior: n-gram counts of the training text and of the document so far, as experts beside the network.

Counts learn in one pass over the text what a network needs many steps for; a network learns what counts never see. ``Decoder`` mixes them
by a gate that reads the network's hidden state and the features below: p(y) = g_0 p_net(y) + sum_k g_k p_k(y), so probabilities sum to one.

Three experts, each a recursion over context lengths k = 0 .. K from p = 1 / V, with c(h, y), c(h) and n(h) the count of a continuation,
of all continuations and of different ones, d = n1 / (n1 + 2 n2) Ney's discount for k (Ney, Essen & Kneser 1994), w the document's weight:

    static  p <- (max(c - d, 0) + d n p) / c(h)                                                          counts of other documents
    joint   p <- (max(c - d, 0) + w max(c' - d, 0) + d (n + w n') p) / (c(h) + w c'(h))                   and c' of this one so far
    own     p <- (max(c' - 1/2, 0) + n'/2 p) / c'(h)   for k >= 1, from the joint p                       this one so far, first

In training, c, c(h) and n(h) leave the whole document out (not only the token): held-out documents find no counts of themselves either.
The n-grams stand in a trie of sorted arrays: node (parent, token) of order k has key parent * V + token, so no hash can collide.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, Int64
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from groundup.config import Prior
from groundup.data import TokenStore
from groundup.errors import GroundupError
from groundup.files import disk_errors
from groundup.kernels.ngram import N_EXPERTS, N_FEATURES, number_keys, scan, tally

EM_ROWS, EM_ROUNDS = 400_000, 12


@dataclass(frozen=True)
class Table:
    """What the counts say of every token of a store: row i is about predicting token i from those before it in its document."""

    log_p: Float32[np.ndarray, "n k"]
    """Natural log of the probability that each expert gave to the token that came."""
    features: Float32[np.ndarray, "n c"]
    """What is known of the context before the token comes; see ``kernels.ngram.scan``."""
    counts_nats: Float32[np.ndarray, " n"]
    """Nats of the token under the counts alone (experts mixed by ``NgramPrior.weights``)."""

    @property
    def n_bytes(self) -> int:
        """Memory held."""
        return self.log_p.nbytes + self.features.nbytes + self.counts_nats.nbytes


class NgramPrior:
    """Counts of every n-gram up to ``max_order`` tokens, and the experts that they make."""

    n_experts = N_EXPERTS
    n_features = N_FEATURES

    def __init__(
        self,
        vocab_size: int,
        document_weight: float,
        keys: list[Int64[np.ndarray, " _"]],
        counts: np.ndarray,
        totals: np.ndarray,
        weights: np.ndarray | None,
    ):
        self.vocab_size, self.document_weight, self.keys, self.counts, self.totals = vocab_size, document_weight, keys, counts, totals
        self.offsets = np.cumsum([0] + [len(k) for k in keys])
        self.distinct = self._distinct()
        self.discounts = np.array([_discount(counts[a:b]) for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)])
        self.weights = weights
        """Mixture weights of the counts alone, by ``bucket`` of the features [buckets, K]."""
        self._training: Table | None = None  # of the store that was counted, until it is asked for

    @classmethod
    def build(cls, store: TokenStore, vocab_size: int, config: Prior) -> NgramPrior:
        """Counts the documents of a store. About 2 s a million tokens; deterministic."""
        nodes, keys = _trie(store.slice(0, store.n_tokens), store.document_starts, config.max_order, vocab_size)
        size = sum(len(k) for k in keys)
        counts, totals = np.zeros(size, np.int32), np.zeros(size + 1, np.int32)
        tally(nodes, store.document_starts, counts, totals)
        prior = cls(vocab_size, config.document_weight, keys, counts, totals, None)
        prior.weights = np.full((prior._n_buckets, N_EXPERTS), 1 / N_EXPERTS, np.float32)
        scanned = prior._scan(nodes, store.document_starts, leave_out=True)
        prior.weights = prior._fit_weights(scanned)
        prior._training = prior._table(scanned)
        return prior

    @property
    def n_bytes(self) -> int:
        """Memory of the tables."""
        return sum(a.nbytes for a in (*self.keys, self.counts, self.totals, self.distinct))

    @property
    def _n_buckets(self) -> int:
        return len(self.keys) ** 2 * 3

    def training_features(self, store: TokenStore) -> Table:
        """The table of the store that was counted, each document's own counts left out."""
        if self._training is not None:
            table, self._training = self._training, None
            return table
        nodes, keys = _trie(store.slice(0, store.n_tokens), store.document_starts, len(self.keys), self.vocab_size)
        if [len(k) for k in keys] != [len(k) for k in self.keys]:
            raise GroundupError("the prior was counted on other tokens than these: start the run again")
        return self._table(self._scan(nodes, store.document_starts, leave_out=True))

    def features(self, store: TokenStore) -> Table:
        """The table of a held-out store: static counts as they are, the document's own from its start."""
        nodes, keys = _trie(store.slice(0, store.n_tokens), store.document_starts, len(self.keys), self.vocab_size)
        return self._table(self._scan(nodes, store.document_starts, leave_out=False, static=self._find(keys)))

    def start(self) -> Cursor:
        """A cursor at the start of a document: push ``<|endoftext|>`` first."""
        return Cursor(self)

    def save(self, path: Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        tensors = {f"keys.{k}": a for k, a in enumerate(self.keys)} | {
            "counts": self.counts,
            "totals": self.totals,
            "weights": self.weights,
        }
        tensors |= {"vocab_size": np.array([self.vocab_size]), "document_weight": np.array([self.document_weight])}
        partial = path.with_name(path.name + ".partial")
        with disk_errors(path):
            save_file(tensors, partial)
            os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> NgramPrior:
        """Reads what ``save`` wrote; GroundupError if it is missing or damaged."""
        try:
            tensors = load_file(path)
            keys = [tensors[f"keys.{k}"] for k in range(sum(name.startswith("keys.") for name in tensors))]
            return cls(
                int(tensors["vocab_size"][0]),
                float(tensors["document_weight"][0]),
                keys,
                tensors["counts"],
                tensors["totals"],
                tensors["weights"],
            )
        except (OSError, SafetensorError, KeyError) as e:
            raise GroundupError(f"{path}: the counts of this run are missing or damaged; restore the file or start the run again") from e

    # ---- inside ----

    def _distinct(self) -> Int32[np.ndarray, " m1"]:
        """Different continuations of each node: its children in the trie; the last entry is the root's."""
        out = np.zeros(len(self.counts) + 1, np.int32)
        for k, keys in enumerate(self.keys):
            counted = self.counts[self.offsets[k] : self.offsets[k + 1]] > 0
            if k == 0:
                out[-1] = counted.sum()
            else:
                parents = keys[counted] // self.vocab_size + self.offsets[k - 1]
                out += np.bincount(parents, minlength=len(out)).astype(np.int32)
        return out

    def _find(self, wanted: list[np.ndarray]) -> Int64[np.ndarray, " m"]:
        """The node here of each node of another trie, -1 where there is none, level by level."""
        found: list[np.ndarray] = []
        parents = np.zeros(0, np.int64)
        for k, keys in enumerate(wanted):
            here = (
                keys
                if k == 0
                else np.where(
                    parents[keys // self.vocab_size] >= 0, parents[keys // self.vocab_size] * self.vocab_size + keys % self.vocab_size, -1
                )
            )
            place = np.searchsorted(self.keys[k], here)
            parents = np.where(np.append(self.keys[k], -2)[place] == here, place, -1)  # -2: past the last key, and no key
            found.append(np.where(parents >= 0, parents + self.offsets[k], -1))
        return np.concatenate(found)

    def _scan(
        self, nodes: np.ndarray, starts: np.ndarray, *, leave_out: bool, static: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        counts, totals, distinct = self.counts, self.totals, self.distinct
        if static is not None:
            counts, totals, distinct = (_gather(a, static) for a in (counts, totals, distinct))
        n = nodes.shape[1]
        log_p, features = np.zeros((n, N_EXPERTS), np.float32), np.zeros((n, N_FEATURES), np.float32)
        half = int(np.searchsorted(starts, n // 2))
        spans = [(a, b) for a, b in ((0, half), (half, len(starts) - 1)) if a < b]
        threads = [
            threading.Thread(
                target=scan,
                # each thread marks what it has seen in counts of its own
                args=(
                    nodes,
                    starts,
                    a,
                    b,
                    counts.copy(),
                    totals,
                    distinct,
                    self.discounts,
                    self.document_weight,
                    self.vocab_size,
                    leave_out,
                    log_p,
                    features,
                ),
            )
            for a, b in spans
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return log_p, features

    def bucket(self, features: Float32[np.ndarray, "n c"]) -> Int64[np.ndarray, " n"]:
        """A cell for each context: longest context known to the static counts, to the document, and how varied the document's was."""
        orders = len(self.keys)
        deep = np.rint(features[:, 0] * orders).astype(np.int64) * orders + np.rint(features[:, 3] * orders).astype(np.int64)
        varied = (features[:, 5] > 0.35).astype(np.int64) + (features[:, 5] > 0.8)
        return deep * 3 + varied

    def _fit_weights(self, scanned: tuple[np.ndarray, np.ndarray]) -> Float32[np.ndarray, "b k"]:
        """Mixture weights of each bucket by expectation maximization on left-out counts (Jelinek & Mercer 1980), smoothed."""
        log_p, features = scanned
        rows = np.linspace(0, len(log_p) - 1, min(EM_ROWS, len(log_p))).astype(np.int64)
        rows = rows[log_p[rows, 0] != 0]
        p, cells = np.exp(log_p[rows].astype(np.float64)), self.bucket(features[rows])
        weights = np.full((self._n_buckets, N_EXPERTS), 1 / N_EXPERTS)
        for _ in range(EM_ROUNDS):
            share = weights[cells] * p
            share /= share.sum(1, keepdims=True)
            mean = share.mean(0) if len(share) else weights[0]
            sums = np.stack([np.bincount(cells, share[:, k], minlength=len(weights)) for k in range(N_EXPERTS)], 1) + 10 * mean
            weights = sums / sums.sum(1, keepdims=True)
        return weights.astype(np.float32)

    def _table(self, scanned: tuple[np.ndarray, np.ndarray]) -> Table:
        log_p, features = scanned
        mixed = np.einsum("nk,nk->n", np.exp(log_p), self.weights[self.bucket(features)])
        return Table(log_p, features, -np.log(np.maximum(mixed, 1e-30)).astype(np.float32))


class Cursor:
    """Walks one document token by token and gives the experts' whole distributions: for generation."""

    def __init__(self, prior: NgramPrior):
        self.prior = prior
        self.tokens: list[int] = []
        self.past: list[dict[tuple[int, ...], dict[int, int]]] = [{} for _ in prior.keys]

    def push(self, token: int) -> None:
        """The document goes on with this token."""
        if self.tokens:  # the first, <|endoftext|>, is given and not counted
            for k in range(min(len(self.past), len(self.tokens) + 1)):
                seen = self.past[k].setdefault(tuple(self.tokens[len(self.tokens) - k :]), {})
                seen[token] = seen.get(token, 0) + 1
        self.tokens.append(token)

    def distribution(self) -> tuple[Float32[np.ndarray, "k v"], Float32[np.ndarray, " c"]]:
        """Each expert's distribution over the next token, and the features of the context: the same numbers that ``features`` gives."""
        prior, v = self.prior, self.prior.vocab_size
        static, joint = np.full(v, 1 / v), np.full(v, 1 / v)
        f = np.zeros(N_FEATURES)
        levels = list(self._levels())
        kinds_past = 0
        for k, (tokens, counts, past_tokens, past) in enumerate(levels):
            d, w = prior.discounts[k], prior.document_weight
            total, past_total = counts.sum(), past.sum()
            if total > 0:
                static *= d * len(tokens) / total
                static[tokens] += (counts - d) / total
                f[0], f[1], f[2] = k / len(prior.keys), np.log1p(total) / 8, len(tokens) / total
            if past_total > 0:
                kinds_past = len(past)
                f[3], f[4], f[5] = k / len(prior.keys), np.log1p(past_total) / 4, kinds_past / past_total
            if total + past_total > 0:
                joint *= d * (len(tokens) + w * len(past))
                joint[tokens] += counts - d
                joint[past_tokens] += w * (past - d)
                joint /= total + w * past_total
            if k in (1, 2):
                f[4 + 2 * k], f[5 + 2 * k] = np.log1p(total) / 8, len(tokens) / max(total, 1)
        own = joint.copy()
        for _, _, past_tokens, past in levels[1:]:
            if len(past):
                own *= 0.5 * len(past) / past.sum()
                own[past_tokens] += (past - 0.5) / past.sum()
        f[10] = np.log1p(len(self.tokens)) / 8
        f[11] = float(kinds_past == 1)
        return np.stack((static, joint, own)).astype(np.float32), f.astype(np.float32)

    def _levels(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """For each context length that the document allows: what followed it in training, how often; what followed it here, how often."""
        prior, v = self.prior, self.prior.vocab_size
        nothing = np.zeros(0, np.int64), np.zeros(0)
        for k in range(min(len(prior.keys), len(self.tokens) + 1)):
            context = tuple(self.tokens[len(self.tokens) - k :])
            seen = self.past[k].get(context)
            past = (np.fromiter(seen, np.int64, len(seen)), np.fromiter(seen.values(), np.float64, len(seen))) if seen else nothing
            node = self._node(context)
            if node < 0:
                yield *nothing, *past
                continue
            low, high = (0, len(prior.keys[0])) if k == 0 else np.searchsorted(prior.keys[k], (node * v, (node + 1) * v))
            counts = prior.counts[prior.offsets[k] + low : prior.offsets[k] + high]
            kept = counts > 0
            yield prior.keys[k][low:high][kept] % v, counts[kept].astype(np.float64), *past

    def _node(self, context: tuple[int, ...]) -> int:
        """The trie's node of these tokens on its level, -1 where training never saw them; 0 for none."""
        node = 0
        for depth, token in enumerate(context):
            keys = self.prior.keys[depth]
            key = token if depth == 0 else node * self.prior.vocab_size + token
            place = int(np.searchsorted(keys, key))
            if place == len(keys) or keys[place] != key:
                return -1
            node = place
        return node


def _trie(tokens: np.ndarray, starts: np.ndarray, n_orders: int, vocab_size: int) -> tuple[Int32[np.ndarray, "k n"], list[np.ndarray]]:
    """The number of the n-gram of k+1 tokens ending at each position, [K+1, N], -1 across a document's start; each level's sorted keys."""
    n = len(tokens)
    depth = np.arange(n) - np.repeat(starts[:-1], np.diff(starts))
    nodes, keys, offset = np.full((n_orders, n), -1, np.int32), [], 0
    local = np.zeros(0, np.int64)
    for k in range(n_orders):
        at = np.flatnonzero(depth >= k)
        key = tokens[at].astype(np.int64) if k == 0 else local[at - 1] * vocab_size + tokens[at]
        numbers, unsorted = number_keys(key)
        order = np.argsort(unsorted)
        unique, rank = unsorted[order], np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        local = np.full(n, -1, np.int64)
        local[at] = rank[numbers]
        nodes[k, at] = local[at] + offset
        keys.append(unique)
        offset += len(unique)
    return nodes, keys


def _gather(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Values at places (0 where there is none), with the root's, the last, kept last."""
    picked = np.where(places >= 0, values[np.maximum(places, 0)], 0)
    return np.append(picked, values[-1]).astype(np.int32)


def _discount(counts: np.ndarray) -> float:
    """n1 / (n1 + 2 n2), held to [0.1, 0.95] where there is too little to estimate it from."""
    n1, n2 = int((counts == 1).sum()), int((counts == 2).sum())
    return float(min(max(n1 / max(1, n1 + 2 * n2), 0.1), 0.95))
