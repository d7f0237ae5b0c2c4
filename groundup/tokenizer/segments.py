"""A text on its way to the encoder: added tokens found, the rest normalized and cut into parts that threads can share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from mmap import mmap
from typing import NamedTuple

import numpy as np

from groundup.errors import UsageError
from groundup.tokenizer.added import AddedToken, Finder
from groundup.tokenizer.byte_fallback import Pieces
from groundup.tokenizer.normalizing import Normalization, Normalizer, Section
from groundup.tokenizer.patterns import cuts

Text = bytes | mmap


class Part(NamedTuple):
    """A stretch of a text, ordinary unless it has an id of its own."""

    data: Text
    start: int
    stop: int
    token: int | None = None
    section: Section | None = None
    """Where the data came from, unless it is the text itself."""

    def origins(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in the text tokens begin and end, in bytes, given where in the data each ends."""
        begins = np.append(self.start, ends)[:-1]
        return (begins, ends) if self.section is None else self.section.origins(begins, ends)


class Segmenter:
    """Cuts texts into parts.

    Args:
        added_tokens: texts that are one token each.
        normalizer: what is done to the rest.
        pieces: of a tokenizer with byte fallback, which may put spaces before texts.
        cut_at: matches the last character before a place where pre-tokens end, whatever stands around it; None where none is known.
    """

    def __init__(
        self, added_tokens: Sequence[AddedToken], normalizer: Normalizer | None, pieces: Pieces | None, cut_at: re.Pattern[bytes] | None
    ) -> None:
        late = [token for token in added_tokens if token.normalized]
        self._normalization, self._pieces = Normalization(normalizer, unmark=pieces is not None), pieces
        self._prefix = "never" if pieces is None else pieces.prefix
        self._early = Finder([token for token in added_tokens if not token.normalized])
        self._late = Finder([self._normalized(token) for token in late])
        self._changes = normalizer is not None or pieces is not None or bool(late)
        self._cut_at = None if cut_at and any(cut_at.search(token.text.encode()) for token in late) else cut_at
        self.is_plain = not (self._changes or self._early.always)
        """Whether a text in which no special token is allowed is one ordinary stretch."""

    def _normalized(self, token: AddedToken) -> AddedToken:
        """A token with its text as it stands in a normalized text."""
        text = self._normalization.apply(token.text.encode()).decode()
        every = self._prefix == "every" and self._pieces is not None and self._pieces.prefix_always
        return replace(token, text=" " + text if every else text)

    def parts(self, data: Text, special: frozenset[str], size: int) -> Iterator[Part]:
        """Yields the parts of a text, of about ``size`` bytes, with the ``special`` tokens found in it; one part at least."""
        if not data:
            yield Part(data, 0, 0)
        for start, stop, token in self._early.find(data, 0, len(data), special):
            if token is not None:
                yield Part(data, start, stop, token.id)
            else:
                for begin, end in cuts(data, start, stop, size, self._cut_at):
                    yield from self._changed(data, begin, end, begin == start, special) if self._changes else (Part(data, begin, end),)

    def _changed(self, data: Text, start: int, stop: int, is_first: bool, special: frozenset[str]) -> Iterator[Part]:
        """The parts of one stretch, which is normalized before the last of the added tokens are looked for."""
        early = self._pieces is not None and self._pieces.prefix_always
        section = Section(data[start:stop], start, self._normalization, self._prefix_at(start) if early and is_first else b"")
        for begin, end, token in self._late.find(section.data, 0, len(section.data), special):
            if token is None and not early and (is_first or begin > 0) and not section.data.startswith(b" ", begin):
                (first,), (last,) = section.origins(np.array([begin]), np.array([end]))
                if prefix := self._prefix_at(int(first)):
                    prefixed = Section(data[first:last], int(first), self._normalization, prefix)
                    yield Part(prefixed.data, 0, len(prefixed.data), None, prefixed)
                    continue
            yield Part(section.data, begin, end, None if token is None else token.id, section)

    def _prefix_at(self, start: int) -> bytes:
        """What is put before a stretch that begins so far into the text."""
        return b" " if self._prefix == "every" or (self._prefix == "first" and start == 0) else b""


def as_bytes(text: str | bytes) -> bytes:
    """A text in UTF-8; bytes as they are. Raises UsageError for anything else."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise UsageError(f"a text is str or bytes, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates become U+FFFD, pairs of them the character they stand for
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
