"""The prior: n-gram counts of the training text and of the document so far, as experts beside the network.

Counts learn in one pass over the text what a network needs many steps for; a network learns what counts never see. ``Decoder`` mixes them
by a gate that reads the network's hidden state and the features below: p(y) = g_0 p_net(y) + sum_j g_j p_j(y), so probabilities sum to one.

There are 1 + 2 K experts, unsmoothed: 1 / V, and for context lengths k = 0 .. K - 1 the plain frequencies

    static_k(y) = c(h_k y) / c(h_k)       counts of other documents
    own_k(y) = c'(h_k y) / c'(h_k)        counts of this document so far (a cache: Kuhn & De Mori 1990)

each falling back to the shorter context where its own was never seen. Smoothing is the gate's work: weights for every order from what is
known of the contexts, trained by gradient (Neubig & Dyer 2016), beat discounts and interpolation with one weight an order by far
(docs/lab.md). For every k >= 1 the gate sees both sources' log((c + 0.2) / (n - 0.6)), how predictable the context was, and log(1 + n), n
the number of different tokens that followed; and how far into the document it is.

In training, counts leave the whole document out (not only the token): held-out documents find no counts of themselves either. A context is
counted only if without its first token at least two tokens followed it: else the longer one could say nothing new. That is decided
after the document is left out, so its rows are those of tables built without it. Documents longer than ``PIECE`` tokens are cut for the
counts, so that memory is bounded.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float32, Int32, Int64
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from groundup.account import usable_cores
from groundup.config import PRIOR_GATE_WIDTH, Prior
from groundup.errors import GroundupError
from groundup.files import disk_errors, settle
from groundup.kernels import ngram

PIECE = 1 << 18
MAX_TOKENS = 1 << 25  # tokens counted, from the start of the text: about 2 GB of tables
CHUNK = 1 << 16  # rows of a table at work at a time


@runtime_checkable
class Text(Protocol):
    """What counting needs of a token store."""

    n_tokens: int
    document_starts: Int64[np.ndarray, " d1"]

    def slice(self, start: int, stop: int) -> Int64[np.ndarray, " n"]:
        """The tokens at these positions."""
        ...


@dataclass(frozen=True)
class Table:
    """What the counts say of every token of a store: row i is about predicting token i from those before it in its document."""

    log_p: Float16[np.ndarray, "n k"]
    """Natural log of the probability that each expert gave to the token that came; LOG_ZERO for none."""
    features: Float16[np.ndarray, "n c"]
    """What is known of the context before the token comes."""
    gate: CountsGate

    @cached_property
    def counts_nats(self) -> Float32[np.ndarray, " n"]:
        """Nats of each token under the counts alone. Computed when first asked for."""
        return self.gate.nats(self.log_p, self.features)

    @property
    def n_bytes(self) -> int:
        """Memory held."""
        return self.log_p.nbytes + self.features.nbytes


class CountsGate:
    """Mixes the experts without a network: softmax(W_m tanh(W_f features + b_f) + b_m), the weights of ``model.decoder.PriorGate``.

    Trained by Adam (Kingma & Ba 2015) on rows that leave their documents out, it is the counts-only model; a network's gate starts from it.
    """

    STEPS, ROWS, LEARNING_RATE = 600, 2048, 0.015

    def __init__(self, n_experts: int, n_features: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        bound = (3 / n_features) ** 0.5
        self.weights = {
            "features.weight": (2 * torch.rand(PRIOR_GATE_WIDTH, n_features, generator=generator) - 1) * bound,
            "features.bias": torch.zeros(PRIOR_GATE_WIDTH),
            "mix.weight": torch.zeros(n_experts, PRIOR_GATE_WIDTH),
            "mix.bias": torch.zeros(n_experts),
        }
        self.generator = generator

    def log_mixture(self, log_p: Float[Tensor, "n k"], features: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
        """Log-probability of each row's token."""
        w = self.weights
        inner = torch.tanh(torch.addmm(w["features.bias"], features, w["features.weight"].T))
        gate = torch.log_softmax(torch.addmm(w["mix.bias"], inner, w["mix.weight"].T), dim=1)
        return torch.logsumexp(gate + log_p, dim=1)

    def fit(self, log_p: Float16[np.ndarray, "n k"], features: Float16[np.ndarray, "n c"], rows: Int64[np.ndarray, " r"]) -> None:
        """Adam on random batches of these rows, the learning rate falling linearly from half-time on."""
        parameters = [p.requires_grad_() for p in self.weights.values()]
        tables, rows = [torch.from_numpy(a) for a in (log_p, features)], torch.from_numpy(rows)
        first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # work this small is done before a second thread wakes; waiting for it costs ten times the work
        try:
            for step in range(1, self.STEPS + 1):
                picked = rows[torch.randint(len(rows), (min(self.ROWS, len(rows)),), generator=self.generator)]
                loss = -self.log_mixture(*(a.index_select(0, picked).float() for a in tables)).mean()
                rate = self.LEARNING_RATE * min(1.0, 2 * (1 - step / self.STEPS) + 0.01)
                with torch.no_grad():
                    for p, g, m, v in zip(parameters, torch.autograd.grad(loss, parameters), first, second, strict=True):
                        m.lerp_(g, 0.1)
                        v.lerp_(g * g, 0.001)
                        p -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        finally:
            torch.set_num_threads(threads)
        self.weights = {name: p.detach() for name, p in self.weights.items()}

    @torch.no_grad()
    def nats(self, log_p: Float[np.ndarray, "n k"], features: Float[np.ndarray, "n c"]) -> Float32[np.ndarray, " n"]:
        """-log p of each row's token under the counts alone."""
        parts = [
            -self.log_mixture(*(torch.from_numpy(a[i : i + CHUNK]).float() for a in (log_p, features))).numpy()
            for i in range(0, len(log_p), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    @torch.no_grad()
    def start(self, gate: torch.nn.Module, network_logit: float = -1.0) -> None:
        """Sets a ``PriorGate`` to these weights and the network (column 0) to a constant logit: training begins with the counts."""
        w = self.weights
        gate.features.weight.copy_(w["features.weight"])
        gate.features.bias.copy_(w["features.bias"])
        gate.mix.weight[1:].copy_(w["mix.weight"])
        gate.mix.weight[0].zero_()
        gate.hidden.weight.zero_()
        gate.hidden.bias[1:].copy_(w["mix.bias"] - w["mix.bias"].mean())
        gate.hidden.bias[0] = network_logit


class NgramPrior:
    """Counts of every n-gram up to ``max_order`` tokens, and the experts that they make."""

    def __init__(self, vocab_size: int, n_orders: int, n_counted: int, nodes: Int32[np.ndarray, "m 5"]):
        """From a trie (see ``kernels.ngram``) of n-grams of 1 .. n_orders tokens, counted in a text's first n_counted tokens."""
        self.vocab_size, self.n_orders, self.n_counted = vocab_size, n_orders, n_counted
        self.nodes, self.slots = nodes, _slots(nodes, len(nodes), len(nodes))
        self.gate = CountsGate(self.n_experts, self.n_features)
        self._training: Table | None = None  # of the store that was counted, until it is asked for

    @property
    def n_experts(self) -> int:
        """1 / V and two for each context length."""
        return 1 + 2 * self.n_orders

    @property
    def n_features(self) -> int:
        """Four for each context length but the empty one, and the place in the document."""
        return 4 * (self.n_orders - 1) + 1

    @property
    def n_bytes(self) -> int:
        """Memory of the tables."""
        return self.slots.nbytes + self.nodes.nbytes

    @classmethod
    def build(cls, store: Text, vocab_size: int, config: Prior, *, max_tokens: int = MAX_TOKENS) -> NgramPrior:
        """Counts the documents of a store, the first max_tokens tokens of it, and trains the counts' own gate. Deterministic."""
        starts = pieces(store.document_starts)
        n_counted = int(starts[max(1, int(np.searchsorted(starts, max_tokens, side="right")) - 1)]) if len(starts) > 1 else 0
        text = store.slice(0, n_counted).astype(np.int32)
        opens = np.zeros(n_counted, np.bool_)
        opens[starts[starts < n_counted]] = True
        prior = cls(vocab_size, config.max_order, n_counted, _count(text, opens, config.max_order))
        prior._training = prior._scan(store, leave_out=True)
        given = np.zeros(n_counted, np.bool_)  # first tokens of documents: not predicted
        given[store.document_starts[store.document_starts < n_counted]] = True
        rows = np.flatnonzero(~given)
        if len(rows):
            prior.gate.fit(prior._training.log_p, prior._training.features, rows)
        return prior

    def training_features(self, store: Text) -> Table:
        """The table of the store that was counted, each document's own counts left out."""
        table, self._training = self._training or self._scan(store, leave_out=True), None
        return table

    def features(self, store: Text) -> Table:
        """The table of a held-out store: static counts as they are, the document's own from its start."""
        return self._scan(store, leave_out=False)

    def start(self) -> Cursor:
        """A cursor at the start of a document: push ``<|endoftext|>`` first."""
        return Cursor(self)

    def save(self, path: Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        tensors = {f"gate.{name}": w.numpy() for name, w in self.gate.weights.items()}
        tensors["nodes"] = self.nodes
        tensors["sizes"] = np.array([self.vocab_size, self.n_orders, self.n_counted])
        partial = path.with_name(path.name + ".partial")
        with disk_errors(path):
            save_file(tensors, partial)
            settle(partial, path)

    @classmethod
    def load(cls, path: Path) -> NgramPrior:
        """Reads what ``save`` wrote; GroundupError if it is missing or damaged."""
        try:
            tensors = load_file(path)
            prior = cls(*tensors["sizes"].tolist(), tensors["nodes"])
            prior.gate.weights = {name: torch.from_numpy(tensors[f"gate.{name}"]) for name in prior.gate.weights}
        except (OSError, SafetensorError, KeyError) as e:
            raise GroundupError(f"{path}: the counts of this run are missing or damaged; restore the file or start the run again") from e
        return prior

    def _scan(self, store: Text, *, leave_out: bool, n_threads: int | None = None) -> Table:
        starts = pieces(store.document_starts)
        log_p = np.empty((store.n_tokens, self.n_experts), np.float16)
        features = np.empty((store.n_tokens, self.n_features), np.float16)

        def work(piece: int) -> None:
            begin, end = int(starts[piece]), int(starts[piece + 1])
            text = store.slice(begin, end).astype(np.int32)
            rows = np.empty((len(text), self.n_experts), np.float32), np.empty((len(text), self.n_features), np.float32)
            paths, own = _empty_trail(len(text), self.n_orders)
            room = np.zeros((2, 2, self.n_orders), np.int32)
            left_out = leave_out and end <= self.n_counted
            ngram.scan(
                text, self.n_orders, self.slots, self.nodes, left_out, self.vocab_size, paths, _slots(own, 1, len(own)), own, *room, *rows
            )
            for whole, part in zip((log_p, features), rows, strict=True):
                torch.from_numpy(whole)[begin:end] = torch.from_numpy(part)  # many times as fast as numpy to half precision

        with ThreadPoolExecutor(n_threads or usable_cores()) as pool:
            list(pool.map(work, np.argsort(-np.diff(starts), kind="stable").tolist()))  # longest first: no thread ends alone
        return Table(log_p, features, self.gate)


class Cursor:
    """Walks one document token by token and gives the experts' whole distributions: for generation."""

    def __init__(self, prior: NgramPrior):
        self.prior = prior
        self._begin()

    def push(self, token: int) -> None:
        """The document goes on with this token."""
        if self.length == PIECE:
            self._begin()
        prior = self.prior
        if self.length == len(self.text):
            self._grow(2 * self.length)
        self.text[self.length] = token
        trail = self.paths, self.own_slots, self.own, self.n
        self.n = ngram.push(self.text, self.length, prior.n_orders, *trail, prior.slots, prior.nodes)
        self.length += 1

    def distribution(self) -> tuple[Float32[np.ndarray, "k v"], Float32[np.ndarray, " c"]]:
        """Each expert's distribution over the next token, and the features of the context: the same numbers that ``features`` gives."""
        prior = self.prior
        log_p, features = np.empty((prior.vocab_size, prior.n_experts), np.float32), np.empty(prior.n_features, np.float32)
        room = np.zeros((2, 2, prior.n_orders), np.int32)
        trail = self.paths, self.own_slots, self.own
        ngram.distribution(self.length, prior.n_orders, prior.slots, prior.nodes, *trail, *room, log_p, features)
        return np.exp(log_p).T.copy(), features

    def _begin(self) -> None:
        self.length, self.n, self.text = 0, 1, np.zeros(0, np.int32)
        self.paths, self.own = _empty_trail(0, self.prior.n_orders)
        ngram.begin(self.own, self.prior.nodes)
        self._grow(256)

    def _grow(self, length: int) -> None:
        self.text, self.paths = _grown(self.text, length), _grown(self.paths, length)
        self.own = _grown(self.own, length * self.prior.n_orders + 1)
        self.own_slots = _slots(self.own, self.n, len(self.own))


def pieces(document_starts: Int64[np.ndarray, " d1"]) -> Int64[np.ndarray, " p1"]:
    """Where the counts' documents start: those of the store, the long ones cut every PIECE tokens; the last entry is the end."""
    inside = [np.arange(a, b, PIECE) for a, b in pairwise(document_starts.tolist())]
    return np.concatenate([*inside, document_starts[-1:]]).astype(np.int64)


def _count(text: Int32[np.ndarray, " n"], opens: Bool[np.ndarray, " n"], n_orders: int) -> Int32[np.ndarray, "m 5"]:
    """The trie of n-grams of 1 .. n_orders tokens."""
    nodes, slots, n = np.zeros((1, ngram.STATIC_COLUMNS), np.int32), np.zeros(2, np.int32), 1
    shorter, context = np.zeros_like(text), np.zeros_like(text)
    for k in range(n_orders):
        new = len(text) if k < 2 else int(((context > 0) & (nodes[shorter, ngram.TOTAL] >= ngram.SPARSE)).sum())
        nodes = _grown(nodes, n + new)
        if 3 * (n + new) > 2 * len(slots):
            slots = _slots(nodes, n, n + new)
        out = np.empty_like(text)
        n = ngram.count_order(text, opens, k, shorter, context, slots, nodes, n, out)
        shorter, context = context, out
    return nodes[:n].copy()


def _slots(nodes: Int32[np.ndarray, "m c"], n: int, capacity: int) -> Int32[np.ndarray, " s"]:
    """The table that finds nodes 1 .. n - 1, at most two thirds full with ``capacity`` nodes."""
    slots = np.zeros(1 << int(np.ceil(np.log2(1.5 * capacity + 1))), np.int32)
    ngram.fill_slots(slots, nodes, n)
    return slots


def _empty_trail(length: int, n_orders: int) -> tuple[Int32[np.ndarray, "n k1"], Int32[np.ndarray, "m 9"]]:
    """What a walk over ``length`` tokens fills: its paths, and the nodes of the document's own trie."""
    return np.zeros((length, n_orders + 1), np.int32), np.zeros((length * n_orders + 1, ngram.LOCAL_COLUMNS), np.int32)


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    """The array with zeros up to this length."""
    out = np.zeros((max(size, len(array)), *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out
