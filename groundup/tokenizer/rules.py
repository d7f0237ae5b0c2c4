"""Where pre-tokens begin, from the classes of neighbouring bytes alone: 64 bytes at a time, a machine word for each question about them.

A name in capitals is a question with one bit for each byte: L letter, N number, W white space, B the blank, P none of these; J what
``deepseek-v3`` sets apart. A digit behind it means: asked of the byte so far before. All bytes of a character have its class, so within a
character nothing begins. Every line says: a pre-token begins at a byte of this kind where one of these stands before it.
"""

from __future__ import annotations

import numpy as np

from groundup.tokenizer.classes import BLANK, EXTRA, HARD, LETTER, NUMBER, OTHER, UPPER, WHITE
from groundup.tokenizer.machine import bytes_equal, bytes_with, loop, store64
from groundup.tokenizer.matching import DEEPSEEK, O200K, QWEN2, SMOLLM

_ZERO, _ONE, _TOP = np.uint64(0), np.uint64(1), np.uint64(63)
_CASELESS = OTHER | EXTRA


@loop
def _gpt2(source, classes, n, kind, starts, hard_bytes, certain):
    """``gpt2`` and ``smollm``: a blank joins what follows; of white space the last character stands apart from the others."""
    contracted = _ZERO
    for i in range(0, n, 64):
        at, raw = classes + i, source + i
        L, L1 = bytes_with(at, LETTER), bytes_with(at - 1, LETTER)
        N, N1 = bytes_with(at, NUMBER), bytes_with(at - 1, NUMBER)
        W, W1 = bytes_with(at, WHITE), bytes_with(at - 1, WHITE)
        B, B1 = bytes_with(at, BLANK), bytes_with(at - 1, BLANK)
        ends_white = ~bytes_with(at + 1, WHITE)
        if kind == SMOLLM:
            ends_white &= ~bytes_with(at + 1, NUMBER)
        begin = (W & (~W1 | ends_white)) | (~W & ((W1 & ~B1) | (~W1 & ((L ^ L1) | (N ^ N1)))))
        if kind == SMOLLM:
            begin |= N & ~_continuation(raw)
        hard = bytes_with(at, HARD)
        quote = bytes_equal(raw, 39) & begin
        if quote != _ZERO:
            hard |= quote & (bytes_equal(raw + 1, 108) | bytes_equal(raw + 1, 114) | bytes_equal(raw + 1, 118))
            quote &= bytes_equal(raw + 1, 115) | bytes_equal(raw + 1, 116) | bytes_equal(raw + 1, 109) | bytes_equal(raw + 1, 100)
        begin &= ~((quote << _ONE) | (contracted >> _TOP))  # 's is one pre-token, and after it begins another
        begin |= (quote << np.uint64(2)) | (contracted >> np.uint64(62))
        contracted = quote
        store64(starts + (i >> 3), begin)
        store64(hard_bytes + (i >> 3), hard)
        store64(certain + (i >> 3), (~L & L1) | (B & ~W1))


@loop
def _continuation(raw):
    """Bytes 0x80..0xBF: all of a character but its first."""
    return bytes_with(raw, 0x80) & ~bytes_with(raw, 0x40)


@loop
def _alone(at, raw, K_before):
    """Is there one character of punctuation before this byte, alone, with no blank before it? Also the mask of continuation bytes."""
    K = _continuation(raw)
    before = ~_joining(at - 2)
    if (K | K_before) == _ZERO:
        return before, K
    K1 = (K << _ONE) | (K_before >> _TOP)
    K2 = (K << np.uint64(2)) | (K_before >> np.uint64(62))
    K3 = (K << np.uint64(3)) | (K_before >> np.uint64(61))
    longer = (~K2 & ~_joining(at - 3)) | (K2 & ((~K3 & ~_joining(at - 4)) | (K3 & ~_joining(at - 5))))
    return (~K1 & before) | (K1 & longer), K


@loop
def _joining(at):
    """Punctuation or the blank: what punctuation after it joins."""
    return ~bytes_with(at, LETTER | NUMBER | WHITE | EXTRA) | bytes_with(at, BLANK)


@loop
def _by_threes(N, N1, at, starts_before):
    """Where in runs of numbers a pre-token of at most three begins; ``starts_before`` says so of the last three bytes before these."""
    begin = N & ~N1
    inner = N & N1 & bytes_with(at - 2, NUMBER) & bytes_with(at - 3, NUMBER)
    if inner != _ZERO:
        following = ((begin << np.uint64(3)) | starts_before) & inner
        while following != _ZERO:
            begin |= following
            following = (following << np.uint64(3)) & inner
    return begin


