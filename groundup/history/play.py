"""Shannon's guessing game (1951) in a terminal: a person guesses a hidden text letter by letter, which bounds its entropy."""

from __future__ import annotations

from dataclasses import dataclass
from io import TextIOBase

import numpy as np
from jaxtyping import Int64

from groundup.errors import UsageError
from groundup.history.shannon import HUMAN_1951, LETTERS, Bounds, bounds, from_letters, to_letters

SPACE = "_"
"""How a space is shown, and typed."""
QUIT, GIVE_UP = ".", "?"
"""Ends the game; shows the letter, which counts as having tried all the others first."""
SHOWN = 60
"""Letters of what is known that stay on the line."""


@dataclass(frozen=True)
class Game:
    """What came of a game."""

    ranks: Int64[np.ndarray, " n"]
    """Wrong guesses before each letter."""
    bounds: Bounds | None
    """Of the entropy of a letter, in bits; None if no letter was guessed."""


def play(
    source: TextIOBase,
    sink: TextIOBase,
    text: str | bytes,
    *,
    given: int = 40,
    n_letters: int = 50,
    rival: tuple[str, Int64[np.ndarray, " n"]] | None = None,
) -> Game:
    """Plays on a text in 27 letters, the first ``given`` of which are shown, until ``n_letters`` are found, a "." or the end of ``source``.

    ``rival`` is a model's name and its ranks of every letter of the text, to play against. Raises UsageError for a text that is too short.
    """
    letters = to_letters(text)
    if len(letters) <= given:
        raise UsageError(f"the text to guess has {len(letters)} letters, and {given} of them are shown first: give a longer one")
    end = min(len(letters), given + n_letters)
    _say(sink, f"Guess the text, one letter a line: a-z, {SPACE} or an empty line for a space, {GIVE_UP} to be told, {QUIT} to stop.\n\n")
    ranks: list[int] = []
    for at in range(given, end):
        rank = _guess(source, sink, letters, at)
        if rank is None:
            break
        ranks.append(rank)
        _say(sink, f"  {_shown(letters[at : at + 1])} in {rank + 1}{_against(rival, at)}\n")
    return _finish(sink, np.array(ranks, np.int64), letters[: given + len(ranks)], given, rival)


def _guess(source: TextIOBase, sink: TextIOBase, letters: Int64[np.ndarray, " n"], at: int) -> int | None:
    """Asks until letter ``at`` is found: the wrong guesses it took; None where the game ends."""
    tried: list[str] = []
    answer = LETTERS[letters[at]]
    while True:
        _say(sink, f"{_shown(letters[max(0, at - SHOWN) : at])}{' (not ' + ' '.join(tried) + ')' if tried else ''}> ")
        line = source.readline()
        if not line or (typed := line.strip().lower()) == QUIT:
            return None
        if typed == GIVE_UP:
            return len(LETTERS) - 1
        guess = " " if typed in ("", SPACE) else typed
        if len(guess) != 1 or guess not in LETTERS:
            _say(sink, f"  one letter of a-z or {SPACE}, please\n")
        elif guess == answer:
            return len(tried)
        elif (mark := _shown(to_letters(guess))) in tried:
            _say(sink, f"  {mark} was tried\n")
        else:
            tried.append(mark)


def _finish(sink: TextIOBase, ranks: Int64[np.ndarray, " n"], known: Int64[np.ndarray, " k"], given: int, rival: tuple | None) -> Game:
    if not len(ranks):
        _say(sink, "\nNo letter was guessed.\n")
        return Game(ranks, None)
    found = bounds(ranks)
    _say(sink, f"\n{_shown(known[given:])}\n\n")
    for name, theirs in [("you", ranks)] + ([(rival[0], rival[1][given : given + len(ranks)])] if rival else []):
        b = bounds(theirs)
        _say(
            sink, f"{name}: {(theirs == 0).mean():.0%} at the first guess, entropy between {b.lower:.2f} and {b.upper:.2f} bits a letter\n"
        )
    low, high = HUMAN_1951
    _say(sink, f"Shannon's reader of 1951, who knew 100 letters: between {low} and {high}\n")
    if len(ranks) < 100:
        _say(sink, f"So few letters ({len(ranks)}) give bounds that come out too low.\n")
    return Game(ranks, found)


def _against(rival: tuple[str, Int64[np.ndarray, " n"]] | None, at: int) -> str:
    return f"; {rival[0]} in {rival[1][at] + 1}" if rival else ""


def _shown(letters: Int64[np.ndarray, " n"]) -> str:
    return from_letters(letters).replace(" ", SPACE)


def _say(sink: TextIOBase, text: str) -> None:
    sink.write(text)
    sink.flush()
