"""What a stop of the road is: the text that all of them read, how one is built in so many seconds, and how it is scored."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int16

from groundup.data import Document, assign_splits, open_corpus
from groundup.data.splits import Split
from groundup.errors import UsageError
from groundup.evaluate.protocol import LanguageModel
from groundup.evaluate.text import TextScore, score_documents
from groundup.history.network import START

PIECE_BYTES = (1024, 4096)
"""Held-out text is cut into pieces of about this size, each read from its beginning: below a budget of LONG_PIECES_FROM_S, and above."""
LONG_PIECES_FROM_S = 120.0
HELD_OUT_BYTES_PER_S = 250.0
"""Held-out bytes for each second of the budget: all stops score them, and what takes one long costs all."""
LEAST_HELD_OUT = 2_000
SAMPLE_BYTES = 160


@dataclass(frozen=True)
class Text:
    """What all stops read, and what they are scored on."""

    name: str
    """Of the corpus."""
    train: tuple[bytes, ...] = field(repr=False)
    """Training documents."""
    validation: tuple[bytes, ...] = field(repr=False)
    """Pieces of the validation split, for what is fitted on held-out text."""
    test: tuple[bytes, ...] = field(repr=False)
    """Pieces of the test split: what is scored, every byte of it."""
    sources: tuple[str, ...] = ()
    """Where it was read from; none is the standard library."""
    text_field: str = "text"
    """Field of the text in JSONL and Parquet."""
    read_seconds: float = 0.0
    """What reading and splitting it took."""
    shared: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What one stop made of it and another may use: counts."""

    @cached_property
    def symbols(self) -> Int16[np.ndarray, " n"]:
        """The training documents one after another, each after a start symbol."""
        out = np.full(sum(map(len, self.train)) + len(self.train), START, np.int16)
        at = 0
        for document in self.train:
            out[at + 1 : at + 1 + len(document)] = np.frombuffer(document, np.uint8)
            at += 1 + len(document)
        return out

    @property
    def n_bytes(self) -> dict[str, int]:
        """Bytes of each part."""
        return {part: sum(map(len, getattr(self, part))) for part in ("train", "validation", "test")}

    @cached_property
    def digest(self) -> str:
        """The hash of all that is trained on and scored."""
        chain = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.validation, self.test):
            for text in part:
                chain.update(len(text).to_bytes(8, "little") + text)
        return chain.hexdigest()


def read_text(sources: Sequence[str], seconds: float, text_field: str = "text") -> Text:
    """Reads and splits a corpus as ``groundup train`` does; of the held-out splits as much as the budget's seconds can score."""
    began = time.perf_counter()
    corpus = open_corpus(sources, text_field=text_field)
    documents: dict[Split, list[bytes]] = {"train": [], "validation": [], "test": []}
    for split, document in assign_splits(corpus).apply(corpus.documents()):
        documents[split].append(document.text)
    piece = PIECE_BYTES[seconds >= LONG_PIECES_FROM_S]
    most = max(LEAST_HELD_OUT, int(HELD_OUT_BYTES_PER_S * seconds))
    held_out = {split: spread(cut_pieces(documents[split], piece), most) for split in ("validation", "test")}
    if not all(held_out.values()):
        raise UsageError(f"--data {corpus.name}: its held-out text is empty; add more text")
    parts = tuple(documents["train"]), held_out["validation"], held_out["test"]
    return Text(corpus.name, *parts, tuple(sources), text_field, time.perf_counter() - began)


def cut_pieces(documents: Sequence[bytes], size: int) -> list[bytes]:
    """Documents in pieces of at most this size, cut after a line where one ends in the last quarter."""
    pieces = []
    for document in documents:
        start = 0
        while start < len(document):
            stop = start + size
            if stop < len(document):
                line = document.rfind(b"\n", stop - size // 4, stop)
                stop = line + 1 if line >= 0 else stop
            pieces.append(document[start:stop])
            start = stop
    return pieces


def spread(pieces: Sequence[bytes], most: int) -> tuple[bytes, ...]:
    """Evenly spread pieces, of about so many bytes in all; all of them where they are fewer."""
    total = sum(map(len, pieces))
    n = max(1, math.ceil(len(pieces) * min(1.0, most / max(1, total))))
    return tuple(pieces[i * len(pieces) // n] for i in range(n)) if pieces else ()


Tell = Callable[[float, str], None]
"""Hears how far a stop is, 0 to 1, and a few words."""


@dataclass(frozen=True)
class Built:
    """A stop's model, and what it took."""

    model: LanguageModel
    """The model."""
    parameters: int
    """Numbers that it learned or counted."""
    training_flops: int | None
    """FLOPs of the matrix products of its training; None where it counts and multiplies nothing."""
    note: str = ""
    """Its size, in words."""
    shared_seconds: float = 0.0
    """Seconds of what it took over from another stop."""


@dataclass(frozen=True)
class Stop:
    """One stop of the road."""

    key: str
    """What --stops calls it."""
    name: str
    """What the table calls it."""
    year: int
    """Of the paper."""
    paper: str
    """The paper."""
    family: str
    """counting, neural or today: how pictures colour it."""
    build: Callable[[Text, float, Tell], Built]
    """The model for a text in so many seconds."""


@dataclass(frozen=True)
class Result:
    """A finished stop."""

    key: str
    name: str
    year: int
    paper: str
    family: str
    parameters: int
    """Numbers that it learned or counted."""
    training_flops: int | None
    """Of matrix products; None for counting."""
    seconds: float
    """Of building it: the choice of its size and training."""
    scoring_seconds: float
    """Of scoring the held-out bytes."""
    bits_per_byte: float
    """On the held-out bytes."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval over pieces."""
    n_bytes: int
    """Held-out bytes, every one scored."""
    sample: str
    """What it writes."""
    note: str
    """Its size, in words."""


def score(model: LanguageModel, pieces: Sequence[bytes]) -> TextScore:
    """Every byte of each piece, read from its beginning."""
    return score_documents(model, (Document(str(i), piece) for i, piece in enumerate(pieces)))


def run_stop(stop: Stop, text: Text, seconds: float, tell: Tell) -> Result:
    """Builds, scores and samples one stop within about so many seconds."""
    began = time.perf_counter()
    built = stop.build(text, seconds, tell)
    trained = time.perf_counter()
    tell(1.0, "scoring")
    found = score(built.model, text.test)
    scored = time.perf_counter()
    sample = built.model.sample([""], max_tokens=SAMPLE_BYTES, temperature=0.8, seed=0)[0]
    return Result(
        **{name: getattr(stop, name) for name in ("key", "name", "year", "paper", "family")},
        parameters=built.parameters,
        training_flops=built.training_flops,
        seconds=max(trained - began, built.shared_seconds),
        scoring_seconds=scored - trained,
        bits_per_byte=found.bits_per_byte,
        interval=found.interval,
        n_bytes=found.n_bytes,
        sample=sample.decode("utf-8", "replace"),
        note=built.note,
    )
