"""The pre-tokenization patterns spelled out for the compiler: where does the pre-token that begins here end?

Positions are addresses. No function reads at or beyond ``end``. ``table`` is the address of the pattern's ``class_table``.
"""

from __future__ import annotations

from groundup.tokenizer.classes import EXTRA, HARD, LETTER, NUMBER, OTHER, UPPER, WHITE
from groundup.tokenizer.machine import load8, loop

GPT2, SMOLLM, CL100K, QWEN2, O200K, DEEPSEEK = range(6)
_SORTED = LETTER | NUMBER | WHITE  # what is none of these is punctuation to most patterns
_SURROGATE = 0xDC80  # how a byte that is not UTF-8 is classed
_LF, _CR, _QUOTE, _SLASH = 10, 13, 39, 47


@loop
def char_at(at, end, table):
    """The class of the character that begins here, plus 256 times its length in bytes. A byte that is not UTF-8 is a character alone."""
    first = load8(at)
    if first < 0x80:
        return load8(table + first) | 256
    if first < 0xE0:
        if first >= 0xC2 and at + 2 <= end:
            second = load8(at + 1)
            if second & 0xC0 == 0x80:
                return load8(table + ((first & 0x1F) << 6 | (second & 0x3F))) | 512
    elif first < 0xF0:
        if at + 3 <= end:
            second, third = load8(at + 1), load8(at + 2)
            code = (first & 0x0F) << 12 | (second & 0x3F) << 6 | (third & 0x3F)
            if second & 0xC0 == 0x80 and third & 0xC0 == 0x80 and code >= 0x800 and code & 0xF800 != 0xD800:
                return load8(table + code) | 768
    elif first < 0xF5 and at + 4 <= end:
        second, third, fourth = load8(at + 1), load8(at + 2), load8(at + 3)
        code = (first & 0x07) << 18 | (second & 0x3F) << 12 | (third & 0x3F) << 6 | (fourth & 0x3F)
        if second & 0xC0 == 0x80 and third & 0xC0 == 0x80 and fourth & 0xC0 == 0x80 and 0x10000 <= code <= 0x10FFFF:
            return load8(table + code) | 1024
    return load8(table + _SURROGATE) | 256


@loop
def _run(at, end, table, mask, wanted):
    """The end of the run of characters of which these bits are as wanted."""
    while at < end:
        char = char_at(at, end, table)
        if char & mask != wanted:
            break
        at += char >> 8
    return at


@loop
def _contraction(at, end, fold):
    """The end of the contraction at an apostrophe ('s 't 'm 'd 're 've 'll), 0 if there is none; fold: in either case, and also 's with a
    long s."""
    if at + 1 >= end:
        return 0
    a = load8(at + 1)
    b = load8(at + 2) if at + 2 < end else 0
    if fold:
        if a == 0xC5 and b == 0xBF:
            return at + 3
        a |= 32
        b |= 32
    if a == 115 or a == 116 or a == 109 or a == 100:
        return at + 2
    if (a == 114 and b == 101) or (a == 118 and b == 101) or (a == 108 and b == 108):
        return at + 3
    return 0


@loop
def _white(at, end, table, kind):
    """The end of white space: up to its last line break in newer patterns, else all but one before what it does not join."""
    begin = last = at
    after_break = following = 0
    while at < end:
        following = char_at(at, end, table)
        if following & WHITE == 0:
            break
        last = at
        at += following >> 8
        byte = load8(last)
        if byte in (_LF, _CR):
            after_break = at
    if kind >= CL100K and after_break:
        return after_break
    apart = (NUMBER if kind in (SMOLLM, DEEPSEEK) else 0) | (EXTRA if kind == DEEPSEEK else 0)
    return last if at < end and last > begin and following & apart == 0 else at


@loop
def _match_gpt2(at, end, table, kind):
    begin = at
    byte = load8(at)
    if byte == _QUOTE:
        found = _contraction(at, end, False)
        if found:
            return found
    char = char_at(at, end, table)
    after = at + (char >> 8)
    if byte == 32 and after < end:
        following = char_at(after, end, table)
        if following & WHITE == 0 and not (kind == SMOLLM and following & NUMBER):
            char = following
            after += following >> 8
    if char & LETTER:
        return _run(after, end, table, LETTER, LETTER)
    if char & NUMBER:
        return after if kind == SMOLLM else _run(after, end, table, NUMBER, NUMBER)
    if char & WHITE == 0:
        return _run(after, end, table, _SORTED, 0)
    return _white(begin, end, table, kind)


