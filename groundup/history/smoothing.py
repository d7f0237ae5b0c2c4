"""From counts to probabilities: Kneser-Ney, interpolated and modified; additive; stupid backoff, normalized; Jelinek-Mercer.

All but the additive one give a back-off model (``NgramModel``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64

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
