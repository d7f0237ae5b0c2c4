"""A model as a compressor: its bits per byte, paid in a file that comes back to the same bytes.

The decoder repeats the encoder's arithmetic, so it must come to the same probabilities to the last bit: the same model, on the same kind of
machine, with the same library and the same number of threads. A file carries a hash of the model's first distributions, so that another
model, or another arithmetic, is told before it decodes anything; and a checksum of the text, for what should differ only later.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from groundup.errors import GroundupError, UsageError
from groundup.evaluate.arithmetic_coder import Decoder, Encoder, cumulative_counts
from groundup.evaluate.protocol import Cursor, checked

MAGIC = b"GUC1"
PROBE_BYTES, CHECKSUM_BYTES = 8, 4
PROBED_TOKENS = 8
TOLD_EVERY = 256  # tokens between reports of progress

Progress = Callable[[int, int], None]
"""Told tokens done and tokens in all."""


@runtime_checkable
class Compressor(Protocol):
    """What coding needs of a model: a ``Predictor`` that knows its tokens."""

    name: str
    vocab_size: int
    prefix: tuple[int, ...]

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """Tokens of a text."""
        ...

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """The text of tokens."""
        ...

    def start(self) -> Cursor:
        """A cursor before the first token."""
        ...


@dataclass(frozen=True)
class Compressed:
    """A file, and what it should have cost."""

    data: bytes
    """The whole file."""
    n_source_bytes: int
    """Bytes of the text."""
    n_code_bytes: int
    """Bytes of the code, without the header."""
    promised_bits: float
    """Sum of -log2 p over the tokens: what the model's score promises for this text, read from its start."""

    @property
    def overhead(self) -> float:
        """Bits of the code over the promised ones, minus one."""
        return 8 * self.n_code_bytes / self.promised_bits - 1 if self.promised_bits else math.inf


def compress(model: Compressor, text: bytes, *, progress: Progress | None = None) -> Compressed:
    """Codes a text; UsageError where the model's tokens do not give its bytes back, GroundupError for probabilities that are none."""
    tokens = model.encode(text)
    if model.decode(tokens) != text:
        raise UsageError(f"{model.name}: the tokens of this text do not give its bytes back, so it cannot be coded by them")
    cursor, encoder, bits = _opened(model), Encoder(), 0.0
    for i, token in enumerate(tokens.tolist()):
        p = checked(cursor.probabilities(), model.name)
        bits -= math.log2(p[token]) if p[token] > 0 else -math.inf
        encoder.encode(cumulative_counts(p), token)
        cursor.push(token)
        if progress and i % TOLD_EVERY == 0:
            progress(i, len(tokens))
    code = encoder.finish() if len(tokens) else b""
    header = MAGIC + _probe(model) + _checksum(text) + b"".join(map(_varint, (len(tokens), len(code))))
    return Compressed(header + code, len(text), len(code), bits)


def decompress(model: Compressor, data: bytes, *, progress: Progress | None = None) -> bytes:
    """The text that ``compress`` coded; GroundupError for what is no such file, truncated, or of another model or arithmetic."""
    if data[: len(MAGIC)] != MAGIC:
        raise GroundupError("this is no file of `groundup compress`: it does not begin with GUC1")
    fixed = len(MAGIC) + PROBE_BYTES
    probe, checksum = data[len(MAGIC) : fixed], data[fixed : fixed + CHECKSUM_BYTES]
    n_tokens, at = _read_varint(data, fixed + CHECKSUM_BYTES)
    n_code, at = _read_varint(data, at)
    if len(data) - at != n_code:
        what = "truncated" if len(data) - at < n_code else "longer than it says"
        raise GroundupError(f"the compressed file is {what}: {n_code:,} bytes of code told, {len(data) - at:,} there; get it again")
    if probe != _probe(model):
        raise GroundupError(
            f"the file was not written by {model.name} as it computes here (probe {probe.hex()}, this model's {_probe(model).hex()}): "
            "take the model that wrote it, with the same number of threads, library and kind of machine"
        )
    cursor, decoder, tokens = _opened(model), Decoder(data[at:]), np.empty(n_tokens, np.int64)
    for i in range(n_tokens):
        token = tokens[i] = decoder.decode(cumulative_counts(checked(cursor.probabilities(), model.name)))
        cursor.push(int(token))
        if progress and i % TOLD_EVERY == 0:
            progress(i, n_tokens)
    text = model.decode(tokens)
    if _checksum(text) != checksum:
        raise GroundupError(
            f"the text that {model.name} decoded does not match the file's checksum: the file is damaged, or this machine's arithmetic "
            "departed from the writer's; decode with the same number of threads, library and kind of machine"
        )
    return text


def _opened(model: Compressor) -> Cursor:
    cursor = model.start()
    for token in model.prefix:
        cursor.push(token)
    return cursor


def _probe(model: Compressor) -> bytes:
    """Hash of the counts of the model's first distributions over fixed tokens."""
    cursor, hashed = _opened(model), hashlib.blake2b(digest_size=PROBE_BYTES)
    for i in range(PROBED_TOKENS):
        hashed.update(cumulative_counts(checked(cursor.probabilities(), model.name)).tobytes())
        cursor.push(7919 * (i + 1) % model.vocab_size)
    return hashed.digest()


def _checksum(text: bytes) -> bytes:
    return zlib.crc32(text).to_bytes(CHECKSUM_BYTES, "little")


def _varint(n: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    n = shift = 0
    while at < len(data) and shift < 64:
        n |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return n, at
    raise GroundupError("the compressed file is truncated inside its header: get it again")
