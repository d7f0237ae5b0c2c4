"""The unbounded n-gram: the longest end of the context that the text has anywhere, whatever its length, and what followed it there.

Liu et al. 2024 ("Infini-gram") estimate p_inf(w | h) = c(h* w) / c(h*), where h* is the longest end of h that was seen, found in a suffix
array of the text. That is no model to be scored by, for it gives 0 to all that did not follow; so it is mixed with Kneser-Ney of order n,

    p(w | h) = (1 - l_b) p_KN(w | h) + l_b p_inf(w | h),        l_b = 0 where h* is shorter than n

with a weight for each kind b of match: its length, how many tokens followed it, and whether they were all alike. The weights are fitted by
EM (Jelinek and Mercer 1980) on a tenth of the text, with both models made from the rest, and kept for both made from all of it.

Memory: 12 bytes a token to keep, 30 while the suffix array is made, and the trie of the Kneser-Ney model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64, Integer, UInt32

from groundup import ahead
from groundup.errors import UsageError
from groundup.evaluate.protocol import FromPredictor
from groundup.history.counts import count, index_type
from groundup.history.ngram import NgramCursor, NgramModel, over_texts
from groundup.history.smoothing import kneser_ney, with_begin
from groundup.history.symbols import Bytes, Symbols
from groundup.kernels.suffix_array import longest_match, match_texts, suffix_array

SUFFIXES = "groundup.kernels.suffix_array"
"""Its loops may be compiled ahead (see ``groundup.ahead``)."""
LONGEST = 256
"""Most tokens of a context that are looked for."""
FIT_SHARE = 0.1
"""The share of the text that the weights are fitted on."""
FIT_TOKENS = 1 << 20
"""Most tokens that they are fitted on."""
LENGTHS = np.array([0, 1, 2, 4, 8, 16, 32, 64])
"""Lengths beyond the shortest match from which a new kind of match counts."""
FOLLOWERS = np.array([1, 2, 4, 16])
"""The same for how many tokens followed."""
N_KINDS = len(LENGTHS) * len(FOLLOWERS) * 2


@dataclass(frozen=True)
class Memory:
    """A text in a suffix array of its reversal, so that what ends alike stands together."""

    stored: Int[np.ndarray, " n"]
    """The tokens, last first, a begin symbol before each document."""
    order: Int[np.ndarray, " n"]
    """Its suffix array."""
    followers: UInt32[np.ndarray, " n"]
    """The token that followed each row's match; the begin symbol stands for none."""
    begin: int
    """The begin symbol."""

    @classmethod
    def of(cls, documents: Sequence[Integer[np.ndarray, " _"]], vocab_size: int, begin: int) -> Memory:
        """Stores documents."""
        text, _ = with_begin(documents, begin)
        n = len(text)
        text = text.astype(index_type(n + vocab_size))
        stored = np.ascontiguousarray(text[::-1])
        order = suffix_array(stored, vocab_size)
        followers = np.append(text[1:], begin)[n - 1 - order].astype(np.uint32)
        return cls(stored, order, followers, begin)


@dataclass(frozen=True)
class UnboundedModel(FromPredictor):
    """The mixture, under ``evaluate``'s protocols."""

    name: str
    """What tables call it."""
    base: NgramModel
    """Kneser-Ney of order n, for what has no long match."""
    memory: Memory
    """The text."""
    weights: Float64[np.ndarray, " kinds"]
    """l_b: how far each kind of match is trusted."""
    context_length: int | None = None
    """Contexts of any length are read; the last LONGEST tokens count."""

    @property
    def vocab_size(self) -> int:
        """V, the begin symbol among them."""
        return self.base.vocab_size

    @property
    def prefix(self) -> tuple[int, ...]:
        """The begin symbol."""
        return self.base.prefix

    @property
    def n_parameters(self) -> int:
        """Of the Kneser-Ney model, the tokens stored, and the weights."""
        return self.base.n_parameters + len(self.memory.stored) + len(self.weights)

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """The symbols of a text."""
        return self.base.encode(text)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """The text of symbols."""
        return self.base.decode(tokens)

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Source bytes of each symbol."""
        return self.base.n_bytes(tokens)

    def start(self) -> UnboundedCursor:
        """A cursor before a text, with no context: push the prefix first."""
        return UnboundedCursor(self)

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``; -inf for the begin symbol."""
        base = self.base.log_probs(contexts, targets)
        found = matches(self.memory, self.base, contexts, targets)
        out = []
        for log_p, match in zip(base, found, strict=True):
            weight = self._weights_of(match)
            with np.errstate(divide="ignore"):
                out.append(np.log((1 - weight) * np.exp(log_p) + weight * match[:, 2] / np.maximum(1, match[:, 1])))
        return out

    def _weights_of(self, match: Int64[np.ndarray, "n 4"]) -> Float64[np.ndarray, " n"]:
        return np.where(match[:, 1] > 0, self.weights[kinds(match, self.base.order)], 0.0)


