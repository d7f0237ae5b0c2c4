"""Token shards: a folder with one long stream of token ids in checked binary files, and an index of the documents in it.

``tokens-00000.bin``, ... hold a 64-byte header and the ids, little-endian, two or four bytes each; all but the last are full.
``index.npz`` holds where documents start, their sizes and ids; ``index.json`` what belongs together, with a hash of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from groundup.data.formats import Document
from groundup.errors import GroundupError, UsageError

MAGIC = b"GUTOKENS"
VERSION = 1
SHARD_TOKENS = 1 << 26
HASH_BYTES = 16
READ_BYTES = 1 << 22


class _Header(NamedTuple):
    """The first 64 bytes of a shard."""

    magic: bytes
    version: int
    token_bytes: int
    n_tokens: int
    vocab_size: int
    tokenizer: bytes
    """Hash of the tokenizer's hash: 16 bytes, whatever its form."""
    checksum: bytes
    """BLAKE2b of the ids."""


_HEADER = struct.Struct("<8sIIQQ16s16s")


def write_shards(
    documents: Iterable[tuple[Document, Integer[np.ndarray, " _"]]],
    folder: Path,
    *,
    vocab_size: int,
    tokenizer_hash: str,
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Writes documents with their token ids (``<|endoftext|>`` first, as they are to be stored) to a new folder, streaming.

    The folder appears complete or not at all. Memory: about 16 bytes and the id for each document. Raises UsageError when the folder
    exists or there are no documents; GroundupError for an id outside the vocabulary, a document without tokens, or a full disk.
    """
    with ShardsWriter(folder, vocab_size=vocab_size, tokenizer_hash=tokenizer_hash, shard_tokens=shard_tokens) as writer:
        for document, tokens in documents:
            writer.add(document, tokens)


class ShardsWriter:
    """``write_shards`` for whoever writes several folders in one go: a context that takes one document at a time."""

    def __init__(self, folder: Path, *, vocab_size: int, tokenizer_hash: str, shard_tokens: int = SHARD_TOKENS) -> None:
        self.folder = Path(folder)
        if self.folder.exists():
            raise UsageError(f"{folder} exists already: remove it or write the tokens elsewhere")
        self._partial = self.folder.with_name(f".{self.folder.name}.partial")
        self._sizes_of = {"vocab_size": vocab_size, "tokenizer_hash": tokenizer_hash, "shard_tokens": shard_tokens}
        self._starts, self._sizes, self._id_ends, self._ids = array("q", [0]), array("q"), array("q"), bytearray()
        self._ids_file = _IdsWriter(self._partial, vocab_size, tokenizer_hash, shard_tokens)

    def __enter__(self) -> ShardsWriter:
        with self._disk_errors():
            shutil.rmtree(self._partial, ignore_errors=True)  # what a killed process left
            self._partial.mkdir(parents=True)
        return self

    def add(self, document: Document, tokens: Integer[np.ndarray, " _"]) -> None:
        """Appends a document."""
        vocab_size = self._sizes_of["vocab_size"]
        if not len(tokens):
            raise GroundupError(f"document {document.id} has no tokens, not even <|endoftext|>: store each with it")
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
            raise GroundupError(f"document {document.id} has a token outside the vocabulary of {vocab_size}: encode it with its tokenizer")
        with self._disk_errors():
            self._ids_file.write(tokens)
        self._starts.append(self._starts[-1] + len(tokens))
        self._sizes.append(len(document.text))
        self._ids += document.id.encode("utf-8", "surrogateescape")
        self._id_ends.append(len(self._ids))

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            with self._disk_errors():
                self._ids_file.close()
                if kind is None:
                    self._finish()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _finish(self) -> None:
        if not self._sizes:
            raise UsageError(f"no documents to store in {self.folder}: give some text")
        npz = io.BytesIO()
        arrays = {"document_starts": self._starts, "document_bytes": self._sizes, "id_ends": self._id_ends}
        np.savez(npz, ids=np.frombuffer(self._ids, np.uint8), **{name: np.array(values, np.int64) for name, values in arrays.items()})
        _write_file(self._partial / "index.npz", npz.getbuffer())
        index = {"version": VERSION, "n_tokens": self._starts[-1], "n_documents": len(self._sizes), "n_bytes": sum(self._sizes)}
        index |= self._sizes_of | {"index_blake2b": _hash(npz.getbuffer()).hex()}
        _write_file(self._partial / "index.json", json.dumps(index, indent=1).encode())
        _sync_folder(self._partial)
        os.replace(self._partial, self.folder)
        _sync_folder(self.folder.parent)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise GroundupError(f"{self.folder} cannot be written ({why}): make room or choose another place") from error


class _IdsWriter:
    """Appends ids to the current shard and begins the next when it is full."""

    def __init__(self, folder: Path, vocab_size: int, tokenizer_hash: str, shard_tokens: int) -> None:
        self._folder, self._vocab_size, self._tokenizer, self._room = folder, vocab_size, _hash(tokenizer_hash.encode()), shard_tokens
        self._dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self._n_shards = self._n_tokens = 0
        self._file: BinaryIO | None = None
        self._checksum = hashlib.blake2b(digest_size=HASH_BYTES)

    def write(self, tokens: Integer[np.ndarray, " n"]) -> None:
        while len(tokens):
            if self._file is None:
                self._file = (self._folder / _shard_name(self._n_shards)).open("wb")
                self._file.write(bytes(_HEADER.size))  # its place, filled when the checksum is known
            part, tokens = tokens[: self._room - self._n_tokens], tokens[self._room - self._n_tokens :]
            payload = part.astype(self._dtype).tobytes()
            self._file.write(payload)
            self._checksum.update(payload)
            self._n_tokens += len(part)
            if self._n_tokens == self._room:
                self.close()

    def close(self) -> None:
        if self._file is None:
            return
        header = _Header(MAGIC, VERSION, self._dtype.itemsize, self._n_tokens, self._vocab_size, self._tokenizer, self._checksum.digest())
        with self._file as file:
            file.seek(0)
            file.write(_HEADER.pack(*header))
            file.flush()
            os.fsync(file.fileno())
        self._file, self._n_tokens, self._checksum = None, 0, hashlib.blake2b(digest_size=HASH_BYTES)
        self._n_shards += 1


class TokenStore:
    """A written folder of shards, memory-mapped; made by ``TokenStore.open``."""

    def __init__(self, index: dict[str, Any], arrays: dict[str, np.ndarray], shards: list[np.ndarray]) -> None:
        self.n_tokens: int = index["n_tokens"]
        self.n_documents: int = index["n_documents"]
        self.n_bytes: int = index["n_bytes"]
        """Bytes of source text."""
        self.vocab_size: int = index["vocab_size"]
        self.tokenizer_hash: str = index["tokenizer_hash"]
        self.document_starts: Int64[np.ndarray, " n_documents+1"] = arrays["document_starts"]
        """Position of each document's first token, and at the end n_tokens."""
        self.document_bytes: Int64[np.ndarray, " n_documents"] = arrays["document_bytes"]
        """Bytes of source text of each document."""
        self.shards = shards
        """The ids as stored (uint16 or uint32), one memory map a file."""
        self._shard_tokens: int = index["shard_tokens"]
        self._ids, self._id_ends = arrays["ids"].tobytes(), arrays["id_ends"]

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> TokenStore:
        """Opens a folder that ``write_shards`` made; ``verify`` also reads the ids once to hold them against their checksums.

        Raises UsageError when the folder holds no tokens, GroundupError naming the file that is truncated, corrupt, of another version
        or of another store.
        """
        folder = Path(folder)
        index = _read_index(folder)
        arrays = _read_arrays(folder, index)
        n_shards = -(-index["n_tokens"] // index["shard_tokens"])
        shards = []
        for i in range(n_shards):
            n_tokens = min(index["shard_tokens"], index["n_tokens"] - i * index["shard_tokens"])
            shards.append(_open_shard(folder / _shard_name(i), index, n_tokens, verify))
        return cls(index, arrays, shards)

    @classmethod
    def in_memory(cls, documents: Sequence[Integer[np.ndarray, " _"]], vocab_size: int) -> TokenStore:
        """Documents that are never written: no ids, no bytes, no tokenizer."""
        tokens = np.concatenate([np.zeros(0, np.uint32), *documents]).astype(np.uint32)
        starts = np.concatenate(([0], np.cumsum([len(d) for d in documents]))).astype(np.int64)
        index = {"n_tokens": len(tokens), "n_documents": len(documents), "n_bytes": 0, "vocab_size": vocab_size, "tokenizer_hash": ""}
        empty = np.zeros(len(documents), np.int64)
        arrays = {"document_starts": starts, "document_bytes": empty, "ids": np.zeros(0, np.uint8), "id_ends": empty}
        return cls(index | {"shard_tokens": max(1, len(tokens))}, arrays, [tokens])

    @cached_property
    def document_ids(self) -> list[str]:
        """Where each document comes from."""
        starts = [0, *self._id_ends.tolist()]
        return [self._ids[a:b].decode("utf-8", "surrogateescape") for a, b in pairwise(starts)]

    def slice(self, start: int, stop: int) -> Int64[np.ndarray, " n"]:
        """Copies the ids at positions start <= i < stop; GroundupError outside 0 .. n_tokens."""
        if not 0 <= start <= stop <= self.n_tokens:
            raise GroundupError(f"no tokens {start} to {stop} in a store of {self.n_tokens}: ask for positions inside it")
        out = np.empty(stop - start, np.int64)
        at = start
        while at < stop:
            shard, offset = divmod(at, self._shard_tokens)
            part = self.shards[shard][offset : offset + stop - at]
            out[at - start : at - start + len(part)] = part
            at += len(part)
        return out


def _shard_name(i: int) -> str:
    return f"tokens-{i:05d}.bin"


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def _broken(path: Path, what: str) -> GroundupError:
    return GroundupError(f"{path} {what}: delete its folder and tokenize the text again")


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    if not path.is_file():
        raise UsageError(f"{folder} is not a folder of token shards (it has no index.json): name one that groundup wrote")
    try:
        index = json.loads(path.read_bytes())
    except ValueError as error:
        raise _broken(path, "is not JSON, so truncated or corrupt") from error
    if not isinstance(index, dict) or index.get("version") != VERSION:
        raise _broken(path, f"is not of version {VERSION}, the one that this groundup reads")
    numbers = [index.get(key) for key in ("vocab_size", "n_tokens", "n_documents", "n_bytes", "shard_tokens")]
    texts = [index.get(key) for key in ("tokenizer_hash", "index_blake2b")]
    if not all(isinstance(n, int) and n > 0 for n in numbers) or not all(isinstance(text, str) for text in texts):
        raise _broken(path, "lacks an entry or holds one of the wrong kind")
    return index


def _read_arrays(folder: Path, index: dict[str, Any]) -> dict[str, np.ndarray]:
    path = folder / "index.npz"
    try:
        data = path.read_bytes()
        if _hash(data).hex() != index["index_blake2b"]:
            raise _broken(path, "does not match its checksum in index.json, so one of them is truncated or corrupt")
        with np.load(io.BytesIO(data)) as file:
            arrays = {name: file[name] for name in ("document_starts", "document_bytes", "id_ends", "ids")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _broken(path, f"cannot be read ({error})") from error
    starts, sizes = arrays["document_starts"], arrays["document_bytes"]
    found = len(starts) - 1, int(starts[-1]), int(sizes.sum())
    if found != (index["n_documents"], index["n_tokens"], index["n_bytes"]) or len(sizes) != found[0]:
        raise _broken(folder / "index.json", "disagrees with index.npz about documents, tokens or bytes")
    return arrays


def _open_shard(path: Path, index: dict[str, Any], n_tokens: int, verify: bool) -> np.ndarray:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_HEADER.size)
    except OSError as error:
        raise _broken(path, f"cannot be read ({error.strerror})") from error
    if len(start) < _HEADER.size:
        raise _broken(path, f"is truncated ({size} bytes, less than its header)")
    header = _Header(*_HEADER.unpack(start))
    if header.magic != MAGIC:
        raise _broken(path, "is not a token shard")
    if header.version != VERSION:
        raise _broken(path, f"is of version {header.version}, and this groundup reads version {VERSION}")
    expected = n_tokens, index["vocab_size"], _hash(index["tokenizer_hash"].encode())
    if (header.n_tokens, header.vocab_size, header.tokenizer) != expected or header.token_bytes not in (2, 4):
        raise _broken(path, "disagrees with index.json about tokens, vocabulary or tokenizer")
    if size != _HEADER.size + n_tokens * header.token_bytes:
        raise _broken(path, f"is truncated or padded ({size} bytes instead of {_HEADER.size + n_tokens * header.token_bytes})")
    if verify and _payload_hash(path) != header.checksum:
        raise _broken(path, "does not match its checksum, so it is corrupt")
    return np.memmap(path, f"<u{header.token_bytes}", "r", offset=_HEADER.size, shape=(n_tokens,))


def _payload_hash(path: Path) -> bytes:
    checksum = hashlib.blake2b(digest_size=HASH_BYTES)
    with path.open("rb") as file:
        file.seek(_HEADER.size)
        while chunk := file.read(READ_BYTES):
            checksum.update(chunk)
    return checksum.digest()


def _write_file(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
