"""The counting stops of the road: n-grams of bytes, over as much of the text as their seconds hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Int64

from groundup.history.counts import Counts, count
from groundup.history.ngram import NgramModel
from groundup.history.smoothing import additive, jelinek_mercer, kneser_ney, stupid_backoff
from groundup.history.study import Built, Stop, Tell, Text
from groundup.history.suffix import unbounded
from groundup.history.symbols import Bytes

ORDER = 6
"""Of the n-grams of 1995 and later, in bytes: about a word and the space before it."""
PROBE_BYTES = 1 << 16
LARGE = 0.3
"""Rate on a large text, over that on the small part that was timed: tables leave the caches."""
SHARE = 0.6
"""Of the seconds that counting may take; smoothing and scoring come after."""


def documents(text: Text, n_bytes: float) -> list[Int64[np.ndarray, " _"]]:
    """Training documents of about so many bytes, evenly spread; the first one's beginning where even that is too long."""
    n = max(1, min(len(text.train), int(len(text.train) * n_bytes / max(1, text.n_bytes["train"]))))
    chosen = [text.train[i * len(text.train) // n] for i in range(n)]
    left, out = int(n_bytes), []
    for document in chosen:
        if left > 0:
            out.append(np.frombuffer(document[:left], np.uint8).astype(np.int64))
            left -= len(document)
    return out


def counted(text: Text, order: int, seconds: float) -> tuple[Counts, float]:
    """Counts of what the seconds hold, by the rate at which a small part was counted, and the seconds they took; kept for other stops."""
    key = ("counts", order)
    if key not in text.shared:
        make = partial(count, order=order, vocab_size=Bytes.vocab_size, begin=Bytes.begin)
        began = time.perf_counter()
        for _ in range(2):  # the first one waits for the compiler
            started = time.perf_counter()
            made = make(documents(text, PROBE_BYTES))
            rate = min(PROBE_BYTES, text.n_bytes["train"]) / (time.perf_counter() - started)
        room = (seconds * SHARE - (time.perf_counter() - began)) * LARGE * rate
        if room > PROBE_BYTES:
            made = make(documents(text, min(room, text.n_bytes["train"])))
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
    """The suffix array over as much of the text as the seconds hold, at the rate of a small part."""
    make = partial(unbounded, order=ORDER, vocab_size=Bytes.vocab_size, begin=Bytes.begin)
    began = time.perf_counter()
    for _ in range(2):
        started = time.perf_counter()
        part = documents(text, PROBE_BYTES)
        model = make(part, report=lambda line: tell(0.0, line))
        rate = sum(map(len, part)) / (time.perf_counter() - started)
    room = (seconds * SHARE - (time.perf_counter() - began)) * LARGE * rate
    if room > PROBE_BYTES:
        part = documents(text, min(room, text.n_bytes["train"]))
        model = make(part, report=lambda line: tell(0.3, line))
    return Built(model, model.n_parameters, None, f"any order{_part(sum(map(len, part)), text)}")


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
