"""What an n-gram's symbols are: bytes, words, or a tokenizer's tokens. Each maps text to symbols 0 .. V - 1 and back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from groundup.errors import UsageError
from groundup.evaluate.protocol import OfTokenizer
from groundup.tokenizer import Tokenizer

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
"""KenLM's names, and its numbers 0, 1, 2."""
_WORD = re.compile(r"[^\0\t\n\r ]+")


def split_words(text: str) -> list[str]:
    """The words between blanks, tabs, line ends and zeros, as lmplz splits: other white space of Unicode is part of a word."""
    return _WORD.findall(text)


@runtime_checkable
class Symbols(Protocol):
    """A text as symbols."""

    vocab_size: int
    """V, the begin symbol among them."""
    begin: int
    """The symbol before every document."""
    names: tuple[str, ...]
    """A name of each symbol without white space, for ARPA files."""

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """The symbols of a text, without the begin symbol."""
        ...

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """The text of symbols."""
        ...

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Source bytes that each symbol stands for."""
        ...


@dataclass(frozen=True)
class Bytes:
    """The 256 bytes, and 256 to begin with."""

    vocab_size: int = 257
    """V."""
    begin: int = 256
    """The begin symbol."""

    @property
    def names(self) -> tuple[str, ...]:
        """``<0x41>`` for "A"."""
        return (*(f"<0x{byte:02X}>" for byte in range(256)), BEGIN)

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """UTF-8."""
        return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """The bytes; a begin symbol stands for none."""
        return tokens[tokens < self.begin].astype(np.uint8).tobytes()

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """One each, none of a begin symbol."""
        return (tokens < self.begin).astype(np.int64)


@dataclass(frozen=True)
class Words:
    """Words (``split_words``), numbered as KenLM does: 0 is ``<unk>``, 1 ``<s>``, 2 ``</s>``. White space is lost: they count no bytes."""

    words: tuple[str, ...]
    """The word of each symbol, ``<unk>``, ``<s>`` and ``</s>`` first."""
    begin: int = 1
    """The begin symbol."""
    end: int = 2
    """The symbol that ends a sentence; the caller puts it there (``sentence``)."""

    def __post_init__(self) -> None:
        if self.words[:3] != (UNKNOWN, BEGIN, END) or len(self.number) != len(self.words):
            raise UsageError(f"a vocabulary starts with {UNKNOWN} {BEGIN} {END} and has each word once")

    @classmethod
    def of(cls, sentences: Iterable[str], *, least: int = 1, most: int | None = None) -> Words:
        """The words that occur at least ``least`` times, the ``most`` frequent of them; by frequency, then as first met.

        Raises UsageError where ``<unk>``, ``<s>`` or ``</s>`` is a word of the text.
        """
        counts = Counter(word for sentence in sentences for word in split_words(sentence))
        if bad := {UNKNOWN, BEGIN, END} & counts.keys():
            raise UsageError(f"the text has {', '.join(sorted(bad))} in it, which stands for something else in a model: write it otherwise")
        kept = [word for word, n in counts.most_common(most) if n >= least]
        return cls((UNKNOWN, BEGIN, END, *kept))

    @cached_property
    def number(self) -> dict[str, int]:
        """The symbol of each word."""
        return {word: i for i, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.words)

    @property
    def names(self) -> tuple[str, ...]:
        """The words."""
        return self.words

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """The symbol of each word, 0 where it is unknown."""
        words = split_words(text if isinstance(text, str) else text.decode("utf-8", "surrogateescape"))
        return np.array([self.number.get(word, 0) for word in words], np.int64)

    def sentence(self, text: str) -> Int64[np.ndarray, " n"]:
        """The words of a sentence and its end."""
        return np.append(self.encode(text), self.end)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """The words, a space between; a line ends with a sentence."""
        return (
            " ".join("\n" if t == self.end else self.words[t] for t in tokens.tolist())
            .replace(" \n ", "\n")
            .encode("utf-8", "surrogateescape")
        )

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """UsageError: an unknown word has lost its spelling, so no word model can be scored in bits per byte."""
        raise UsageError(
            "words between white space, some of them unknown, stand for no exact bytes: score them by word, or use bytes or tokens"
        )


@dataclass(frozen=True)
class Tokens(OfTokenizer):
    """The tokens of a tokenizer; ``<|endoftext|>`` is the begin symbol."""

    tokenizer: Tokenizer
    """Any of ``groundup.tokenizer``."""

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.tokenizer.vocab_size

    @property
    def begin(self) -> int:
        """The begin symbol."""
        return self.tokenizer.end_of_text

    @property
    def names(self) -> tuple[str, ...]:
        """``<41>`` for token 41."""
        return tuple(BEGIN if token == self.begin else f"<{token}>" for token in range(self.vocab_size))