@loop
def _cl100k(source, classes, n, kind, starts, hard_bytes, certain):
    """``cl100k``, ``qwen2``, ``o200k``: any one character joins a word, and line breaks join the punctuation or white space before them.

    White space between two line breaks goes with them, however long it is: adding its first bit to its bits carries to the byte behind it,
    also from one machine word to the next, and that is hard where it is a line break.
    """
    carry = breaks_before = K_before = numbers = _ZERO
    for i in range(0, n, 64):
        at, raw = classes + i, source + i
        L, L1 = bytes_with(at, LETTER), bytes_with(at - 1, LETTER)
        certain_here = ~L & L1
        hard = bytes_with(at, HARD)
        quote = bytes_equal(raw, 39)
        if kind == O200K:
            marks, marks1 = bytes_with(at, EXTRA), bytes_with(at - 1, EXTRA)
            capital, case1 = bytes_with(at, UPPER), bytes_with(at - 1, UPPER | _CASELESS)
            split = capital & L1 & ~case1
            hard |= capital & bytes_with(at - 1, _CASELESS)
            L, L1 = L | marks, L1 | marks1
            hard |= (marks & ~L1) | (quote & L1 & bytes_with(at + 1, LETTER))
            certain_here &= ~L & ~quote
        N, N1 = bytes_with(at, NUMBER), bytes_with(at - 1, NUMBER)
        W, W1 = bytes_with(at, WHITE), bytes_with(at - 1, WHITE)
        B, B1 = bytes_with(at, BLANK), bytes_with(at - 1, BLANK)
        breaks = bytes_equal(raw, 10) | bytes_equal(raw, 13)
        breaks1 = (breaks << _ONE) | breaks_before
        breaks_before = breaks >> _TOP
        spaces = W & ~breaks
        P, P1 = ~(L | N | W), ~(L1 | N1 | W1)
        alone, K_before = _alone(at, raw, K_before)
        begin = spaces & (~W1 | breaks1 | ~bytes_with(at + 1, WHITE))
        begin |= breaks & (L1 | N1)
        begin |= P & (L1 | N1 | (W1 & ~B1))
        begin |= L & ~L1 & (N1 | breaks1 | (P1 & ~alone))
        if kind == QWEN2:
            begin |= N & ~K_before
        else:
            numbers = _by_threes(N, N1, at, numbers >> np.uint64(61))
            begin |= numbers
        if kind == O200K:
            begin |= split
            hard |= bytes_equal(raw, 47) & breaks1
        else:
            hard |= quote & begin & bytes_with(at + 1, LETTER) & bytes_with(at + 2, LETTER)
        indents = (spaces & breaks1) + carry
        carried = spaces + indents
        carry = _ONE if carried < spaces else _ZERO
        hard |= carried & ~spaces & breaks
        store64(starts + (i >> 3), begin)
        store64(hard_bytes + (i >> 3), hard)
        store64(certain + (i >> 3), certain_here | (B & ~W1))


@loop
def _deepseek(source, classes, n, starts, hard_bytes, certain):
    """``deepseek-v3``: only ASCII punctuation joins a word, and that of ASCII letters; numbers and Chinese stand apart before all else."""
    carry = breaks_before = K_before = numbers = _ZERO
    for i in range(0, n, 64):
        at, raw = classes + i, source + i
        L, L1 = bytes_with(at, LETTER), bytes_with(at - 1, LETTER)
        N, N1 = bytes_with(at, NUMBER), bytes_with(at - 1, NUMBER)
        W, W1 = bytes_with(at, WHITE), bytes_with(at - 1, WHITE)
        B, B1 = bytes_with(at, BLANK), bytes_with(at - 1, BLANK)
        J, J1 = bytes_with(at, EXTRA), bytes_with(at - 1, EXTRA)
        breaks = bytes_equal(raw, 10) | bytes_equal(raw, 13)
        breaks1 = (breaks << _ONE) | breaks_before
        breaks_before = breaks >> _TOP
        spaces = W & ~breaks
        P, P1 = ~(L | N | W | J), ~(L1 | N1 | W1 | J1)
        K = _continuation(raw)
        K1 = (K << _ONE) | (K_before >> _TOP)
        K_before = K
        beyond = bytes_with(raw, 0x80)
        ascii_joins = ~beyond & ~K1 & ~_joining(at - 2)
        begin = spaces & (~W1 | breaks1 | ~bytes_with(at + 1, WHITE | NUMBER | EXTRA))
        begin |= breaks & (L1 | N1 | J1)
        begin |= P & (L1 | N1 | J1 | (W1 & ~B1))
        begin |= L & ~L1 & (N1 | J1 | breaks1 | (P1 & ~ascii_joins))
        numbers = _by_threes(N, N1, at, numbers >> np.uint64(61))
        begin |= numbers | (J & ~J1)
        hard = bytes_with(at, HARD)
        hard |= L & beyond & L1 & ~K1 & ~K
        indents = (spaces & breaks1) + carry
        carried = spaces + indents
        carry = _ONE if carried < spaces else _ZERO
        hard |= carried & ~spaces & breaks
        store64(starts + (i >> 3), begin)
        store64(hard_bytes + (i >> 3), hard)
        store64(certain + (i >> 3), (~L & L1) | (B & ~W1))


@loop
def boundaries(source, classes, n, kind, starts, hard_bytes, certain):
    """Writes three bits for each of n bytes: whether a pre-token begins here, whether that is hard to say, and whether it is certain.

    ``classes`` are those of the bytes at ``source`` and 64 more, with WHITE before them; what begins at the first byte is not said.
    """
    if kind <= SMOLLM:
        _gpt2(source, classes, n, kind, starts, hard_bytes, certain)
    elif kind < DEEPSEEK:
        _cl100k(source, classes, n, kind, starts, hard_bytes, certain)
    else:
        _deepseek(source, classes, n, starts, hard_bytes, certain)
