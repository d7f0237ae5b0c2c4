"""A text file as memory, and a ``.npy`` file of ids written as they come."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from groundup.errors import UsageError
from groundup.files import disk_errors, settle


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    """A file as memory; raises UsageError when it cannot be read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give a file") from error
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def write_ids(path: Path, parts: Iterable[np.ndarray], vocab_size: int) -> int:
    """Writes ids as one ``.npy`` array, uint16 where the vocabulary allows, else uint32; returns how many they are.

    The file is whole or not there. Raises GroundupError when it cannot be written.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    partial = path.with_name(path.name + ".partial")
    total = 0
    try:
        with disk_errors(path), partial.open("wb") as file:
            file.write(_header(dtype, 0))
            for ids in parts:
                file.write(memoryview(ids.astype(dtype)))
                total += ids.size
            file.seek(0)
            file.write(_header(dtype, total))
        with disk_errors(path):
            settle(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return total


def _header(dtype: np.dtype, n: int) -> bytes:
    """The first 128 bytes of a ``.npy`` file of n numbers."""
    described = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': ({n},), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + described.ljust(117).encode() + b"\n"
