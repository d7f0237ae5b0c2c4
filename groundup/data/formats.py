"""File formats: one file in, its documents out, streaming; every broken file is a UsageError that names it."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from groundup.errors import UsageError

SEPARATOR = b"<|endoftext|>"
"""Where a plain text file is split into documents; not a part of either."""
CHUNK_BYTES = 1 << 20
SNIFFED_BYTES = 8192


class Document(NamedTuple):
    """One piece of text that belongs together: a file, a row of a table, a page."""

    id: str
    """Where it comes from: a relative path, with ``#row`` (from 1) when the file holds several."""
    text: bytes
    """Its bytes as read, UTF-8 or not."""


class BinaryFileError(UsageError):
    """A file that holds no text: a NUL byte in its first 8 KiB (UTF-8 text has none)."""


def read_documents(path: Path, id: str, text_field: str) -> Iterator[Document]:
    """The documents of one file, empty ones included, in its order and in constant memory (but for the largest document).

    ``.parquet``, ``.jsonl`` (one object a line) give one document a row; anything else is plain text, split at ``SEPARATOR``.
    Text and JSONL may be compressed (``.gz``, ``.zst``). Raises BinaryFileError for plain text that is none, and UsageError naming the
    file for what is unreadable, truncated, corrupt or lacks ``text_field``.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".parquet"]:
        return _parquet_documents(path, id, text_field)
    if suffixes[-1:] in ([".gz"], [".zst"]):
        suffixes.pop()
    if suffixes[-1:] == [".jsonl"]:
        return _jsonl_documents(path, id, text_field)
    return _text_documents(path, id)


def require(module: str, purpose: str) -> ModuleType:
    """Imports a module of the ``hub`` extra, or raises UsageError saying how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"{purpose} needs the package {module.partition('.')[0]}: pip install 'groundup[hub]'") from error


def _text_documents(path: Path, id: str) -> Iterator[Document]:
    chunks = _chunks(path)
    head = next(chunks, b"")
    if b"\0" in head[:SNIFFED_BYTES]:
        raise BinaryFileError(
            f"{path} is not text (a NUL byte in its first {SNIFFED_BYTES} bytes): name text files, or convert it to UTF-8"
        )
    pieces = _split(itertools.chain((head,), chunks), SEPARATOR)
    first, second = next(pieces), next(pieces, None)
    if second is None:
        yield Document(id, first)
        return
    for row, piece in enumerate(itertools.chain((first, second), pieces), start=1):
        yield Document(f"{id}#{row}", piece)


def _jsonl_documents(path: Path, id: str, text_field: str) -> Iterator[Document]:
    for row, line in enumerate(_split(_chunks(path), b"\n"), start=1):
        if row == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, which JSON forbids and some editors write
        if line.strip():
            yield Document(f"{id}#{row}", _json_text(line, text_field, f"{path} row {row}"))


def _json_text(line: bytes, text_field: str, where: str) -> bytes:
    try:
        values = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON ({error}): the file is truncated or not one object a line") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where} is not a JSON object but {type(values).__name__}: write one object a line")
    if text_field not in values:
        raise UsageError(f"{where} has no field {text_field!r}: name one of {_listing(values)} with --text-field")
    text = values[text_field]
    if text is None:
        return b""
    if not isinstance(text, str):
        raise UsageError(f"{where}: field {text_field!r} holds {type(text).__name__}, not text: name a text field with --text-field")
    try:
        return text.encode("utf-8", "surrogateescape")  # bytes that were not UTF-8 come back as they were
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")  # half a surrogate pair, written as an escape


def _parquet_documents(path: Path, id: str, text_field: str) -> Iterator[Document]:
    parquet = require("pyarrow.parquet", f"reading {path}")
    arrow = importlib.import_module("pyarrow")
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            fields = {field.name: field.type for field in file.schema_arrow}
            if text_field not in fields:
                raise UsageError(f"{path} row 1 has no field {text_field!r}: name one of {_listing(fields)} with --text-field")
            kind = fields[text_field]
            kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
            if str(kind) not in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view"):
                raise UsageError(f"{path} row 1: field {text_field!r} holds {kind}, not text: name a text field with --text-field")
            for batch in file.iter_batches(columns=[text_field], batch_size=256):
                # Through the bytes, because a column of strings is not always UTF-8.
                for text in batch.column(0).cast(kind).cast(arrow.large_binary()).to_pylist():
                    row += 1
                    yield Document(f"{id}#{row}", text or b"")
    except (arrow.ArrowException, OSError) as error:
        raise UsageError(f"{path} is truncated or not Parquet, after row {row} ({_first_line(error)}): get it again") from error


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, decompressed, in pieces of about a mebibyte."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".zst":
            yield from _zstd_chunks(path)
        else:
            with gzip.open(path) if suffix == ".gz" else path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is truncated or corrupt ({_first_line(error)}): get it again") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}): check the disk and the permissions") from error


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    zstandard = require("zstandard", f"reading {path}")
    frame = None
    with path.open("rb") as file:
        while data := file.read(CHUNK_BYTES):
            while data:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
                try:
                    text = frame.decompress(data)
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from error
                if text:
                    yield text
                data = frame.unused_data if frame.eof else b""  # a file may hold several frames
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("it ends inside a frame")


def _split(chunks: Iterable[bytes], separator: bytes) -> Iterator[bytes]:
    """The pieces between separators; what follows the last one only if there is something (at least one piece in all)."""
    rest, searched, found = bytearray(), 0, False
    for chunk in chunks:
        rest += chunk
        while (end := rest.find(separator, searched)) >= 0:
            found = True
            yield bytes(rest[:end])
            del rest[: end + len(separator)]  # constant time: a bytearray remembers where it starts
            searched = 0
        searched = max(0, len(rest) - len(separator) + 1)
    if rest or not found:
        yield bytes(rest)


def _listing(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "no fields at all"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
