"""What kind of character each of Unicode's is, one byte for each code point, as the pre-tokenization patterns ask.

The version of Unicode is that of the installed ``regex`` module (Unicode 17 since its release 2025.9), whose categories these tables are
read from, so that the compiled pre-tokenizer and the patterns it stands for agree by construction.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import regex

LETTER, NUMBER, WHITE, UPPER, OTHER, EXTRA, BLANK, HARD = (1 << bit for bit in range(8))
"""Bits of a class.

LETTER and NUMBER are the categories L and N, WHITE is white space and BLANK the ASCII space. In ``o200k`` letters without case are also
OTHER, upper and title case letters UPPER, and EXTRA is a mark. In ``deepseek-v3`` marks are letters and EXTRA is Chinese or kana. HARD
characters need a look at more than their neighbours. None of the bits: punctuation, symbols, and everything else.
"""

N_CODE_POINTS = 0x110000
_PLANES = 0x40000  # Unicode has characters in planes 0..3, then only tags and variation selectors, before those for private use
_TAGS = range(0xE0000, 0xE1000)
_HAN = "一-龥぀-ゟ゠-ヿ"


@lru_cache
def class_table(pattern: str) -> np.ndarray:
    """The classes of all code points for a pattern, uint8, shape [0x110000]; read-only."""
    table = np.zeros(N_CODE_POINTS, np.uint8)
    text = "".join(map(chr, range(_PLANES)))
    tags = "".join(map(chr, _TAGS))

    def mark(expression: str, bits: int) -> None:
        members = regex.compile(f"[{expression}]+", regex.V1)
        for offset, part in ((0, text), (_TAGS.start, tags)):
            for match in members.finditer(part):
                table[offset + match.start() : offset + match.end()] |= bits

    mark(r"\p{L}", LETTER)
    mark(r"\p{N}", NUMBER)
    mark(r"\s", WHITE)
    mark("A-Z", UPPER)
    mark(" ", BLANK)
    mark(r"\x00-\x08\x0e-\x1f\x7f", HARD)
    mark(r"\s--[\x00-\x7f]", HARD)  # next to it stands another character than the next byte
    table[0xD800:0xE000] |= HARD  # bytes that are not UTF-8: they look like parts of characters, but each is one
    if pattern == "o200k":
        mark(r"\p{Lu}\p{Lt}", UPPER)
        mark(r"\p{Lm}\p{Lo}", OTHER)
        mark(r"\p{M}", EXTRA)
    if pattern == "deepseek-v3":
        table[_PLANES:] |= HARD  # unassigned or private
        mark(r"\p{M}", LETTER)
        mark(r"^\p{L}\p{M}\p{P}\p{S}\p{N}\s", HARD)
        table[np.array([ord(c) for c in regex.findall(f"[{_HAN}]", text)])] = EXTRA
    if pattern in ("cl100k", "o200k", "deepseek-v3"):
        mark(r"\p{N}--[\x00-\x7f]", HARD)  # counted by threes, in characters
    table.flags.writeable = False
    return table
