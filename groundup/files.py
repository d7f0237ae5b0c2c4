"""Files that are whole or not there, and a full disk said in one sentence."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from groundup.errors import GroundupError, UsageError


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a folder that may not be written into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        number = e.errno if isinstance(e, OSError) else _system_error(e)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise GroundupError(f"{path}: the disk is full; free some space and resume: the last checkpoint is whole") from e
        why = os.strerror(number) if number is not None else e
        raise GroundupError(f"{path}: cannot be written ({why}); check the folder's permissions") from e


def _system_error(e: SafetensorError) -> int | None:
    """The number of the system's error, which safetensors gives in its text only."""
    found = re.search(r"os error (\d+)", str(e))
    return int(found[1]) if found else None


def write_file(path: Path, text: str) -> None:
    """Writes a text file whole."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole: temporary name, flush, rename. What cannot be written is not there, and what was there before stays."""
    partial = path.with_name(path.name + ".partial")
    try:
        with disk_errors(path):
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def settle(partial: Path, path: Path) -> None:
    """Gives a file that is written under a temporary name its own, once all of it is on the disk."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UsageError for one that is not there, GroundupError for one that is broken."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): get the whole folder") from error
    except (ValueError, RecursionError) as error:
        raise GroundupError(f"{path} is broken ({error}): get it again") from error
    if not isinstance(found, dict):
        raise GroundupError(f"{path} is broken: it holds no object; get it again")
    return found


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes an object as a JSON file, whole."""
    write_file(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
