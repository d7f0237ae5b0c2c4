"""A ``.gguf`` file: what its header says, and where each tensor's bytes are. The format of llama.cpp (``docs/gguf.md`` of ggml).

The header is read here and not by the ``gguf`` package, which keeps an array for every string of the vocabulary: on a vocabulary of 49,152
that is tens of times slower (docs/lab.md), and a broken count can keep it busy for ever. Tests hold this reader against that one.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from groundup.errors import GroundupError, UsageError

Value = TypeVar("Value", int, float, bool, str)

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4

BLOCKS: dict[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q6_K": (256, 210),
}
"""Ways to store numbers that we read: how many a block holds, and its bytes."""

_KINDS = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor stands in the file and how."""

    name: str
    """As the file has it."""
    kind: str
    """How numbers are stored: a key of ``BLOCKS``, or one that we do not read."""
    shape: tuple[int, ...]
    """Rows first: the last dimension is contiguous. (The file lists them the other way round.)"""
    offset: int
    """Of its first byte in the file."""

    @property
    def n_bytes(self) -> int:
        """Bytes it takes; 0 for a kind that we do not know."""
        numbers, n_bytes = BLOCKS.get(self.kind, (1, 0))
        return prod(self.shape) // numbers * n_bytes


class GGUFFile:
    """A file whose header is read and whose tensors are mapped, not read.

    Raises UsageError for a file that is not there or is of a version that we do not read, GroundupError for one that is broken or cut off.
    """

    metadata: dict[str, Any]
    """Numbers, texts, lists of texts, and arrays of numbers, by key."""
    tensors: dict[str, StoredTensor]
    """By name, in the file's order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                if file.read(4) != MAGIC:
                    raise UsageError(f"{path} is no GGUF file (it does not begin with GGUF): give a .gguf of a language model")
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror}): give a .gguf file") from error
        try:
            self.metadata, stored, end = _Header(self._data).read()
        except (struct.error, ValueError, LookupError) as error:
            raise GroundupError(f"{path} is broken in its header ({error}): get it again") from error
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise GroundupError(f"{path} is broken: general.alignment is {alignment!r}; get it again")
        start = -(-end // alignment) * alignment
        self.tensors = {t.name: StoredTensor(t.name, t.kind, t.shape, start + t.offset) for t in stored}
        if len(self.tensors) < len(stored):
            raise GroundupError(f"{path} is broken: two of its tensors have one name; get it again")
        for tensor in self.tensors.values():
            self._check(tensor)

    def _check(self, tensor: StoredTensor) -> None:
        numbers, _ = BLOCKS.get(tensor.kind, (1, 0))
        if not tensor.shape or tensor.shape[-1] % numbers:
            raise GroundupError(
                f"{self.path} is broken: {tensor.name} has rows of {tensor.shape[-1:]} numbers, and {tensor.kind} holds {numbers} a block"
            )
        if tensor.offset + tensor.n_bytes > len(self._data):
            raise GroundupError(
                f"{self.path} is cut off: {tensor.name} ends at byte {tensor.offset + tensor.n_bytes:,}, the file at "
                f"{len(self._data):,}; get the whole file"
            )

    def check_kind(self, name: str) -> None:
        """Raises UsageError for a tensor whose numbers are stored in a way that we do not read."""
        kind = self.tensors[name].kind
        if kind not in BLOCKS:
            raise UsageError(f"{self.path}: {name} is stored as {kind}, which is not supported: get a file in {', '.join(BLOCKS)}")

    def blocks(self, name: str) -> np.ndarray:
        """A tensor's bytes as stored, uint8, shape [blocks, bytes of one], as a view of the file."""
        self.check_kind(name)
        tensor = self.tensors[name]
        flat = np.frombuffer(self._data, np.uint8, tensor.n_bytes, tensor.offset)
        return flat.reshape(-1, BLOCKS[tensor.kind][1])

    @cached_property
    def architecture(self) -> str:
        """``general.architecture``, by which other keys begin."""
        return str(self.metadata.get("general.architecture", ""))

    def value(self, key: str, kind: type[Value]) -> Value | None:
        """A value of the header, None where it lacks the key; GroundupError for one of another type. A whole number is a float too."""
        found = self.metadata.get(key)
        fits = isinstance(found, int | float if kind is float else kind) and (kind is bool or not isinstance(found, bool))
        if found is not None and not fits:
            raise GroundupError(f"{self.path} is broken: {key} in its header is {found!r}, which is no {kind.__name__}; get it again")
        return found


class _Header:
    """Reads the header from front to back; every count is held against the bytes that are left before it is believed."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 4

    def read(self) -> tuple[dict[str, Any], list[StoredTensor], int]:
        """Metadata, tensors with offsets from where data begins, and where the header ends."""
        version = self._number("<u4")
        if version not in VERSIONS:
            raise ValueError(f"version {version}, where {' and '.join(map(str, VERSIONS))} are read")
        n_tensors, n_keys = self._count(24), self._count(12)
        metadata: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._text()
            metadata[key] = self._value(self._number("<u4"))
        return metadata, [self._tensor() for _ in range(n_tensors)], self.at

    def _take(self, n_bytes: int) -> int:
        """Moves past some bytes and says where they began."""
        start, self.at = self.at, self.at + n_bytes
        if self.at > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data):,}, in the middle of the header")
        return start

    def _number(self, dtype: str) -> Any:
        return np.frombuffer(self.data, dtype, 1, self._take(np.dtype(dtype).itemsize))[0].item()

    def _count(self, least_bytes: int) -> int:
        """A count of things that take at least so many bytes each."""
        count = self._number("<u8")
        if count * least_bytes > len(self.data) - self.at:
            raise ValueError(f"a count of {count:,} at byte {self.at - 8:,}, which the file cannot hold")
        return count

    def _text(self) -> str:
        n_bytes = self._count(1)
        start = self._take(n_bytes)
        return self.data[start : start + n_bytes].decode()

    def _texts(self, count: int) -> list[str]:
        data, at, found, size = self.data, self.at, [], len(self.data)
        length = struct.Struct("<Q").unpack_from
        for _ in range(count):
            end = at + 8 + length(data, at)[0]
            if end > size:
                raise ValueError(f"a text at byte {at:,} that ends behind the file")
            found.append(data[at + 8 : end].decode("utf-8", "surrogateescape"))
            at = end
        self.at = at
        return found

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        of = self._number("<u4")
        if of == _ARRAY:
            raise ValueError("an array of arrays, which is not supported")
        if of == _STRING:
            return self._texts(self._count(8))
        dtype = np.dtype(_SCALARS[of])
        count = self._count(dtype.itemsize)
        return np.frombuffer(self.data, dtype, count, self._take(count * dtype.itemsize))

    def _tensor(self) -> StoredTensor:
        name, n_dimensions = self._text(), self._number("<u4")
        if n_dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"{name} has {n_dimensions} dimensions")
        shape = tuple(self._number("<u8") for _ in range(n_dimensions))[::-1]
        kind = self._number("<u4")
        return StoredTensor(name, _KINDS.get(kind, f"type {kind}"), shape, self._number("<u8"))
