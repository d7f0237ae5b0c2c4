"""What general compressors make of the held-out text: alone, and after the training text, as one who has read it."""

from __future__ import annotations

import gzip
import lzma
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec


@dataclass(frozen=True)
class Compressed:
    """One compressor on the held-out text."""

    name: str
    """With its settings."""
    bits_per_byte: float
    """8 x size / bytes, the held-out text alone."""
    after_training: float
    """8 x (size of both - size of the training text) / bytes: what the held-out text adds once the training text is known."""
    training_bytes: int
    """How much of the training text that was, its end: what the seconds held."""


def _zstd(data: bytes) -> bytes:
    zstandard = import_module("zstandard")
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, enable_ldm=True)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _brotli(data: bytes) -> bytes:
    return import_module("brotli").compress(data, quality=11, lgwin=24)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip -9": lambda data: gzip.compress(data, 9),
    "xz -9e": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    "zstd -22": _zstd,
    "brotli -11": _brotli,
}
"""Each at its best settings."""
NEEDS = {"zstd -22": "zstandard", "brotli -11": "brotli"}
"""Modules that may not be there; the others are Python's own."""
SLOWER = 3.0
"""A long text takes so many times longer a byte than a short one: there is more to find matches in."""


def available() -> list[str]:
    """The compressors whose modules are installed."""
    return [name for name in COMPRESSORS if name not in NEEDS or find_spec(NEEDS[name]) is not None]


def compress(name: str, train: bytes, held_out: bytes, seconds: float) -> Compressed:
    """A compressor's bits per byte of the held-out text, alone and after the end of the training text: as much as the seconds hold."""
    call, bits = COMPRESSORS[name], 8 / len(held_out)
    began = time.perf_counter()
    alone = len(call(held_out))
    spent = time.perf_counter() - began
    room = (seconds - spent) / (2 * SLOWER) / spent * len(held_out)
    known = train[len(train) - max(0, min(len(train), int(room))) :]
    return Compressed(name, bits * alone, bits * (len(call(known + held_out)) - len(call(known))), len(known))
