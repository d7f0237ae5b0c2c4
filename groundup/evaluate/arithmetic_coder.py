"""Arithmetic coding (Witten, Neal & Cleary 1987) in whole numbers, and how a distribution becomes whole counts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

SCALE = 1 << 40
"""What counts sum to, nearly: probability p becomes 1 + floor(p SCALE), and the ones for the V symbols take V / SCALE of the whole."""
STATE_BITS = 62
_TOP = (1 << STATE_BITS) - 1
_HALF, _QUARTER = 1 << (STATE_BITS - 1), 1 << (STATE_BITS - 2)
# The state's span stays above a quarter of 2^62, so a share of it is exact to SCALE / 2^60 = 2^-20 of the least count, and no symbol's
# share is empty.


def cumulative_counts(p: Float64[np.ndarray, " v"]) -> Int64[np.ndarray, " v1"]:
    """[0, c_0, c_0 + c_1, ...] with c_i = 1 + floor(p_i SCALE): no symbol is impossible, whatever the model says.

    One multiplication and a floor each, so the same wherever p is the same to the bit.
    """
    out = np.zeros(len(p) + 1, np.int64)
    np.cumsum((p * SCALE).astype(np.int64) + 1, out=out[1:])
    return out


class Encoder:
    """Symbols in, bytes out: the code is the bits that all numbers of the final interval begin with."""

    def __init__(self) -> None:
        self._low, self._high, self._pending = 0, _TOP, 0
        self._bits = bytearray()  # one bit a byte, until the end

    def encode(self, cumulative: Int64[np.ndarray, " v1"], symbol: int) -> None:
        """Codes a symbol in log2(total / count) bits."""
        low, high = self._low, self._high
        each = (high - low + 1) // int(cumulative[-1])
        low, high = low + each * int(cumulative[symbol]), low + each * int(cumulative[symbol + 1]) - 1
        while True:
            if high < _HALF:
                self._settle(0)
            elif low >= _HALF:
                self._settle(1)
                low, high = low - _HALF, high - _HALF
            elif low >= _QUARTER and high < _HALF + _QUARTER:
                self._pending += 1  # the interval straddles the middle: the next settled bit says on which side this one was
                low, high = low - _QUARTER, high - _QUARTER
            else:
                break
            low, high = 2 * low, 2 * high + 1
        self._low, self._high = low, high

    def finish(self) -> bytes:
        """Ends the code with the two or more bits that keep it inside the interval, and gives its bytes."""
        self._pending += 1
        self._settle(int(self._low >= _QUARTER))
        return np.packbits(np.frombuffer(self._bits, np.uint8)).tobytes()

    def _settle(self, bit: int) -> None:
        self._bits.append(bit)
        self._bits.extend(bytes([1 - bit]) * self._pending)
        self._pending = 0


class Decoder:
    """The bytes of an ``Encoder`` in, the symbols out, given the same counts in the same order. Beyond its end a code is zeros."""

    def __init__(self, code: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(code, np.uint8)).tolist()
        self._at, self._low, self._high, self._value = 0, 0, _TOP, 0
        for _ in range(STATE_BITS):
            self._value = 2 * self._value + self._next()

    def decode(self, cumulative: Int64[np.ndarray, " v1"]) -> int:
        """The next symbol."""
        low, high, value = self._low, self._high, self._value
        each = (high - low + 1) // int(cumulative[-1])
        symbol = int(np.searchsorted(cumulative, min((value - low) // each, int(cumulative[-1]) - 1), side="right")) - 1
        low, high = low + each * int(cumulative[symbol]), low + each * int(cumulative[symbol + 1]) - 1
        while True:
            if high < _HALF:
                shift = 0
            elif low >= _HALF:
                shift = _HALF
            elif low >= _QUARTER and high < _HALF + _QUARTER:
                shift = _QUARTER
            else:
                break
            low, high, value = 2 * (low - shift), 2 * (high - shift) + 1, 2 * (value - shift) + self._next()
        self._low, self._high, self._value = low, high, value
        return symbol

    def _next(self) -> int:
        self._at += 1
        return self._bits[self._at - 1] if self._at <= len(self._bits) else 0
