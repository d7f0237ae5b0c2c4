"""Tokenizers from before byte-pair encoding, with its interface: what they cost is why it is used.

Bytes know everything and make long texts; characters are fewer, but a character not seen in training is unknown; words are fewer still, and
most of what a text has is not among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import regex

from groundup.errors import UsageError

UNKNOWN = "\ufffd"
"""What an unknown symbol decodes to."""
WORDS = 32_000
"""Ids of a word tokenizer, the unknown one included, unless said otherwise."""
_WORD = regex.compile(r"\w+|[^\w\s]|\s+")


class ByteTokenizer:
    """Each byte is its own id: 256 of them, and nothing is unknown."""

    vocab_size = 256
    unknown_id = None

    def encode_ordinary(self, text: str | bytes) -> np.ndarray:
        """The ids of a text, uint32, shape [bytes]."""
        return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.uint32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; bytes that are not UTF-8 become U+FFFD."""
        return np.asarray(ids, np.uint8).tobytes().decode("utf-8", "replace")


class SymbolTokenizer:
    """Ids for the symbols that were seen most often, of those seen equally often the lesser first; the last id is for all others.

    Args:
        texts: what to learn from.
        split: cuts a text into symbols, which joined are the text.
        vocab_size: ids at most, the unknown one included; None keeps every symbol.

    Raises UsageError for texts without a symbol, or no room for one.
    """

    def __init__(self, texts: Iterable[str | bytes], split: Callable[[str], Sequence[str]], vocab_size: int | None = None) -> None:
        if vocab_size is not None and vocab_size < 2:
            raise UsageError(f"vocab_size is {vocab_size}: ask for at least 2, a symbol and the unknown one")
        self._split = split
        counts = Counter(symbol for text in texts for symbol in split(_text(text)))
        if not counts:
            raise UsageError("there is no text to learn symbols from: give one that is not empty")
        kept = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[: None if vocab_size is None else vocab_size - 1]
        self.symbols = [*kept, UNKNOWN]
        self.unknown_id = len(kept)
        self._ids = {symbol: i for i, symbol in enumerate(kept)}

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.symbols)

    def encode_ordinary(self, text: str | bytes) -> np.ndarray:
        """The ids of a text, uint32, shape [symbols]; bytes that are not UTF-8 count as U+FFFD."""
        ids, unknown = self._ids, self.unknown_id
        return np.array([ids.get(symbol, unknown) for symbol in self._split(_text(text))], np.uint32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids, U+FFFD for what was unknown."""
        return "".join(self.symbols[i] for i in ids)


def character_tokenizer(texts: Iterable[str | bytes], vocab_size: int | None = None) -> SymbolTokenizer:
    """An id for each character."""
    return SymbolTokenizer(texts, list, vocab_size)


def word_tokenizer(texts: Iterable[str | bytes], vocab_size: int | None = WORDS) -> SymbolTokenizer:
    """An id for each word, mark and stretch of space."""
    return SymbolTokenizer(texts, _WORD.findall, vocab_size)


def _text(text: str | bytes) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
