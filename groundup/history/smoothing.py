"""From counts to probabilities: additive; Jelinek-Mercer; Kneser-Ney, interpolated and modified; stupid backoff, normalized.

Each is a back-off model: a probability for every n-gram seen, and for every context the weight of the shorter one (see ``ngram``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int, Int64, Integer, UInt32

from groundup.errors import UsageError
from groundup.history.counts import Counts
from groundup.history.ngram import NgramModel
from groundup.history.symbols import Bytes, Symbols
from groundup.kernels import trie

FALLBACK = (0.0, 0.5, 1.0, 1.5)
"""Discounts of counts 0, 1, 2, 3 and more where not even one can be estimated: those of ``lmplz --discount_fallback``."""


@dataclass(frozen=True)
class Discounts:
    """What is taken off the counts of one length."""

    amounts: tuple[float, float, float, float]
    """From counts of 0, 1, 2, and 3 or more."""
    kind: Literal["modified", "single", "fallback"]
    """How they were had: by count, one for all counts, or not from the text."""
    n: tuple[int, int, int, int]
    """How many n-grams have (adjusted) counts of 1, 2, 3, 4."""


def discounts_of(counts: Int[np.ndarray, " m"], *, modified: bool = True) -> Discounts:
    """D_j = j - (j + 1) Y n_{j+1} / n_j for j = 1, 2, 3+, with Y = n_1 / (n_1 + 2 n_2) (Chen and Goodman 1998, equation 26).

    Small or character-level text has no n-gram of some small count, or gives a D_j outside of [0, j]. Then, as without ``modified``, one
    discount D = Y serves all counts (Ney, Essen and Kneser 1994); and where n_1 or n_2 is 0, so that Y is 0 or 1, FALLBACK.
    """
    n = tuple(int(c) for c in np.bincount(counts[(counts > 0) & (counts < 5)], minlength=5)[1:5])
    if not (n[0] and n[1]):
        return Discounts(FALLBACK, "fallback", n)
    y = n[0] / (n[0] + 2 * n[1])
    if modified and n[2]:
        amounts = [j - (j + 1) * y * n[j] / n[j - 1] for j in (1, 2, 3)]
        if all(0 <= d <= j for j, d in enumerate(amounts, 1)):
            return Discounts((0.0, *amounts), "modified", n)
    return Discounts((0.0, y, y, y), "single", n)


def kneser_ney(
    counts: Counts, *, discounts: Literal["modified", "single"] = "modified", symbols: Symbols | None = None, name: str | None = None
) -> NgramModel:
    """Interpolated Kneser-Ney smoothing (Kneser and Ney 1995), modified as by Chen and Goodman (1998) or with one discount a length.

    p(w | h) = max(a(h w) - D, 0) / a(h) + gamma(h) p(w | h'), where a are the adjusted counts (``Counts.adjusted``), a(h) their sum over w
    and gamma(h) what the discounts took; single tokens are interpolated with 1 / V, the begin symbol not counted in V. These are lmplz's
    conventions (Heafield et al. 2013), so unseen tokens, ``<unk>`` among them, get gamma / V. The model's notes say which discounts were
    taken, and where the closed form failed.
    """
    adjusted = counts.adjusted()
    found = [
        discounts_of(adjusted[a:b], modified=discounts == "modified") for a, b in zip(counts.levels[1:], counts.levels[2:], strict=False)
    ]
    prob, backoff = _room(counts)
    for k in range(counts.order):
        amounts = np.array(found[k].amounts)
        trie.interpolate(counts.levels[k], counts.levels[k + 1], counts.first, counts.suffix, adjusted, amounts, prob, backoff)
        if k == 0:
            prob[1 + counts.begin] = 0
    notes = tuple(_note(k, d, discounts) for k, d in enumerate(found, 1))
    return _model(
        counts, prob, backoff, symbols, name or f"{'modified ' * (discounts == 'modified')}Kneser-Ney, order {counts.order}", notes
    )


def _note(k: int, d: Discounts, asked: str) -> str:
    amounts = ", ".join(f"{a:.4g}" for a in d.amounts[1:])
    why = "" if d.kind == asked else f": {d.kind}, for n-grams seen 1, 2, 3, 4 times number {', '.join(map(str, d.n))}"
    return f"{k}-grams: discounts {amounts}{why}"


def stupid_backoff(counts: Counts, *, alpha: float = 0.4, symbols: Symbols | None = None, name: str | None = None) -> NgramModel:
    """S(w | h) = c(h w) / c(h) where seen, else alpha S(w | h') (Brants et al. 2007), divided by its sum over w.

    S itself is no distribution and has no bits; its sum Z(h) follows from that of h', since only what followed h differs. Single tokens
    are (c + 1) / (N + V), for S would rule unseen ones out.
    """
    _require_positive("alpha", alpha)
    c = counts.predicted()
    prob, backoff = _room(counts)
    totals = _totals(counts, c)
    v = counts.vocab_size - 1
    prob[1 : counts.levels[2]] = (c[1 : counts.levels[2]] + 1) / (totals[0] + v)
    prob[1 + counts.begin] = 0
    scale = np.ones(len(backoff))  # Z, until the end
    for k in range(1, counts.order):
        low, high, end = counts.levels[k : k + 3]
        parents = np.repeat(np.arange(low, high), np.diff(counts.first[low : high + 1]))
        prob[high:end] = c[high:end] / totals[parents]
        known = np.bincount(parents - low, prob[counts.suffix[high:end]].astype(np.float64), minlength=high - low)
        seen = totals[low:high] > 0
        backoff[low:high] = np.where(seen, alpha, 1)
        longer = scale[counts.suffix[low:high]]
        scale[low:high] = np.where(seen, 1 + alpha * (longer - known), longer)
    return _model(
        counts,
        prob,
        backoff,
        symbols,
        name or f"stupid backoff, order {counts.order}",
        (f"alpha {alpha:g}",),
        (1 / scale).astype(np.float32),
    )


def additive(counts: Counts, *, delta: float = 1.0, symbols: Symbols | None = None, name: str | None = None) -> NgramModel:
    """p(w | h) = (c(h w) + delta) / (c(h) + delta V), h the last n - 1 tokens: Laplace's rule at delta 1, Lidstone's below.

    As a back-off model: a full context backs off to 1 / V with weight delta V / (c(h) + delta V), and so does what is shorter, unless it
    is the beginning of a document, which is all there is.
    """
    _require_positive("delta", delta)
    c, v = counts.predicted(), counts.vocab_size - 1
    totals = _totals(counts, c)
    prob, backoff = _room(counts)
    prob[:] = 1 / v
    full = [(0, 1)] if counts.order == 1 else [counts.levels[counts.order - 1 : counts.order + 1]]
    for low, high in (*full, *(counts.starting(k) for k in range(1, counts.order - 1))):
        begin, end = counts.first[low], counts.first[high]
        parents = np.repeat(np.arange(low, high), np.diff(counts.first[low : high + 1]))
        prob[begin:end] = (c[begin:end] + delta) / (totals[parents] + delta * v)
        backoff[low:high] = delta * v / (totals[low:high] + delta * v)
    prob[1 + counts.begin] = 0
    return _model(counts, prob, backoff, symbols, name or f"additive, order {counts.order}", (f"delta {delta:g}",))


def jelinek_mercer(
    counts: Counts,
    held_out: Sequence[Integer[np.ndarray, " _"]],
    *,
    symbols: Symbols | None = None,
    name: str | None = None,
    rounds: int = 30,
) -> NgramModel:
    """p(w | h) = (1 - l) c(h w) / c(h) + l p(w | h'), the interpolation of Jelinek and Mercer 1980, and 1 / V below single tokens.

    There is one weight l for each length of context and each size of c(h), in powers of two (Bahl, Jelinek and Mercer 1983), fitted by EM
    on held-out documents, from the shortest contexts up. A size that the held-out text never met has 1 / 2.
    """
    c = counts.predicted()
    totals = _totals(counts, c)
    prob, backoff = _room(counts)
    text, starts = with_begin(held_out, counts.begin)
    seen = np.zeros((len(text), counts.order, 2), np.int64)
    trie.evidence(text, starts, counts.token, counts.first, counts.suffix, c, totals, counts.order, seen)
    seen = seen[text != counts.begin]
    shorter = np.full(len(seen), 1 / (counts.vocab_size - 1))
    for k in range(counts.order):
        low, high = counts.levels[k], counts.levels[k + 1]
        weights, shorter = _fit_level(seen[:, k, 0], seen[:, k, 1], shorter, rounds)
        backoff[low:high] = np.where(totals[low:high] > 0, weights[_size(totals[low:high])], 1)
        begin, end = counts.first[low], counts.first[high]
        parents = np.repeat(np.arange(low, high), np.diff(counts.first[low : high + 1]))
        weight = backoff[parents].astype(np.float64)
        prob[begin:end] = (1 - weight) * c[begin:end] / np.maximum(1, totals[parents]) + weight * prob[counts.suffix[begin:end]]
        prob[1 + counts.begin] = 0
    return _model(counts, prob, backoff, symbols, name or f"Jelinek-Mercer, order {counts.order}", ())


def _fit_level(
    c: Int64[np.ndarray, " n"], totals: Int64[np.ndarray, " n"], shorter: Float64[np.ndarray, " n"], rounds: int
) -> tuple[Float64[np.ndarray, " sizes"], Float64[np.ndarray, " n"]]:
    """The weight of the shorter context for each size of context, and each token's probability under the mixture."""
    size, longer, known = _size(totals), c / np.maximum(1, totals), totals > 0
    n, weights = np.bincount(size[known], minlength=64), np.full(64, 0.5)
    for _ in range(rounds):
        mine = weights[size] * shorter
        share = mine / (mine + (1 - weights[size]) * longer)
        weights = (np.bincount(size[known], share[known], minlength=64) + 1) / (n + 2)
    weight = np.where(known, weights[size], 1)
    return weights, weight * shorter + (1 - weight) * longer


def _size(totals: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    return np.log2(np.maximum(1, totals)).astype(np.int64)


def with_begin(documents: Sequence[Integer[np.ndarray, " _"]], begin: int) -> tuple[UInt32[np.ndarray, " n"], Int64[np.ndarray, " d1"]]:
    """Documents end to end, a begin symbol before each, and where they start."""
    parts = [part for document in documents for part in (np.array([begin]), document)]
    if sum(map(len, documents)) == 0:
        raise UsageError(
            "the weights of an interpolation are fitted on held-out text, and there is none: give documents that are not empty"
        )
    return np.concatenate(parts).astype(np.uint32), np.cumsum([0, *(len(document) + 1 for document in documents)])


def _totals(counts: Counts, c: Int[np.ndarray, " m"]) -> Int64[np.ndarray, " l"]:
    """How many tokens followed each context."""
    before = np.concatenate([[0], np.cumsum(c, dtype=np.int64)])
    return before[counts.first[1:]] - before[counts.first[:-1]]


def _room(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    prob, backoff = np.zeros(len(counts.token), np.float32), np.ones(len(counts.first) - 1, np.float32)
    prob[0] = 1 / (counts.vocab_size - 1)  # what the empty context backs off to
    return prob, backoff


def _model(
    counts: Counts,
    prob: np.ndarray,
    backoff: np.ndarray,
    symbols: Symbols | None,
    name: str,
    notes: tuple[str, ...],
    scale: np.ndarray | None = None,
) -> NgramModel:
    symbols = symbols or Bytes()
    if symbols.vocab_size != counts.vocab_size or symbols.begin != counts.begin:
        raise UsageError(
            f"the counts are of {counts.vocab_size} symbols, {type(symbols).__name__} has {symbols.vocab_size}: count what it encodes"
        )
    extra = {} if scale is None else {"scale": scale}
    return NgramModel(
        name,
        counts.order,
        counts.levels,
        counts.token,
        counts.first,
        counts.suffix,
        prob,
        backoff,
        counts.begin,
        symbols,
        notes=notes,
        **extra,
    )


def _require_positive(what: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UsageError(f"{what} {value} smooths nothing: give a positive number")
