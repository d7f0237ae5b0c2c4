"""Decoding ids as they come."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Decodes ids one by one into text that is valid at every step; what is pushed and finished, joined, equals ``Tokenizer.decode``."""

    def __init__(self, decode_bytes: Callable[[list[int]], bytes]) -> None:
        self._decode_bytes = decode_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Takes the next id and gives the characters that it completes, perhaps none."""
        return self._utf8.decode(self._decode_bytes([token]))

    def finish(self) -> str:
        """Gives U+FFFD for a character left incomplete, else nothing; the decoder is then as new."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
