"""N-gram models: a trie with a probability and a back-off weight at its nodes, under ``evaluate``'s protocols.

    p(w | h) = prob(h w)                      where h w was seen
             = backoff(h) p(w | h')           elsewhere; h' is h without its oldest token

which is what an ARPA file holds, and what every smoothing of ``smoothing`` comes down to but the additive one. A text's place is one
node, the longest context known: one search of its children gives the next token's probability and the next place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, UInt32

from groundup.account import usable_cores
from groundup.errors import UsageError
from groundup.evaluate.protocol import FromPredictor
from groundup.history.symbols import Bytes, Symbols
from groundup.kernels import trie

TOKENS_A_THREAD = 1 << 12
"""Tokens that are worth waking another thread for."""
NO_SCALE = np.zeros(0, np.float32)


@dataclass(frozen=True)
class NgramModel(FromPredictor):
    """A back-off model; see ``kernels.trie`` for the layout of its arrays. Over bytes unless other symbols are given."""

    name: str
    """What tables call it."""
    order: int
    """n: a token is predicted from at most n - 1 before it."""
    levels: tuple[int, ...]
    """Where the nodes of each length start, as in ``Counts``."""
    token: UInt32[np.ndarray, " m"]
    """Last token of each n-gram."""
    first: Int[np.ndarray, " l1"]
    """Where the children of each node shorter than n start."""
    suffix: Int[np.ndarray, " m"]
    """The node of the n-gram without its first token."""
    prob: Float32[np.ndarray, " m"]
    """p(last token | those before it)."""
    backoff: Float32[np.ndarray, " l"]
    """What p(w | shorter context) is multiplied by where the longer one never saw w."""
    begin: int
    """The begin symbol, whose probability is 0."""
    symbols: Symbols = field(default_factory=Bytes)
    """What the tokens stand for."""
    scale: Float32[np.ndarray, " s"] = field(default_factory=lambda: NO_SCALE)
    """For each context what its probabilities are multiplied by, to sum to one; empty where they do."""
    notes: tuple[str, ...] = ()
    """What was decided on the way: discounts, fallbacks."""
    context_length: int | None = None
    """Contexts of any length are read, for what they end in."""

    @property
    def vocab_size(self) -> int:
        """V, the begin symbol among them."""
        return self.levels[2] - 1

    @property
    def prefix(self) -> tuple[int, ...]:
        """The begin symbol."""
        return (self.begin,)

    @property
    def n_parameters(self) -> int:
        """Probabilities and back-off weights."""
        return len(self.prob) + len(self.backoff)

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """The symbols of a text."""
        return self.symbols.encode(text)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """The text of symbols."""
        return self.symbols.decode(tokens)

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Source bytes of each symbol."""
        return self.symbols.n_bytes(tokens)

    def start(self) -> NgramCursor:
        """A cursor before a text, with no context: push the prefix first."""
        return NgramCursor(self)

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``; -inf for the begin symbol."""
        arrays = self.token, self.first, self.suffix, self.prob, self.backoff, self.scale
        return over_texts(self, contexts, targets, np.float64, lambda text, starts, a, b, out: trie.score(text, starts, a, b, *arrays, out))

    def ranks(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Int64[np.ndarray, " _"]]:
        """As in ``Ranker``."""
        arrays = self.token, self.first, self.suffix, self.prob, self.backoff, self.scale

        def work(text: np.ndarray, starts: np.ndarray, begin: int, end: int, out: np.ndarray) -> None:
            trie.rank(text, starts, begin, end, *arrays, np.empty(self.vocab_size), out)

        return over_texts(self, contexts, targets, np.int64, work)

    def distribution(self, node: int) -> Float64[np.ndarray, " v"]:
        """Every symbol's probability after the context of a node."""
        p = np.empty(self.vocab_size)
        trie.distribution(node, self.token, self.first, self.suffix, self.prob, self.backoff, self.scale, p)
        return p


class NgramCursor:
    """A place in a text: the node of the longest context known there."""

    def __init__(self, model: NgramModel):
        self.model, self.node = model, 0

    def push(self, token: int) -> None:
        """The text goes on with this token."""
        if not 0 <= token < self.model.vocab_size:
            raise UsageError(f"{self.model.name}: token {token} is outside of its vocabulary of {self.model.vocab_size}")
        self.node = trie.advance(self.node, token, self.model.token, self.model.first, self.model.suffix)

    def probabilities(self) -> Float64[np.ndarray, " v"]:
        """Of the next token."""
        return self.model.distribution(self.node)


def over_texts(
    model: NgramModel,
    contexts: Sequence[Int64[np.ndarray, " _"]],
    targets: Sequence[Int64[np.ndarray, " _"]],
    dtype: type,
    work: Callable[[np.ndarray, np.ndarray, int, int, np.ndarray], None],
    *,
    reach: int | None = None,
    columns: tuple[int, ...] = (),
) -> list[np.ndarray]:
    """work(text, starts, begin, end, out) over texts begin .. end - 1 of all, on threads where worth it; what it made of the targets.

    A text is a target after the last ``reach`` tokens of its context, by default all that the model looks at; out is [N, *columns].
    """
    reach = model.order - 1 if reach is None else reach
    heads = [context[max(0, len(context) - reach) :] for context in contexts]
    parts = [part for pair in zip(heads, targets, strict=True) for part in pair]
    text = np.concatenate(parts).astype(np.uint32) if parts else np.zeros(0, np.uint32)
    if len(text) and text.max() >= model.vocab_size:
        raise UsageError(f"{model.name}: token {text.max()} is outside of its vocabulary of {model.vocab_size}")
    lengths = np.array([len(part) for part in parts], np.int64)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    starts, out = np.ascontiguousarray(edges[::2]), np.empty((len(text), *columns), dtype)
    n_threads = max(1, min(usable_cores(), len(targets), len(text) // TOKENS_A_THREAD))
    cuts = np.searchsorted(starts, np.arange(n_threads + 1) * len(text) // n_threads)
    cuts[0], cuts[-1] = 0, len(targets)
    if n_threads == 1:
        work(text, starts, 0, len(targets), out)
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda a, b: work(text, starts, int(a), int(b), out), cuts[:-1], cuts[1:]))
    return [out[a:b] for a, b in zip(edges[1::2], edges[2::2], strict=True)]
