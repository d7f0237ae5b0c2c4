"""Pre-tokenization: a regular expression cuts a text into pre-tokens, and no token ever crosses their bounds (Radford et al. 2019)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from mmap import mmap
from typing import Literal

import numpy as np
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
CUT_BEHIND_LETTER = re.compile(
    rb"(?:[A-Za-z]|[\xd0\xd1][\x80-\xbf]|[\xe5-\xe8\xeb\xec][\x80-\xbf]{2})"  # Latin, Cyrillic, U+5000..8FFF, most of Hangul
    rb"(?=[ \t\r\n!-&(-/:-@[-`{-~]|\xe3\x80[\x81\x82]|\xef\xbc\x8c)"  # white space, punctuation of ASCII but ', and three of Chinese
)
"""A letter before white space or punctuation, where every pattern here ends a pre-token, whatever stands around: letters look at nothing
that follows but an apostrophe or a mark, and what follows looks at nothing before. There are many in text of any kind."""

CUT_AT_SPACE = re.compile(rb"[!-~](?= )")
"""A visible character of ASCII before a space."""


@dataclass(frozen=True)
class Split:
    """A step of pre-tokenization: matches and what is between them, each a pre-token (``Split`` of Hugging Face's ``tokenizers``)."""

    expression: str
    """What matches, as the ``regex`` module reads it."""
    behavior: Literal["isolated", "contiguous", "merged_with_previous", "merged_with_next"] = "isolated"
    """Whether matches stand alone, run together, or join what is before or behind them."""
    invert: bool = False
    """Whether matches and what is between them change places."""


Pattern = str | tuple[Split, ...]
"""How a text is cut into pre-tokens: a key of ``PATTERNS``, a regular expression, or steps, each cutting what the one before left."""


def check_pattern(pattern: Pattern) -> Pattern:
    """Returns a pattern unchanged, and says once that it is slow where nothing is compiled for it.

    Raises UsageError for an unknown name, and for what is no regular expression.
    """
    if isinstance(pattern, str) and pattern in PATTERNS:
        return pattern
    if isinstance(pattern, str) and re.fullmatch(r"[\w-]*", pattern):
        raise UsageError(f"pattern {pattern!r} is not known: choose one of {', '.join(PATTERNS)}, or give a regular expression")
    for step in (pattern,) if isinstance(pattern, str) else pattern:
        expression = step if isinstance(step, str) else step.expression
        try:
            regex.compile(expression)
        except regex.error as error:
            raise UsageError(f"pattern {expression!r} is no regular expression ({error}): mend it") from error
    _say_that_it_is_slow()
    return pattern


@lru_cache(maxsize=1)
def _say_that_it_is_slow() -> None:
    print(f"this pattern goes through the regex module, slower than {', '.join(PATTERNS)}, which are compiled", file=sys.stderr)


@lru_cache
def splitter(pattern: Pattern) -> Callable[[str], list[str]]:
    """Returns the function that splits a text into its pre-tokens; joined, they are the text again.

    A text of ASCII alone goes through the standard ``re`` with the same pattern spelled for ASCII: equal pre-tokens in half the time.
    What is a letter, a number or a space is as in the version of Unicode that the installed ``regex`` follows.
    What a regular expression of the user's leaves unmatched is a pre-token too.
    """
    if check_pattern(pattern) not in PATTERNS:
        return partial(_split_by_steps, (Split(pattern),) if isinstance(pattern, str) else pattern)
    expression = PATTERNS[pattern]
    split = regex.compile(expression).findall
    split_ascii = re.compile(_spelled_for_ascii(expression), re.ASCII).findall
    return lambda text: split_ascii(text) if text.isascii() else split(text)


def _split_by_steps(steps: tuple[Split, ...], text: str) -> list[str]:
    pretokens = [text]
    for step in steps:
        pretokens = [part for pretoken in pretokens for part in _split_by(step, pretoken)]
    return pretokens


def _split_by(step: Split, text: str) -> list[str]:
    """The pre-tokens that one step makes."""
    spans: list[tuple[int, int, bool]] = []
    at = 0
    for match in regex.compile(step.expression).finditer(text):
        if match.end() > match.start():
            spans += [(at, match.start(), step.invert), (match.start(), match.end(), not step.invert)]
            at = match.end()
    spans = [span for span in (*spans, (at, len(text), step.invert)) if span[0] < span[1]]
    if not spans:
        return []
    if step.behavior == "contiguous":
        groups = [list(group) for _, group in groupby(spans, key=lambda span: span[2])]
        return [text[group[0][0] : group[-1][1]] for group in groups]
    if step.behavior == "merged_with_previous":
        starts = [begin for i, (begin, _, matched) in enumerate(spans) if not (matched and i > 0 and not spans[i - 1][2])]
    elif step.behavior == "merged_with_next":
        starts = [begin for i, (begin, _, matched) in enumerate(spans) if matched or i == 0 or not spans[i - 1][2]]
    else:
        starts = [begin for begin, _, _ in spans]
    return [text[begin:end] for begin, end in zip(starts, [*starts[1:], len(text)], strict=True)]


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


def cuts(
    text: bytes | mmap, start: int, stop: int, size: int, cut_at: re.Pattern[bytes] | None = CUT_BEHIND_LETTER
) -> Iterator[tuple[int, int]]:
    """Cuts part of a text into pieces of about ``size`` bytes that pre-tokenize as the whole does; yields where each begins and ends.

    ``cut_at`` matches the last character before a place to cut. A text without such a place is not cut. Nothing is one empty piece.
    """
    while cut_at is not None and (cut := cut_at.search(text, min(start + size, stop), stop)) is not None:
        yield start, cut.end()
        start = cut.end()
    yield start, stop


def pieces(text: bytes, size: int, cut_at: re.Pattern[bytes] | None = CUT_BEHIND_LETTER) -> Iterator[bytes]:
    """The pieces that ``cuts`` cuts a text into."""
    return (text[start:stop] for start, stop in cuts(text, 0, len(text), size, cut_at))


def pretoken_ends_of(pattern: Pattern) -> str | Callable[[bytes], np.ndarray]:
    """The name of a pattern, or what says where a text's pre-tokens end, in bytes, int64, shape [n]."""
    if pattern in PATTERNS:
        return pattern
    split = splitter(pattern)
    return lambda data: np.cumsum([len(to_bytes(pretoken)) for pretoken in split(to_text(data))], dtype=np.int64)


def cut_at(pattern: Pattern) -> re.Pattern[bytes] | None:
    """Where a text may be cut that is to be split by a pattern; None where nothing is known of it."""
    return CUT_BEHIND_LETTER if pattern in PATTERNS else None
