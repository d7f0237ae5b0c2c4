"""Files that are whole or not there, and a full disk said in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from groundup.errors import GroundupError


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a folder that may not be written into one sentence."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise GroundupError(f"{path}: the disk is full; free some space and resume: the last checkpoint is whole") from e
        raise GroundupError(f"{path}: cannot be written ({e.strerror}); check the folder's permissions") from e


def write_file(path: Path, text: str) -> None:
    """Writes a text file whole: temporary name, flush, rename."""
    partial = path.with_name(path.name + ".partial")
    with disk_errors(path):
        with partial.open("w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
