"""What is done to a text before it is cut into pre-tokens, and where each byte of the result came from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np

from groundup.tokenizer.patterns import to_bytes, to_text

Normalizer = Literal["NFC"]
"""Unicode's normalization form C: what can be one character is one. By the version of Unicode that Python follows."""

SPACE_MARK = "▁"
"""U+2581, how SentencePiece writes a space."""


@dataclass(frozen=True)
class Normalization:
    """What is done to a text; where it changes nothing it costs little."""

    form: Normalizer | None = None
    """The Unicode form that it gets."""
    unmark: bool = False
    """Whether each ``SPACE_MARK`` becomes a space."""

    def apply(self, data: bytes) -> bytes:
        """The text after it; bytes that are not UTF-8 stay as they are."""
        if self.form and not data.isascii() and not unicodedata.is_normalized(self.form, text := to_text(data)):
            data = to_bytes(unicodedata.normalize(self.form, text))
        return data.replace(SPACE_MARK.encode(), b" ") if self.unmark else data

    def clusters(self, text: str) -> Sequence[str]:
        """Stretches of a text, each of which it changes for itself."""
        return _clusters(text) if self.form else re.findall(f"{SPACE_MARK}|[^{SPACE_MARK}]+", text)


class Section:
    """A stretch of a text after normalization.

    Args:
        before: the stretch as it was.
        start: where in the text it begins, in bytes.
        normalization: what is done to it.
        prefix: what is put before it then.
    """

    def __init__(self, before: bytes, start: int, normalization: Normalization, prefix: bytes) -> None:
        self._before, self._start, self._normalization, self._prefix = before, start, normalization, prefix
        self._after = normalization.apply(before)
        self.data: bytes = prefix + self._after
        """What it became."""

    def origins(self, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where in the text stretches of ``data`` came from, in bytes, int64: each from the first byte it has to do with to the last."""
        new, old, linear = self._knots
        first = np.searchsorted(new, begins, "right") - 1
        last = np.searchsorted(new, ends, "left")  # the knot at or behind each end
        begun = old[first] + np.where(linear[first], begins - new[first], 0)
        ended = old[last] - np.where(linear[np.maximum(last - 1, 0)], new[last] - ends, 0)
        return self._start + begun, self._start + ended

    @cached_property
    def _knots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places in ``data`` and in the stretch before that belong together, and whether from one to the next all does, byte by byte."""
        pairs = [(len(self._prefix), 0)] if self._prefix else []
        if self._after == self._before:
            pairs.append((len(self._before), len(self._before)))
        else:
            parts = map(to_bytes, self._normalization.clusters(to_text(self._before)))
            pairs += [(len(self._normalization.apply(part)), len(part)) for part in parts]
        new, old = np.cumsum([(0, 0), *pairs], axis=0).T
        return new, old, np.array([*(after == before for after, before in pairs), False])


def _clusters(text: str) -> list[str]:
    """Cuts a text where normalization form C cannot reach across: before characters that compose with none before them."""
    found: list[str] = []
    begin = 0
    for i in range(1, len(text)):
        if not unicodedata.combining(text[i]) and text[i] not in _second_characters():
            found.append(text[begin:i])
            begin = i
    return [*found, text[begin:]]


@cache
def _second_characters() -> frozenset[str]:
    """Characters that some character before them composes with (``NFC_Quick_Check=Maybe``)."""
    found = {*map(chr, range(0x1161, 0x1176)), *map(chr, range(0x11A8, 0x11C3))}  # vowels and finals of Hangul
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)
