"""Pre-tokenization: a regular expression cuts a text into pre-tokens, and no token ever crosses their bounds (Radford et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from mmap import mmap

import regex

from groundup.errors import UsageError

GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""GPT-2 (Radford et al. 2019), from ``encoder.py`` of its release, its seven contractions written as one group."""

CL100K = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
"""GPT-4 (tiktoken's ``cl100k_base``, 2023) and Llama 3: numbers by at most three digits, any one sign before a word."""

QWEN2 = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
"""Qwen 2 (2024), from its ``tokenizer.json``: as ``cl100k``, but every digit alone."""

O200K = (
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
"""GPT-4o (tiktoken's ``o200k_base``, 2024): a word ends before a capital, marks belong to words."""

SMOLLM = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"""
"""SmolLM (2024): as ``gpt2`` within what is left when every digit is set apart, which its ``tokenizer.json`` does first."""

_HAN = "一-龥\u3040-ヿ"  # CJK ideographs of Unicode 1.1, hiragana and katakana
DEEPSEEK_V3 = (
    rf"""\p{{N}}{{1,3}}|[{_HAN}]+|[!-/:-@\[-`{{-~][A-Za-z]+"""
    rf"""|[^\r\n\p{{L}}\p{{P}}\p{{S}}\p{{N}}{_HAN}]?(?:(?![{_HAN}])[\p{{L}}\p{{M}}])+| ?(?:(?![{_HAN}])[\p{{P}}\p{{S}}])+[\r\n]*"""
    rf"""|\s*[\r\n]+|\s+(?![^\s\p{{N}}{_HAN}])|\s+"""
    rf"""|(?:[^\p{{L}}\p{{M}}\p{{P}}\p{{S}}\p{{N}}\s](?!(?![{_HAN}])[\p{{L}}\p{{M}}]))+"""
)
"""DeepSeek-V3 (2024): its ``tokenizer.json`` sets numbers apart by three digits, then Chinese and kana, and splits the rest; in one.

What its patterns leave unmatched (control characters, unassigned code points) is a pre-token too, which is the last alternative.
"""

PATTERNS = {"gpt2": GPT2, "cl100k": CL100K, "o200k": O200K, "qwen2": QWEN2, "deepseek-v3": DEEPSEEK_V3, "smollm": SMOLLM}
"""The known patterns by name."""

_ASCII_MEMBERS = {
    "L": "A-Za-z",
    "N": "0-9",
    "P": r"!-#%-*,-/:;?@\[-\]_{}",
    "S": "$+<->^`|~",
    "Lu": "A-Z",
    "Ll": "a-z",
    "Lt": "",
    "Lm": "",
    "Lo": "",
    "M": "",
}
_CUT = re.compile(
    rb"(?:[A-Za-z]|[\xd0\xd1][\x80-\xbf]|[\xe5-\xe8\xeb\xec][\x80-\xbf]{2})"  # Latin, Cyrillic, U+5000..8FFF, most of Hangul
    rb"(?=[ \t\r\n!-&(-/:-@[-`{-~]|\xe3\x80[\x81\x82]|\xef\xbc\x8c)"  # white space, punctuation of ASCII but ', and three of Chinese
)


def check_pattern(pattern: str) -> str:
    """Returns the name of a known pattern unchanged; raises UsageError for another."""
    if pattern not in PATTERNS:
        raise UsageError(f"pattern {pattern!r} is not known: choose one of {', '.join(PATTERNS)}")
    return pattern


@lru_cache
def splitter(pattern: str) -> Callable[[str], list[str]]:
    """Returns the function that splits a text into its pre-tokens; joined, they are the text again.

    A text of ASCII alone goes through the standard ``re`` with the same pattern spelled for ASCII: equal pre-tokens in half the time.
    What is a letter, a number or a space is as in the version of Unicode that the installed ``regex`` follows.
    """
    expression = PATTERNS[check_pattern(pattern)]
    split = regex.compile(expression).findall
    split_ascii = re.compile(_spelled_for_ascii(expression), re.ASCII).findall
    return lambda text: split_ascii(text) if text.isascii() else split(text)


def _spelled_for_ascii(expression: str) -> str:
    for name, members in _ASCII_MEMBERS.items():
        category = rf"\p{{{name}}}"
        alone = re.compile(re.escape(category) + r"(?=[+{|])")  # every other use stands inside a [class]
        expression = alone.sub(f"[{members}]", expression).replace(category, members)
    return expression


def to_text(data: bytes) -> str:
    """Decodes UTF-8; a byte that is none becomes a lone surrogate (U+DC80 + byte - 0x80), so that ``to_bytes`` restores every input."""
    return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """The inverse of ``to_text``."""
    return text.encode("utf-8", "surrogateescape")


def cuts(text: bytes | mmap, start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Cuts part of a text into pieces of about ``size`` bytes that pre-tokenize as the whole does; yields where each begins and ends.

    Every pattern here ends a pre-token between a letter and white space or punctuation, whatever stands around them: letters look at
    nothing that follows but an apostrophe or a mark, and what follows looks at nothing before. There are many such places in text of any
    kind, so that the search for one ends soon; a text without is not cut. Nothing is one empty piece.
    """
    while (cut := _CUT.search(text, min(start + size, stop), stop)) is not None:
        yield start, cut.end()
        start = cut.end()
    yield start, stop


def pieces(text: bytes, size: int) -> Iterator[bytes]:
    """The pieces that ``cuts`` cuts a text into."""
    return (text[start:stop] for start, stop in cuts(text, 0, len(text), size))
