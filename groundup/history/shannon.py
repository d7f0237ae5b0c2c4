"""Shannon's measures of a language: entropies of n-grams (1948; for English 1951), and the bounds that a guessing game sets.

    F_0 = log2 V,    F_N = - sum p(b, w) log2 p(w | b)    over blocks b of N - 1 symbols and the next symbol w

F_N falls with N towards the entropy of the language. Here p are plain frequencies (the plug-in estimate): those of long blocks were seen
too seldom, and F_N then comes out too low (Miller 1955), down to 0 where no block comes twice. It says what a text is like, not what a
model would need for another one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Integer

from groundup.errors import UsageError
from groundup.history.counts import Counts, count

LETTERS = "abcdefghijklmnopqrstuvwxyz "
"""Shannon's 27 symbols."""
ENGLISH_1951 = (4.76, 4.03, 3.32, 3.1)
"""F_0 .. F_3 of English in 27 letters (Shannon 1951, section 2)."""
HUMAN_1951 = (0.6, 1.3)
"""Bounds of the entropy of a letter of English from what a person guessed after 100 letters (Shannon 1951, Table I)."""


class Bounds(NamedTuple):
    """What a symbol's entropy lies between, in bits."""

    lower: float
    upper: float


def to_letters(text: str | bytes) -> Int64[np.ndarray, " n"]:
    """A text in 27 symbols: letters without case and accents are 0 .. 25, any run of others is one space, 26."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    codes = np.frombuffer(plain.encode("utf-32-le"), np.uint32).astype(np.int64) - ord("a")
    codes[(codes < 0) | (codes > 25)] = 26
    keep = np.ones(len(codes), np.bool_)
    keep[1:] = (codes[1:] < 26) | (codes[:-1] < 26)
    return codes[keep]


def from_letters(symbols: Integer[np.ndarray, " n"]) -> str:
    """The text of 27 symbols."""
    return "".join(LETTERS[i] for i in symbols.tolist())


def entropies(documents: Sequence[Integer[np.ndarray, " _"]], *, n_symbols: int, longest: int) -> Float64[np.ndarray, " f"]:
    """F_0 .. F_longest of symbols 0 .. n_symbols - 1, in bits. Blocks do not go beyond a document. UsageError where there are none."""
    if longest == 0:
        return np.array([np.log2(n_symbols)])
    counts = count(documents, order=longest, vocab_size=n_symbols + 1, begin=n_symbols)
    return np.array([np.log2(n_symbols), *(_conditional_entropy(counts, k) for k in range(1, longest + 1))])


def _conditional_entropy(counts: Counts, k: int) -> float:
    """F_k from counts of n-grams of k symbols, those with the begin symbol left out."""
    low, high = counts.levels[k - 1], counts.levels[k]
    parents = np.repeat(np.arange(low, high), np.diff(counts.first[low : high + 1])) - low
    c = counts.count[counts.levels[k] : counts.levels[k + 1]].astype(np.float64)
    begin, end = counts.starting(k)
    c[begin - counts.levels[k] : end - counts.levels[k]] = 0
    totals = np.bincount(parents, c, minlength=high - low)
    seen = c > 0
    if not seen.any():
        raise UsageError(f"no document has {k} symbols, so there are no blocks of so many to count: give longer text")
    return float(c[seen] @ np.log2(totals[parents[seen]] / c[seen]) / c.sum())


def bounds(ranks: Integer[np.ndarray, " n"]) -> Bounds:
    """What guesses say of the entropy of a symbol; ranks are the wrong guesses before each right one: 0 where the first was right.

    With q_i the share of symbols that took i guesses (Shannon 1951, equation 17):

        sum_i i (q_i - q_{i+1}) log2 i   <=   H   <=   - sum_i q_i log2 q_i

    The upper bound holds for any guesser that decides by what came before, and for the q of an unlimited text (a short one's comes out too
    low); the lower one only for one who always tries the likeliest symbol first, whose q never rises: so q is put in falling order for it,
    which mends the noise of few guesses. UsageError without guesses.
    """
    if not len(ranks):
        raise UsageError("no symbol was guessed, so nothing bounds the entropy")
    return bounds_of_shares(np.bincount(ranks) / len(ranks))


def bounds_of_shares(q: Float64[np.ndarray, " m"]) -> Bounds:
    """The same from the shares q_1, q_2, ... of symbols that took 1, 2, ... guesses."""
    falling, i = np.sort(q)[::-1], np.arange(1, len(q) + 1)
    lower = float((i * (falling - np.append(falling[1:], 0)) * np.log2(i)).sum())
    seen = q[q > 0]
    return Bounds(lower, float(-(seen @ np.log2(seen))) + 0.0)
