"""What the guessing game is played on, and against: a passage of the held-out text, and an n-gram model of letters that never saw it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from groundup.errors import UsageError
from groundup.history.counting import documents
from groundup.history.counts import count
from groundup.history.shannon import LETTERS, from_letters, to_letters
from groundup.history.smoothing import kneser_ney
from groundup.history.study import Text
from groundup.history.symbols import BEGIN

ORDER = 7
"""Of the rival, in letters."""
RIVAL_BYTES = 2_000_000
"""Most text that the rival reads, so that the game begins soon."""
PASSAGE_LETTERS = 400


@dataclass(frozen=True)
class Letters:
    """Shannon's 27 symbols, and one to begin with, as an n-gram's symbols."""

    vocab_size: int = len(LETTERS) + 1
    """V."""
    begin: int = len(LETTERS)
    """The begin symbol."""
    names: tuple[str, ...] = (*LETTERS[:-1], "_", BEGIN)
    """The letters, and _ for a space."""

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """Letters without case and accents; all else is a space."""
        return to_letters(text)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """Lower-case text."""
        return from_letters(tokens[tokens < self.begin]).encode()

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """UsageError: what was left out of a text has lost its bytes."""
        raise UsageError("letters alone stand for no exact bytes: score them by letter")


def passage(text: Text, seed: int) -> str:
    """A run of held-out text in 27 letters, another for each seed; UsageError where no piece is long enough."""
    pieces = [letters for piece in text.test if len(letters := to_letters(piece)) >= PASSAGE_LETTERS // 2]
    if not pieces:
        raise UsageError(f"--data {text.name}: no held-out piece has {PASSAGE_LETTERS // 2} letters to guess; give more text")
    rng = np.random.default_rng(seed)
    letters = pieces[rng.integers(len(pieces))]
    start = int(rng.integers(max(1, len(letters) - PASSAGE_LETTERS)))
    return from_letters(letters[start : start + PASSAGE_LETTERS])


def rival(text: Text, hidden: str) -> tuple[str, Int64[np.ndarray, " n"]]:
    """A modified Kneser-Ney model of letters, trained on the training text, and its wrong guesses before each letter of the passage."""
    symbols = Letters()
    read = [to_letters(part.astype(np.uint8).tobytes()) for part in documents(text, RIVAL_BYTES)]
    model = kneser_ney(count(read, order=ORDER, vocab_size=symbols.vocab_size, begin=symbols.begin), symbols=symbols)
    return f"{ORDER}-grams", model.ranks([np.array([symbols.begin])], [to_letters(hidden)])[0]
