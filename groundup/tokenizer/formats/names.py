"""Vocabularies of files, in which each byte of a token is a visible character, as lists of tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from groundup.errors import GroundupError
from groundup.tokenizer.vocabulary import byte_alphabet

_BYTES = {character: byte for byte, character in enumerate(byte_alphabet())}


def contiguous(vocab: Mapping[str, object], others: Collection[int], path: Path) -> None:
    """Raises GroundupError for an id that is none, that two tokens have, or that nothing has below the greatest not in ``others``."""
    names: dict[int, str] = {}
    for name, token in vocab.items():
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise GroundupError(f"{path}: token {name!r} has id {token!r}, which is no whole number from 0")
        if token in names:
            raise GroundupError(f"{path}: tokens {names[token]!r} and {name!r} both have id {token}")
        names[token] = name
    greatest = max((token for token in names if token not in others), default=-1)
    if missing := [i for i in range(greatest) if i not in names and i not in others]:
        raise GroundupError(f"{path}: no token has id {missing[0]}, though others have greater ones")


def tokens_of(vocab: Mapping[str, int], path: Path) -> list[bytes]:
    """The bytes of each id; none for an id that the vocabulary lacks. Raises GroundupError for a name that is not made of bytes."""
    tokens = [b""] * (1 + max(vocab.values(), default=-1))
    for name, i in vocab.items():
        try:
            tokens[i] = bytes(_BYTES[character] for character in name)
        except KeyError as error:
            raise GroundupError(f"{path}: token {name!r} has the character {error.args[0]!r}, which stands for no byte") from None
    return tokens
