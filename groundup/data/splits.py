"""Training, validation and test text: by content, not by order, and never two near-identical documents on different sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int64, UInt16, UInt64

from groundup.data.corpus import Corpus, content_hash
from groundup.data.formats import Document
from groundup.data.near import N_BINS, cluster, sketch
from groundup.errors import GroundupError, UsageError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
PIECE_BYTES = 1 << 16
"""Where only a part of the text is taken, longer documents are cut into pieces of about this size."""
MIN_BYTES = 2048
"""Least text worth a model."""
HELD_OUT = 0.025
"""Share of the clusters in validation, and as much in test."""
LEAST_BYTES = 0.01
"""A held-out split with a smaller share of the bytes takes further clusters ..."""
MOST_BYTES = 0.10
"""... and none that would make its share larger than this ..."""
MOST_BYTES_ALONE = 0.20
"""... unless it has none at all: then one cluster up to this share."""


@dataclass(frozen=True)
class Splits:
    """Which document is in which split; made by ``assign_splits``."""

    bytes: dict[Split, int]
    """Bytes of text in each split."""
    documents: dict[Split, int]
    """Documents in each split."""
    n_clusters: int
    """Groups of near-identical documents, single ones counted."""
    held_out: dict[bytes, Split] = field(repr=False)
    """Content hash -> split, for every document that is not in train."""
    cut: bytes | None = None
    """Content hash of the one document that is cut in three, if there were too few to hold whole ones out."""
    left_out: frozenset[bytes] = frozenset()
    """Content hashes of the cut document's near-copies, which are in no split."""

    def of(self, document: Document) -> Split:
        """The split of a document (or of a piece that ``apply`` gave); GroundupError for one that is cut or left out."""
        digest = content_hash(document.text)
        if digest == self.cut or digest in self.left_out:
            raise GroundupError(
                f"document {document.id} is in no single split, because the corpus has too few: take the pieces that apply gives"
            )
        return self.held_out.get(digest, "train")

    def apply(self, documents: Iterable[Document]) -> Iterator[tuple[Split, Document]]:
        """Every document of the corpus with its split, the cut one in pieces ``id#train``, ``id#validation``, ``id#test``.

        Raises GroundupError at the end when these were not the documents that the splits were assigned from.
        """
        n_bytes = dict.fromkeys(SPLITS, 0)
        for document in documents:
            digest = content_hash(document.text)
            if digest in self.left_out:
                continue
            pieces = _cut(document) if digest == self.cut else [(self.held_out.get(digest, "train"), document)]
            for split, piece in pieces:
                n_bytes[split] += len(piece.text)
                yield split, piece
        if n_bytes != self.bytes:
            raise GroundupError(
                f"the corpus changed while it was read ({n_bytes} bytes, before {self.bytes}): leave its files alone and run again"
            )

    def manifest(self) -> dict[str, Any]:
        """The rule and its outcome, in plain JSON types."""
        if self.cut is None:
            rule = "whole documents by content hash, near-identical ones together"
        else:
            rule = "too few documents: the largest cut at line ends, 90 % train, 5 % validation, 5 % test; the rest train"
        return {
            "rule": rule,
            "bytes": self.bytes,
            "documents": self.documents,
            "n_clusters": self.n_clusters,
            "n_left_out": len(self.left_out),
        }


class _Survey(NamedTuple):
    """What one reading of the corpus leaves, sorted by content hash so that nothing depends on its order."""

    digests: list[bytes]
    sizes: Int64[np.ndarray, " n"]
    sketches: UInt16[np.ndarray, "n bins"]
    largest: Document