class UnboundedCursor:
    """A place in a text: that of the Kneser-Ney model, and the tokens that a match is looked for."""

    def __init__(self, model: UnboundedModel):
        self.model, self.base = model, NgramCursor(model.base)
        self.tokens = np.zeros(2 * LONGEST, np.uint32)
        self.length = 0

    def push(self, token: int) -> None:
        """The text goes on with this token."""
        self.base.push(token)
        if self.length == len(self.tokens):
            self.tokens[:LONGEST] = self.tokens[LONGEST:]
            self.length = LONGEST
        self.tokens[self.length] = token
        self.length += 1

    def probabilities(self) -> Float64[np.ndarray, " v"]:
        """Of the next token."""
        p = self.base.probabilities()
        model, memory = self.model, self.model.memory
        since = max(0, self.length - LONGEST)
        if self.length - since < model.base.order:
            return p
        length, low, high = longest_match(memory.stored, memory.order, self.tokens, since, self.length)
        followers = memory.followers[low:high]
        followers = followers[followers != memory.begin]
        if length < model.base.order or not len(followers):
            return p
        match = np.array([[length, len(followers), 0, (followers == followers[0]).all()]], np.int64)
        weight = float(model._weights_of(match)[0])
        tokens, n = np.unique(followers, return_counts=True)
        p *= 1 - weight
        p[tokens] += weight * n / len(followers)
        return p


def matches(
    memory: Memory, base: NgramModel, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
) -> list[Int64[np.ndarray, "_ 4"]]:
    """For every target: the length of the longest match before it (0: none of ``base.order`` tokens), how many tokens followed that match,
    how many of them were the target, and whether they were all alike."""

    def work(text: np.ndarray, starts: np.ndarray, begin: int, end: int, out: np.ndarray) -> None:
        match_texts(memory.stored, memory.order, memory.followers, memory.begin, text, starts, begin, end, base.order, LONGEST, out)

    return over_texts(base, contexts, targets, np.int64, work, reach=LONGEST, columns=(4,))


def kinds(match: Int64[np.ndarray, "n 4"], shortest: int) -> Int64[np.ndarray, " n"]:
    """The kind of each match: 0 .. N_KINDS - 1."""
    length = np.searchsorted(LENGTHS, match[:, 0] - shortest, side="right").clip(1) - 1
    followers = np.searchsorted(FOLLOWERS, match[:, 1], side="right").clip(1) - 1
    return (length * len(FOLLOWERS) + followers) * 2 + match[:, 3]


def fit_weights(
    match: Int64[np.ndarray, "n 4"], base_log_p: Float64[np.ndarray, " n"], shortest: int, rounds: int = 50
) -> Float64[np.ndarray, " kinds"]:
    """The weights under which the mixture is likeliest, by EM; a kind is worth two tokens more, one for each side, so none is certain."""
    known = match[:, 1] > 0
    kind = kinds(match[known], shortest)
    p_memory, p_base = match[known, 2] / match[known, 1], np.exp(base_log_p[known])
    n, weights = np.bincount(kind, minlength=N_KINDS), np.full(N_KINDS, 0.5)
    for _ in range(rounds):
        mine = weights[kind] * p_memory
        share = mine / (mine + (1 - weights[kind]) * p_base)
        weights = (np.bincount(kind, share, minlength=N_KINDS) + 1) / (n + 2)
    return weights


def unbounded(
    documents: Sequence[Integer[np.ndarray, " _"]],
    *,
    order: int,
    vocab_size: int,
    begin: int,
    symbols: Symbols | None = None,
    name: str = "unbounded n-gram",
    report: Callable[[str], None] = lambda line: None,
) -> UnboundedModel:
    """Makes the mixture from documents (see the head of this file); ``order`` is that of the Kneser-Ney model.

    Raises UsageError for fewer than 100 tokens, of which no tenth can be spared.
    """
    symbols = symbols or Bytes()
    n_tokens = sum(map(len, documents))
    if n_tokens < 100:
        raise UsageError(f"an unbounded n-gram needs 100 tokens to fit its weights on a tenth of them, here are {n_tokens}: give more text")

    def made_of(documents: Sequence[np.ndarray]) -> tuple[NgramModel, Memory]:
        report("counting")
        base = kneser_ney(count(documents, order=order, vocab_size=vocab_size, begin=begin), symbols=symbols)
        report("sorting suffixes")
        ahead.wait_for(SUFFIXES)
        return base, Memory.of(documents, vocab_size, begin)

    kept, spared = _cut(documents, n_tokens - min(FIT_TOKENS, int(FIT_SHARE * n_tokens)))
    base, memory = made_of(kept)
    contexts = [np.array([begin])] * len(spared)
    match = np.concatenate(matches(memory, base, contexts, spared))
    weights = fit_weights(match, np.concatenate(base.log_probs(contexts, spared)), order)
    del base, memory
    return UnboundedModel(name, *made_of(documents), weights)


def _cut(documents: Sequence[np.ndarray], at: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The first ``at`` tokens, and the rest."""
    before, after = [], []
    for document in documents:
        before.append(document[: max(0, at)])
        after.append(document[max(0, at) :].astype(np.int64))
        at -= len(document)
    return [d for d in before if len(d)], [d for d in after if len(d)]
