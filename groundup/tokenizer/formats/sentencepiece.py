"""SentencePiece's ``.model``, a protocol buffer, of the kind that Llama 2, Mistral and Gemma have: BPE with byte fallback.

Fields and numbers are those of ``sentencepiece_model.proto``. Of a message only what decides the ids is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from groundup.errors import GroundupError, UsageError
from groundup.tokenizer.added import AddedToken
from groundup.tokenizer.byte_fallback import Pieces

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_BPE = 2
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class Piece(NamedTuple):
    """A piece of the vocabulary."""

    name: str
    """Its text, spaces as marks."""
    score: float
    """The greater, the sooner it is made."""
    kind: int
    """Normal, unknown, control, defined by the user, unused, byte: 1 to 6."""


def read(path: Path) -> dict[str, Any]:
    """The arguments of the ``Tokenizer`` that a ``.model`` describes.

    A special token in a text, which SentencePiece itself never looks for, is found where it is allowed. A space is put before the
    text and behind each of them, as Hugging Face's ``LlamaTokenizer`` has it, but before the text alone where there are pieces that the
    user defined.
    Raises UsageError for a kind of model or a setting that is not supported, GroundupError for a broken file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give a SentencePiece model") from error
    try:
        pieces, trainer, normalizer = _message(data)
    except (LookupError, ValueError, struct.error) as error:
        raise GroundupError(f"{path} is broken ({error}): get it again") from error
    if not pieces:
        raise GroundupError(f"{path} is no SentencePiece model: it holds no pieces")
    _check(path, trainer, normalizer)
    return arguments_of(path, pieces, add_prefix=bool(normalizer.get(3, 1)))


def arguments_of(path: Path, pieces: list[Piece], *, add_prefix: bool) -> dict[str, Any]:
    """The arguments of the ``Tokenizer`` of some pieces; ``add_prefix`` says whether a space is put before a text."""
    added = [
        AddedToken(piece.name, i, special=piece.kind != _USER_DEFINED, normalized=piece.kind == _USER_DEFINED)
        for i, piece in enumerate(pieces)
        if piece.kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    if unused := [piece.name for piece in pieces if piece.kind == _UNUSED]:
        raise UsageError(f"{path}: piece {unused[0]!r} is marked as unused, which is not supported")
    is_defined = any(piece.kind == _USER_DEFINED for piece in pieces)
    prefix = "never" if not add_prefix else "first" if is_defined else "every"
    vocabulary = Pieces(tuple(piece.name for piece in pieces), prefix)
    return {"merges": _merges(path, pieces), "special_tokens": added, "vocabulary": vocabulary}


def _check(path: Path, trainer: dict[int, Any], normalizer: dict[int, Any]) -> None:
    """Raises UsageError for a setting under which ids would be others."""
    if trainer.get(3, 1) != _BPE:
        kind = {1: "unigram", 3: "word", 4: "char"}.get(trainer.get(3, 1), "another")
        raise UsageError(f"{path} is a model of the {kind} kind: only BPE is supported")
    if not trainer.get(35, 0):
        raise UsageError(f"{path} has no byte fallback (byte_fallback is off), which is not supported")
    if trainer.get(24, 0):
        raise UsageError(f"{path} puts white space behind words (treat_whitespace_as_suffix), which is not supported")
    if normalizer.get(2, b""):
        name = normalizer.get(1, b"").decode("utf-8", "replace")
        raise UsageError(f"{path} normalizes by the rules {name!r} (precompiled_charsmap), which is not supported")
    if normalizer.get(4, 1):
        raise UsageError(f"{path} removes extra white space (remove_extra_whitespaces), which is not supported")
    if not normalizer.get(5, 1):
        raise UsageError(f"{path} keeps spaces as they are (escape_whitespaces is off), which is not supported")


def _merges(path: Path, pieces: list[Piece]) -> list[tuple[int, int]]:
    """Every way to join two pieces into one, the best score first: any two neighbours merge that are a piece together."""
    ids = {piece.name: i for i, piece in enumerate(pieces) if piece.kind == _NORMAL}
    characters = {name for name in ids if len(name) == 1}
    order = sorted(ids.values(), key=lambda i: -pieces[i].score)
    found = []
    for before, new in zip([None, *order], order, strict=False):
        name = pieces[new].name
        if len(name) > 1 and before is not None and pieces[before].score == pieces[new].score and len(pieces[before].name) > 1:
            raise UsageError(f"{path}: pieces {pieces[before].name!r} and {name!r} have the same score, which is not supported")
        if len(name) > 1 and (missing := [character for character in name if character not in characters]):
            raise UsageError(f"{path}: piece {name!r} has the character {missing[0]!r}, which is no piece")
        for i in range(1, len(name)):
            if (left := ids.get(name[:i])) is not None and (right := ids.get(name[i:])) is not None:
                found.append((left, right))
    return found


def _message(data: bytes) -> tuple[list[Piece], dict[int, Any], dict[int, Any]]:
    """The pieces, and the fields of the trainer's and the normalizer's settings by number."""
    pieces, trainer, normalizer = [], {}, {}
    for field, value in _fields(data):
        if field == _PIECES:
            found = dict(_fields(value))
            pieces.append(Piece(found.get(1, b"").decode(), struct.unpack("<f", found.get(2, bytes(4)))[0], found.get(3, _NORMAL)))
        elif field == _TRAINER:
            trainer = dict(_fields(value))
        elif field == _NORMALIZER:
            normalizer = dict(_fields(value))
    return pieces, trainer, normalizer


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yields number and value of each field of a message: an int for a varint, bytes for anything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == _LENGTH else ({_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[kind], at)
            value, at = data[at : at + size], at + size
        if at > len(data):
            raise ValueError("it ends in the middle of a field")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
