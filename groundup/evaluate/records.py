"""Records of a task's file: JSONL (plain or .gz) or Parquet, with every missing field named by file, line and field."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from groundup.data.formats import require
from groundup.errors import UsageError

T = TypeVar("T")
NAMES = {str: "text", int: "a whole number", list: "a list"}


class Record:
    """One line, which names itself when a field is missing or of another kind."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def get(self, field: str, kind: type[T]) -> T:
        """The field's value; UsageError naming file, line and field."""
        if field not in self.values:
            raise UsageError(f"{self.where} has no field {field!r}: it has {', '.join(sorted(self.values)) or 'none'}")
        value = self.values[field]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"{self.where}: field {field!r} holds {type(value).__name__}, not {NAMES[kind]}")
        return value

    def texts(self, field: str) -> list[str]:
        """A list of texts, at least one."""
        values = self.get(field, list)
        if not values or not all(isinstance(value, str) for value in values):
            raise UsageError(f"{self.where}: field {field!r} must hold texts, at least one")
        return values

    def index(self, field: str, n: int) -> int:
        """A number below n."""
        value = self.get(field, int)
        if not 0 <= value < n:
            raise UsageError(f"{self.where}: field {field!r} is {value}, but there are {n} choices, counted from 0")
        return value


def read_records(path: Path) -> list[Record]:
    """All records of a file; UsageError naming the file and line of what cannot be read."""
    if path.suffix == ".parquet":
        table = require("pyarrow.parquet", f"reading {path}")
        try:
            rows = table.read_table(path).to_pylist()
        except Exception as error:  # pyarrow raises OSError, ArrowInvalid and others for broken files
            raise UsageError(f"{path} cannot be read as Parquet ({str(error).partition(chr(10))[0]}): get it again") from error
        return [Record(row, f"{path} row {i}") for i, row in enumerate(rows, start=1)]
    return [Record(_object(line, f"{path} line {i}"), f"{path} line {i}") for i, line in _lines(path) if line.strip()]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    opener: Callable = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            yield from enumerate(file, start=1)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}): get it again") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON ({error}): the file is truncated or not one object a line") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where} is not a JSON object but {type(values).__name__}: write one object a line")
    return values


def find_file(folder: Path, name: str) -> Path:
    """``name`` with .jsonl, .jsonl.gz or .parquet, in the folder or anywhere below it; UsageError if none or several are there."""
    found = sorted(p for end in (".jsonl", ".jsonl.gz", ".parquet") for p in folder.rglob(name + end))
    direct = [path for path in found if path.parent == folder]
    if not found:
        raise UsageError(
            f"--data {folder}: no {name}.jsonl, .jsonl.gz or .parquet in it or below; name the folder that holds the task's file"
        )
    if len(found) > 1 and len(direct) != 1:
        raise UsageError(f"--data {folder}: several files are called {name} ({', '.join(map(str, found[:3]))}): name a folder with one")
    return direct[0] if direct else found[0]