def take(document: Document, share: float) -> Iterator[Document]:
    """The pieces of a document that are in a share of all text: those whose hash falls below it, the same whatever the order.

    A document longer than PIECE_BYTES is cut at line ends, so that a share can be had of a corpus of one file.
    """
    if share >= 1:
        yield document
        return
    start, n = 0, len(document.text)
    while start < n:
        stop = n if n - start < 1.5 * PIECE_BYTES else _cut_near(document.text, start + PIECE_BYTES, PIECE_BYTES // 4)
        piece = document.text[start:stop]
        if _key(content_hash(piece)) < share * 2**64:
            yield Document(document.id if stop - start == n else f"{document.id}#{start}", piece)
        start = stop


def assign_splits(corpus: Corpus) -> Splits:
    """Reads the corpus and decides each document's split from its content and that of its near-copies.

    A cluster of near-identical documents goes where the hash of its smallest content hash falls: 2.5 % to validation, 2.5 % to test.
    Small corpora: a held-out split below 1 % of the bytes takes the next clusters in hash order, none beyond 10 % (one alone up to
    20 %); where that leaves a split empty the largest document is cut in three instead. Memory: 300 to 400 bytes a document.
    Raises UsageError below 2,048 bytes of distinct text.
    """
    survey = _survey(corpus)
    total = int(survey.sizes.sum())
    _require_bytes(total, f"{total:,} bytes in {len(survey.digests):,} documents")
    labels = cluster(survey.sketches)
    firsts, members = np.unique(labels, return_inverse=True)
    cluster_bytes = np.bincount(members, weights=survey.sizes).astype(np.int64)
    keys = np.array([_key(survey.digests[i]) for i in firsts], np.uint64)
    chosen = _choose(keys, cluster_bytes)
    if chosen is None:
        return _cut_splits(survey, members, len(firsts))
    held_out: dict[bytes, Split] = {}
    n_bytes, n_documents = {"train": total}, {"train": len(survey.digests)}
    for split, clusters in chosen.items():
        inside = np.flatnonzero(np.isin(members, clusters))
        held_out |= {survey.digests[i]: split for i in inside}
        n_bytes[split], n_documents[split] = int(survey.sizes[inside].sum()), len(inside)
        n_bytes["train"] -= n_bytes[split]
        n_documents["train"] -= n_documents[split]
    return Splits(n_bytes, n_documents, len(firsts), held_out)


def _survey(corpus: Corpus) -> _Survey:
    digests: list[bytes] = []
    sizes: list[int] = []
    sketches = bytearray()
    largest, largest_rank = Document("", b""), (0, b"")
    for document in corpus.documents():
        digests.append(content_hash(document.text))
        sizes.append(len(document.text))
        sketches += sketch(document.text).tobytes()
        if (rank := (sizes[-1], digests[-1])) > largest_rank:
            largest, largest_rank = document, rank
    order = sorted(range(len(digests)), key=digests.__getitem__)
    rows = np.frombuffer(sketches, np.uint16).reshape(-1, N_BINS)[order]
    return _Survey([digests[i] for i in order], np.array(sizes, np.int64)[order], rows, largest)


def _key(digest: bytes) -> int:
    # Hashed once more: the smallest of many hashes is small, and large clusters would all be held out.
    return int.from_bytes(hashlib.blake2b(digest, digest_size=8).digest(), "big")


def _choose(keys: UInt64[np.ndarray, " c"], cluster_bytes: Int64[np.ndarray, " c"]) -> dict[Split, list[int]] | None:
    """The clusters of the held-out splits, or None when whole clusters cannot fill both."""
    total = int(cluster_bytes.sum())
    order = np.argsort(keys).tolist()
    taken: dict[Split, list[int]] = {"validation": [], "test": []}
    free = dict.fromkeys(order)
    size = dict.fromkeys(taken, 0)

    def take(split: Split, c: int, most: float) -> None:
        if size[split] + cluster_bytes[c] <= most * total:
            taken[split].append(c)
            size[split] += int(cluster_bytes[c])
            del free[c]

    bounds = np.searchsorted(keys[order], np.array([0, HELD_OUT * 2**64, 2 * HELD_OUT * 2**64]).astype(np.uint64))
    for split, start, stop in zip(taken, bounds, bounds[1:], strict=False):
        for c in order[start:stop]:
            take(split, c, MOST_BYTES)
    for most in (MOST_BYTES, MOST_BYTES_ALONE):
        for split in taken:
            for c in list(free):
                if size[split] >= LEAST_BYTES * total or (most == MOST_BYTES_ALONE and taken[split]):
                    break
                take(split, c, most)
    return taken if all(taken.values()) else None


def _cut_splits(survey: _Survey, members: Int64[np.ndarray, " n"], n_clusters: int) -> Splits:
    digest = content_hash(survey.largest.text)
    same = np.flatnonzero(members == members[survey.digests.index(digest)])
    left_out = frozenset(survey.digests[i] for i in same) - {digest}
    pieces = _cut(survey.largest)
    n_bytes = {split: len(piece.text) for split, piece in pieces}
    n_bytes["train"] += int(survey.sizes.sum() - survey.sizes[same].sum())
    kept = sum(n_bytes.values())
    _require_bytes(kept, f"{kept:,} bytes once {len(left_out):,} near-identical copies are left out")
    if not all(piece.text for _, piece in pieces):
        raise UsageError("--data: too little different text, only a few very short documents and copies of them: add more")
    n_documents: dict[Split, int] = {"train": len(survey.digests) - len(left_out), "validation": 1, "test": 1}
    held_out = {content_hash(piece.text): split for split, piece in pieces if split != "train"}
    return Splits(n_bytes, n_documents, n_clusters, held_out, digest, left_out)


def _require_bytes(n_bytes: int, found: str) -> None:
    if n_bytes < MIN_BYTES:
        raise UsageError(f"--data: too little text, {found}: at least {MIN_BYTES:,} bytes of different text are needed")


def _cut(document: Document) -> list[tuple[Split, Document]]:
    """The first 90 % for train, 5 % for validation, 5 % for test, cut where a line ends (a character, if no line ends near)."""
    text, n = document.text, len(document.text)
    first, second = (_cut_near(text, n * part // 20, n // 50) for part in (18, 19))
    pieces = text[:first], text[first:second], text[second:]
    return [(split, Document(f"{document.id}#{split}", piece)) for split, piece in zip(SPLITS, pieces, strict=True)]


def _cut_near(text: bytes, target: int, reach: int) -> int:
    if (end := text.find(b"\n", target, target + reach)) >= 0 or (end := text.rfind(b"\n", target - reach, target)) >= 0:
        return end + 1
    for at in range(target, target - 4, -1):
        if text[at] & 0xC0 != 0x80:  # not inside a UTF-8 character
            return at
    return target
