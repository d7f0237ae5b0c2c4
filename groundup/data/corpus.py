"""A corpus: documents from one or several sources, each text once, with an account of what was read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from groundup.data.formats import Document
from groundup.data.sources import STDLIB, Source, open_source
from groundup.errors import UsageError

LISTED_DOCUMENTS = 10_000
"""A manifest lists this many documents; the hash over all covers the rest."""


def open_corpus(sources: Sequence[str], *, text_field: str = "text", keep_all: bool = False) -> Corpus:
    """Opens the named sources, concatenated: files, folders, ``hub:owner/name[:subset]``, ``stdlib``; none given means ``stdlib``.

    ``text_field`` is the field that holds the text in JSONL and Parquet files; ``keep_all`` is the Corpus's. Raises UsageError for a source
    that is not there; what is wrong inside a file is raised where it is read.
    """
    return Corpus([open_source(given, text_field) for given in sources or (STDLIB,)], keep_all=keep_all)


class Corpus:
    """Documents in a fixed order, to be read any number of times in constant memory (but about 100 bytes a document, for its hash).

    Blank documents and exact copies of earlier ones are left out and counted, unless ``keep_all`` asks for every byte.
    """

    def __init__(self, sources: Sequence[Source], *, keep_all: bool = False) -> None:
        self.keep_all = keep_all
        self.name = "+".join(source.name for source in sources)
        self._sources = tuple(sources)
        self._manifest: dict[str, Any] | None = None

    def documents(self) -> Iterator[Document]:
        """Reads the documents; raises UsageError when there is no text, or naming the file that cannot be read."""
        skipped = Counter(binary=0, empty=0, duplicate=0)
        seen: set[bytes] = set()
        n_documents = 0
        listed: list[dict[str, Any]] = []
        n_bytes = invalid_bytes = 0
        chain = hashlib.blake2b(digest_size=16)
        for document in self._read(skipped):
            if not document.text or (document.text.isspace() and not self.keep_all):
                skipped["empty"] += 1
                continue
            digest = content_hash(document.text)
            if digest in seen and not self.keep_all:
                skipped["duplicate"] += 1
                continue
            seen.add(digest)
            n_documents += 1
            chain.update(digest)
            n_bytes += len(document.text)
            invalid_bytes += invalid_utf8_bytes(document.text)
            if len(listed) < LISTED_DOCUMENTS:
                listed.append({"id": document.id, "n_bytes": len(document.text), "blake2b": digest.hex()})
            yield document
        if not seen:
            reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count)
            raise UsageError(f"--data {' '.join(source.given for source in self._sources)}: no text in it ({reasons}): name text files")
        self._manifest = {
            "name": self.name,
            "sources": [source.given for source in self._sources],
            "n_documents": n_documents,
            "n_bytes": n_bytes,
            "invalid_utf8_bytes": invalid_bytes,
            "skipped": dict(skipped),
            "blake2b": chain.hexdigest(),
            "documents": listed,
        }

    def manifest(self) -> dict[str, Any]:
        """What the corpus holds, in plain JSON types; reads it through unless a reading went before.

        ``n_documents`` and ``n_bytes`` count what is kept; ``invalid_utf8_bytes`` the bytes among them that are no UTF-8; ``skipped``
        the files or documents left out, by reason (binary, empty, duplicate); ``blake2b`` is the hash of all document hashes in
        order; ``documents`` lists the first 10,000 with id, size and hash.
        """
        if self._manifest is None:
            for _ in self.documents():
                pass
        assert self._manifest is not None
        return self._manifest

    def _read(self, skipped: Counter[str]) -> Iterator[Document]:
        for source in self._sources:
            for document in source.read(skipped):
                yield document if len(self._sources) == 1 else Document(f"{source.name}/{document.id}", document.text)


def content_hash(text: bytes) -> bytes:
    """The 16 bytes that stand for a document's text wherever texts are compared (BLAKE2b, Aumasson et al. 2013)."""
    return hashlib.blake2b(text, digest_size=16).digest()


def invalid_utf8_bytes(text: bytes) -> int:
    """How many bytes of the text belong to no UTF-8 character."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return len(text) - len(text.decode("utf-8", "ignore").encode())
    return 0
