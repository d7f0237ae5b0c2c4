"""The counting stops of the road: n-grams of bytes, over as much of the text as their seconds hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Int64

from groundup.history.counts import Counts, count
from groundup.history.ngram import NgramModel
from groundup.history.smoothing import kneser_ney, stupid_backoff
from groundup.history.study import Built, Stop, Tell, Text
from groundup.history.symbols import Bytes

ORDER = 6
"""Of the n-grams of 1995 and later, in bytes: about a word and the space before it."""
PROBE_BYTES = 1 << 17
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
        room = (seconds * SHARE - (time.perf_counter() - began)) * rate
        if room > PROBE_BYTES:
            made = make(documents(text, min(room, text.n_bytes["train"])))
        text.shared[key] = made, time.perf_counter() - began
    return text.shared[key]


def build_ngram(order: int, smooth: Callable[[Counts], NgramModel], text: Text, seconds: float, tell: Tell) -> Built:
    """An n-gram model; its note says how much of the text it counted."""
    tell(0.0, "counting")
    counts, took = counted(text, order, seconds)
    model = smooth(counts)
    share = counts.n_tokens / text.n_bytes["train"]
    part = "" if share > 0.999 else f", {share:.0%} of the text"
    return Built(model, model.n_parameters, None, f"order {order}{part}", took)


def _ngram(key: str, name: str, year: int, paper: str, order: int, smooth: Callable[[Counts], NgramModel]) -> Stop:
    return Stop(key, name, year, paper, "counting", partial(build_ngram, order, smooth))


COUNTING: Sequence[Stop] = (
    _ngram("unigram", "Unigram", 1948, "Shannon 1948, A mathematical theory of communication", 1, kneser_ney),
    _ngram("bigram", "Bigram", 1948, "Markov 1913; Shannon 1948", 2, kneser_ney),
    _ngram("kneser-ney", "Kneser-Ney", 1995, "Kneser & Ney 1995, Improved backing-off", ORDER, partial(kneser_ney, discounts="single")),
    _ngram("modified-kn", "Modified Kneser-Ney", 1998, "Chen & Goodman 1998, An empirical study of smoothing", ORDER, kneser_ney),
    _ngram("backoff", "Stupid backoff", 2007, "Brants et al. 2007, Large language models in machine translation", ORDER, stupid_backoff),
)
