"""The counting stops of the road: n-grams of bytes, over as much of the text as their seconds hold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from groundup.history.counts import Counts, count
from groundup.history.ngram import NgramModel
from groundup.history.smoothing import additive, jelinek_mercer, kneser_ney, stupid_backoff
from groundup.history.study import Built, Stop, Tell, Text
from groundup.history.suffix import unbounded
from groundup.history.symbols import Bytes

T = TypeVar("T")
ORDER = 6
"""Of the n-grams of 1995 and later, in bytes: about a word and the space before it."""
PROBE_BYTES = 1 << 16
GOLDEN = (math.sqrt(5) - 1) / 2
"""Numbers whose multiples of it have the smallest fractions lie evenly among all (Sos 1958)."""
GROWTH, LEAST_GROWTH = 4, 1.25
"""A part is at most so many times the one before: its bytes take longer each, there being more different n-grams than the caches hold.
And one that is hardly larger is not worth its time."""
SHARE = 0.6
"""Of the seconds that counting may take; smoothing and scoring come after."""


def documents(text: Text, n_bytes: float) -> list[Int64[np.ndarray, " _"]]:
    """So many bytes of training documents from all over the text, the last one cut; all of them where there are fewer."""
    left, out = int(n_bytes), []
    for i in np.argsort(np.arange(len(text.train)) * GOLDEN % 1).tolist():
        if left <= 0:
            break
        out.append(np.frombuffer(text.train[i][:left], np.uint8).astype(np.int64))
        left -= len(out[-1])
    return out


def grown(make: Callable[[list[np.ndarray]], T], text: Text, seconds: float) -> tuple[T, int]:
    """What ``make`` makes of as much of the text as the seconds hold, and how many bytes that was.

    It is made of parts that grow, each as large as the rate of the one before allows; the last one stays.
    """
    began, size, total = time.perf_counter(), float(PROBE_BYTES), text.n_bytes["train"]
    make(documents(text, size))  # waits for the compiler
    while True:
        started, part = time.perf_counter(), documents(text, size)
        made, n_bytes = make(part), sum(map(len, part))
        now = time.perf_counter()
        room = (seconds * SHARE - (now - began)) * n_bytes / (now - started)
        if size >= total or room < LEAST_GROWTH * size:
            return made, n_bytes
        size = min(room, GROWTH * size, total)


def counted(text: Text, order: int, seconds: float) -> tuple[Counts, float]:
    """Counts of what the seconds hold, and the seconds they took; kept for other stops."""
    key = ("counts", order)
    if key not in text.shared:
        began = time.perf_counter()
        made, _ = grown(partial(count, order=order, vocab_size=Bytes.vocab_size, begin=Bytes.begin), text, seconds)
        text.shared[key] = made, time.perf_counter() - began
    return text.shared[key]


def build_ngram(order: int, smooth: Callable[[Counts, Text], NgramModel], text: Text, seconds: float, tell: Tell) -> Built:
    """An n-gram model; its note says how much of the text it counted."""
    tell(0.0, "counting")
    counts, took = counted(text, order, seconds)
    model = smooth(counts, text)
    return Built(model, model.n_parameters, None, f"order {order}{_part(counts.n_tokens, text)}", took)


def trigram(counts: Counts, text: Text) -> NgramModel:
    """The interpolated trigram, its weights fitted on the validation split."""
    return jelinek_mercer(counts, [np.frombuffer(piece, np.uint8).astype(np.int64) for piece in text.validation])


def build_unbounded(text: Text, seconds: float, tell: Tell) -> Built:
    """The suffix array over as much of the text as the seconds hold."""
    make = partial(unbounded, order=ORDER, vocab_size=Bytes.vocab_size, begin=Bytes.begin, report=lambda line: tell(0.0, line))
    model, n_bytes = grown(make, text, seconds)
    return Built(model, model.n_parameters, None, f"any order{_part(n_bytes, text)}")


def _part(n_bytes: int, text: Text) -> str:
    share = n_bytes / text.n_bytes["train"]
    return "" if share > 0.999 else f", {share:.0%} of the text"


def _ngram(key: str, name: str, year: int, paper: str, order: int, smooth: Callable[[Counts, Text], NgramModel]) -> Stop:
    return Stop(key, name, year, paper, "counting", partial(build_ngram, order, smooth))


COUNTING: tuple[Stop, ...] = (
    _ngram("unigram", "Unigram", 1948, "Shannon 1948, A mathematical theory of communication", 1, lambda counts, _: additive(counts)),
    _ngram("bigram", "Bigram", 1948, "Markov 1913; Shannon 1948", 2, lambda counts, _: additive(counts, delta=0.1)),
    _ngram("trigram", "Interpolated trigram", 1980, "Jelinek & Mercer 1980, Interpolated estimation", 3, trigram),
    _ngram("kneser-ney", "Kneser-Ney", 1995, "Kneser & Ney 1995", ORDER, lambda counts, _: kneser_ney(counts, discounts="single")),
    _ngram("modified-kn", "Modified Kneser-Ney", 1998, "Chen & Goodman 1998", ORDER, lambda counts, _: kneser_ney(counts)),
    _ngram("backoff", "Stupid backoff", 2007, "Brants et al. 2007", ORDER, lambda counts, _: stupid_backoff(counts)),
    Stop("unbounded", "Unbounded n-gram", 2024, "suffix arrays: Liu et al. 2024, Infini-gram", "counting", build_unbounded),
)
