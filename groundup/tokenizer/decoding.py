"""Decoding ids as they come."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Decodes ids one by one into text that is valid at every step; what is pushed and finished, joined, equals ``Tokenizer.decode``.

    Args:
        decode_bytes: gives the bytes of some ids.
        drops_space: whether a space at the very beginning is left out.
    """

    def __init__(self, decode_bytes: Callable[[list[int]], bytes], drops_space: bool = False) -> None:
        self._decode_bytes = decode_bytes
        self._drops_space = self._is_at_beginning = drops_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Takes the next id and gives the characters that it completes, perhaps none."""
        data = self._decode_bytes([token])
        if self._is_at_beginning and data:
            data, self._is_at_beginning = data.removeprefix(b" "), False
        return self._utf8.decode(data)

    def finish(self) -> str:
        """Gives U+FFFD for a character left incomplete, else nothing; the decoder is then as new."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._is_at_beginning = self._drops_space
        return rest