@loop
def _word(at, end, table, kind):
    """The end of a word. In ``o200k`` that is capitals, then small letters, letters without case and marks counting as both; at least one
    small letter where that can be had."""
    if kind != O200K:
        return _run(at, end, table, LETTER, LETTER)
    after_other = 0
    char = 0
    while at < end:
        char = char_at(at, end, table)
        if char & (UPPER | OTHER | EXTRA) == 0:
            break
        at += char >> 8
        if char & UPPER == 0:
            after_other = at
    if at < end and char & LETTER and char & (UPPER | OTHER) == 0:
        while at < end:
            char = char_at(at, end, table)
            if char & (LETTER | EXTRA) == 0 or char & UPPER:
                break
            at += char >> 8
    elif after_other:
        at = after_other
    if at < end and load8(at) == _QUOTE:
        found = _contraction(at, end, True)
        if found:
            return found
    return at


@loop
def _number(after, end, table, most):
    """The end of a number of at most so many digits, of which the first ends here."""
    for _ in range(most - 1):
        if after >= end:
            break
        char = char_at(after, end, table)
        if char & NUMBER == 0:
            break
        after += char >> 8
    return after


@loop
def _breaks(at, end, kind):
    """The end of line breaks, in ``o200k`` also slashes."""
    while at < end:
        byte = load8(at)
        if byte != _LF and byte != _CR and not (kind == O200K and byte == _SLASH):
            break
        at += 1
    return at


@loop
def _match_cl100k(at, end, table, kind):
    byte = load8(at)
    if byte == _QUOTE and kind != O200K:
        found = _contraction(at, end, True)
        if found:
            return found
    letters = LETTER | EXTRA if kind == O200K else LETTER
    char = char_at(at, end, table)
    after = at + (char >> 8)
    if char & letters:
        return _word(at, end, table, kind)
    if char & NUMBER:
        return _number(after, end, table, 1 if kind == QWEN2 else 3)
    following = char_at(after, end, table) if after < end else WHITE
    if following & letters and byte != _LF and byte != _CR:
        return _word(after, end, table, kind)
    if byte == 32 and following & _SORTED == 0:
        char = following
        after += following >> 8
    if char & WHITE == 0:
        return _breaks(_run(after, end, table, _SORTED, 0), end, kind)
    return _white(at, end, table, kind)


@loop
def _is_ascii_letter(at):
    return (load8(at) | 32) - 97 >= 0 and (load8(at) | 32) - 97 < 26


@loop
def _match_deepseek(at, end, table):
    sort = _SORTED | EXTRA | HARD  # none: punctuation and symbols; HARD alone: neither letter, number, white space nor these
    byte = load8(at)
    char = char_at(at, end, table)
    after = at + (char >> 8)
    if char & NUMBER:
        return _number(after, end, table, 3)
    if char & EXTRA:
        return _run(after, end, table, EXTRA, EXTRA)
    if char & LETTER:
        return _run(after, end, table, LETTER, LETTER)
    following = char_at(after, end, table) if after < end else WHITE
    if char & sort == 0 and byte < 128 and after < end and _is_ascii_letter(after):
        while after < end and _is_ascii_letter(after):
            after += 1
        return after
    if char & sort and following & LETTER and byte != _LF and byte != _CR:
        return _run(after, end, table, LETTER, LETTER)
    if byte == 32 and following & sort == 0:
        char = following
        after += following >> 8
    if char & sort == 0:
        return _breaks(_run(after, end, table, sort, 0), end, DEEPSEEK)
    if char & WHITE:
        return _white(at, end, table, DEEPSEEK)
    while after < end:  # what the pattern does not match
        char = char_at(after, end, table)
        following = char_at(after + (char >> 8), end, table) if after + (char >> 8) < end else WHITE
        if char & sort != HARD or following & LETTER:
            break
        after += char >> 8
    return after


@loop
def match(at, end, table, kind):
    """The end of the pre-token that begins here; there is at least one byte."""
    if kind <= SMOLLM:
        return _match_gpt2(at, end, table, kind)
    if kind <= O200K:
        return _match_cl100k(at, end, table, kind)
    return _match_deepseek(at, end, table)
