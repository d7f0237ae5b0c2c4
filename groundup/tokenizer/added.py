"""Added tokens: texts that are one token each, found before anything else is done to a text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from mmap import mmap
from typing import NamedTuple

import regex

from groundup.tokenizer.patterns import to_text

_SPACES_BEFORE, _SPACES_AFTER = regex.compile(r"\s*\Z"), regex.compile(r"\s*")
_WORD_BEFORE, _WORD_AFTER = regex.compile(r"\w\Z"), regex.compile(r"\w")
_CHARACTER = 4  # bytes at most


@dataclass(frozen=True)
class AddedToken:
    """A text with an id of its own, and how it is found (``AddedToken`` of Hugging Face's ``tokenizers``)."""

    text: str
    """What stands in the text; of two that fit at a place, the longer."""
    id: int
    """Its id."""
    special: bool = True
    """Whether it is found only where it is allowed and stands for no byte of text; any other is found always."""
    lstrip: bool = False
    """Whether it takes in the white space before it."""
    rstrip: bool = False
    """Whether it takes in the white space behind it."""
    single_word: bool = False
    """Whether it is found only where no letter, digit or underscore touches it."""
    normalized: bool = False
    """Whether it is looked for after normalization, itself normalized, in what the others leave."""


class Template(NamedTuple):
    """What a model wants before and behind each text, such as a token for its beginning."""

    before: tuple[int, ...] = ()
    """Ids."""
    behind: tuple[int, ...] = ()
    """Ids."""


class Finder:
    """Finds added tokens, leftmost first, and of those that begin at the same place the longest.

    Args:
        tokens: to look for.
    """

    def __init__(self, tokens: Sequence[AddedToken]) -> None:
        self._by_bytes = {token.text.encode(): token for token in tokens}
        self.always = frozenset(token.text for token in tokens if not token.special)
        self.special = frozenset(token.text for token in tokens if token.special)

    def find(self, data: bytes | mmap, start: int, stop: int, special: frozenset[str]) -> Iterator[tuple[int, int, AddedToken | None]]:
        """Cuts a part of a text: yields where each token and each stretch between them begins and ends, the latter with None.

        Of special tokens only those in ``special`` are found. No stretch is empty.
        """
        chosen = (special & self.special) | self.always
        at = start
        while chosen and (match := search(chosen, data, at, stop)):
            token = self._by_bytes[match[0]]
            at, begin, end = match.end(), match.start(), match.end()
            if token.single_word and _touches_word(data, start, begin, end, stop):
                continue
            if token.lstrip:
                begin -= len(_SPACES_BEFORE.search(to_text(data[start:begin]))[0].encode())
            if token.rstrip:
                end = at = end + len(_SPACES_AFTER.match(to_text(data[end:stop]))[0].encode())
            if start < begin:
                yield start, begin, None
            yield begin, end, token
            start = end
        if start < stop:
            yield start, stop, None


def search(tokens: frozenset[str], data: bytes | mmap, start: int, stop: int) -> re.Match[bytes] | None:
    """The first of some texts in data[start:stop]; where it cannot be is passed over by what all of them begin with."""
    beginning, pattern = _searcher(tokens)
    at = data.find(beginning, start, stop)
    return None if at < 0 else pattern.search(data, at, stop)


@lru_cache(maxsize=64)
def _searcher(tokens: frozenset[str]) -> tuple[bytes, re.Pattern[bytes]]:
    """What all of the texts begin with, and what matches any of them."""
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(min(tokens), max(tokens), strict=False))
    return "".join(a for a, _ in shared).encode(), any_of(tokens)


def any_of(tokens: Collection[str]) -> re.Pattern[bytes]:
    """Matches any of some texts, the longest that fits."""
    return re.compile(b"|".join(re.escape(token.encode()) for token in sorted(tokens, key=len, reverse=True)))


def _touches_word(data: bytes | mmap, start: int, begin: int, end: int, stop: int) -> bool:
    """Is there a letter, digit or underscore right before or behind data[begin:end]?"""
    before = to_text(data[max(start, begin - _CHARACTER) : begin])
    after = to_text(data[end : min(stop, end + _CHARACTER)])
    return bool(_WORD_BEFORE.search(before) or _WORD_AFTER.match(after))
