"""Byte-pair encoding of characters, as SentencePiece has it: a space is written "▁", a character without a piece falls back to its bytes.

That is byte-level encoding too, once the bytes of each character merge before anything else does: every character that is a piece has
merges of its own, which come first, and what they leave half-made, the beginning of a character that is no piece, is taken apart again.
So the compiled encoder serves both. Spaces are not rewritten: the byte 0x20 has the id of the piece "▁", and what is written "▁" in a text
is a space to begin with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from groundup.errors import UsageError
from groundup.tokenizer.normalizing import SPACE_MARK
from groundup.tokenizer.vocabulary import Special, Vocabulary, resolved

BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Pieces:
    """A vocabulary by names, and how white space is treated."""

    names: tuple[str | None, ...]
    """Of each id: a text in which "▁" is a space, "<0x00>" to "<0xFF>" for a byte, None for an id that stands for nothing."""
    prefix: Literal["never", "first", "every"] = "first"
    """Where a space is put before a text: nowhere, at its beginning, or also behind every added token. Decoding takes the first away."""
    prefix_always: bool = True
    """Whether it is put there also where a space stands already, and before added tokens that are ``normalized`` are looked for."""
    split: bool = False
    """Whether a piece has at most one space, at its beginning."""


class PieceVocabulary(Vocabulary):
    """What the ids of a tokenizer with byte fallback stand for.

    Args:
        merges: pairs of ids in order of rank.
        special_tokens: texts that are one token each.
        pieces: the names of the ids.

    Raises UsageError naming the piece that makes no sense.
    """

    def __init__(self, merges: Sequence[tuple[int, int]] | None, special_tokens: Special, pieces: Pieces) -> None:
        if merges is None:
            raise UsageError("pieces alone do not say what merges first: give merges")
        self.merges = [(int(left), int(right)) for left, right in merges]
        self._names = list(pieces.names)
        added_tokens = resolved(special_tokens, len(self._names))
        added = {token.id: token.text for token in added_tokens}
        self._by_name: dict[str, int] = {}
        for i, name in enumerate(self._names):
            if name is None:
                continue
            if name in self._by_name:
                raise UsageError(f"ids {self._by_name[name]} and {i} are both {name!r}: a vocabulary has each piece once")
            if added.get(i, name) != name:
                raise UsageError(f"added token {added[i]!r} has id {i}, which is {name!r}")
            self._by_name[name] = i
        for byte in range(256):
            if f"<0x{byte:02X}>" not in self._by_name:
                raise UsageError(f"the vocabulary lacks '<0x{byte:02X}>': byte fallback needs all 256")
        self.ordinary = [b"" if name is None or i in added else bytes_of(name) for i, name in enumerate(self._names)]
        self.set_added(added_tokens)
        for token, text in added.items():
            self.token_bytes[token] = text.replace(SPACE_MARK, " ").encode()
        # a merge may make what is an added token too, so what the encoder knows of where tokens can be has it
        self.ordinary = [b"" if name is None else bytes_of(name) for name in self._names]
        self.characters = {name: i for name, i in self._by_name.items() if len(name) == 1}
        if SPACE_MARK not in self.characters:
            raise UsageError(f"the vocabulary lacks {SPACE_MARK!r}, which spaces become")
        self.byte_ids = np.array([self._by_name[f"<0x{byte:02X}>"] for byte in range(256)], np.int32)
        for byte in range(128):
            self.byte_ids[byte] = self.characters.get(chr(byte), self.byte_ids[byte])
        self.byte_ids[0x20] = self.characters[SPACE_MARK]
        self._build_characters()

    def _build_characters(self) -> None:
        """The merges that make characters of bytes, and the bytes that each beginning of a character is taken apart into."""
        parts: dict[bytes, int] = {}
        self._character_pairs: list[tuple[int, int, int]] = []
        self.beginnings: list[list[int]] = []
        for name, token in self.characters.items():
            encoded = name.encode()
            left = int(self.byte_ids[encoded[0]])
            for n in range(2, len(encoded) + 1):
                right = int(self.byte_ids[encoded[n - 1]])
                new = token if n == len(encoded) else parts.get(encoded[:n])
                if new is None:
                    new = parts[encoded[:n]] = len(self.token_bytes) + len(self.beginnings)
                    self.beginnings.append([int(self.byte_ids[byte]) for byte in encoded[:n]])
                self._character_pairs.append((left, right, new))
                left = new

    def names(self) -> list[str | None]:
        """What each id is called in files."""
        return self._names

    def pairs(self) -> np.ndarray:
        """Ids left, right and new of each merge, int64, shape [n, 3], in order of rank, those that make characters first."""
        return np.concatenate((np.array([*dict.fromkeys(self._character_pairs)], np.int64).reshape(-1, 3), self._merging))

    def merging_pairs(self) -> np.ndarray:
        """``pairs`` without those that make characters."""
        return self._merging

    @cached_property
    def _merging(self) -> np.ndarray:
        found = []
        for rank, pair in enumerate(self.merges or []):
            if not all(0 <= token < len(self._names) and self._names[token] is not None for token in pair):
                raise UsageError(f"merge {rank} joins ids {pair[0]} and {pair[1]}, which are not both pieces")
            left, right = (self._names[token] for token in pair)
            if BYTE_NAME.fullmatch(left) or BYTE_NAME.fullmatch(right):
                raise UsageError(f"merge {rank} joins {left!r} and {right!r}: bytes that a character falls back to cannot merge")
            if left + right not in self._by_name:
                raise UsageError(f"merge {rank} makes {left + right!r}, which is no piece")
            found.append((*pair, self._by_name[left + right]))
        return np.array(found, np.int64).reshape(-1, 3)


def bytes_of(name: str) -> bytes:
    """The bytes of text that a piece stands for."""
    byte = BYTE_NAME.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace(SPACE_MARK, " ").encode()


class PieceCutter:
    """Cuts a text where no merge reaches across, and takes what merges leave of characters without a piece apart into bytes."""

    def __init__(self, vocabulary: PieceVocabulary, pieces: Pieces) -> None:
        names = vocabulary.names()
        crosses = re.compile(f"[^{SPACE_MARK}]{SPACE_MARK}")
        self._each = pieces.split
        self._beginnings, self._first = vocabulary.beginnings, len(vocabulary.token_bytes)
        self.at_spaces = pieces.split or not any(crosses.search(names[new]) for _, _, new in vocabulary.merging_pairs().tolist())
        """Whether a text may be cut before a space that follows something else."""

    def ends(self, data: bytes) -> np.ndarray:
        """Where the stretches of a text end that are encoded each for itself, int64, shape [n]."""
        array = np.frombuffer(data, np.uint8)
        if not self.at_spaces or not array.size:
            return np.full(min(1, array.size), array.size)
        is_space = array == 0x20
        cuts = is_space[1:] if self._each else is_space[1:] & ~is_space[:-1]
        return np.append(np.flatnonzero(cuts) + 1, array.size)

    def take_apart(self, ids: np.ndarray) -> np.ndarray:
        """The ids with those that are a beginning of a character replaced by its bytes'."""
        if not ids.size or ids.max() < self._first:
            return ids
        counts = np.ones(ids.size, np.int64)
        parts = {i: self._beginnings[ids[i] - self._first] for i in np.flatnonzero(ids >= self._first).tolist()}
        counts[list(parts)] = [len(part) for part in parts.values()]
        out = np.repeat(ids, counts)
        starts = np.cumsum(counts) - counts
        for i, part in parts.items():
            out[starts[i] : starts[i] + len(part)] = part
        return out
