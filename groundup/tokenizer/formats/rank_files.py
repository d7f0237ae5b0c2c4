"""Files that list tokens or merges in order of rank: tiktoken's ``*.tiktoken`` and GPT-2's ``vocab.json`` with ``merges.txt``."""

from __future__ import annotations

import base64
import binascii
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from groundup.errors import GroundupError, UsageError
from groundup.files import write_bytes
from groundup.tokenizer.formats.names import contiguous, tokens_of
from groundup.tokenizer.patterns import Pattern
from groundup.tokenizer.vocabulary import Special

if TYPE_CHECKING:
    from groundup.tokenizer.tokenizer import Tokenizer

KNOWN_RANKS: dict[str, tuple[str, dict[str, int]]] = {
    "r50k_base": ("gpt2", {"<|endoftext|>": 50256}),
    "p50k_base": ("gpt2", {"<|endoftext|>": 50256}),
    "cl100k_base": (
        "cl100k",
        {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276},
    ),
    "o200k_base": ("o200k", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
}
"""Pattern and special tokens of the files that tiktoken fetches, by name (``tiktoken_ext/openai_public.py``)."""


class PatternMissing(UsageError):
    """A file does not say how text is cut."""


def read_tiktoken(path: Path, pattern: Pattern | None, special_tokens: Special | None) -> dict[str, Any]:
    """The arguments of the ``Tokenizer`` that a file of tokens in base64 and their ranks describes."""
    known_pattern, known_special = KNOWN_RANKS.get(path.stem, (None, {}))
    if pattern is None and known_pattern is None:
        raise PatternMissing(
            f"{path} does not say its pattern: pass pattern=cl100k or another, or a name such as {next(iter(KNOWN_RANKS))}"
        )
    vocab: dict[bytes, int] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            if token in vocab:
                raise GroundupError(f"{path}, line {number}: token {token!r} is there twice")
            vocab[token] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise GroundupError(f"{path}, line {number}: {line[:60]!r} is no token in base64 and its rank") from error
    special = known_special if special_tokens is None else special_tokens
    filled = special.values() if isinstance(special, dict) else ()
    contiguous({repr(token): rank for token, rank in vocab.items()}, set(filled), path)
    tokens = [b""] * (max(vocab.values(), default=-1) + 1)
    for token, rank in vocab.items():
        tokens[rank] = token
    return {"merges": None, "special_tokens": special, "pattern": pattern or known_pattern, "vocabulary": tokens}


def write_tiktoken(tokenizer: Tokenizer, path: Path) -> None:
    """Writes the ordinary tokens; the pattern and the special tokens have no place in this format.

    Raises UsageError where tiktoken's rule would make other ids of them.
    """
    follows = tokenizer.pieces is None and tokenizer.normalizer is None and not tokenizer.vocabulary.lacking
    if follows and tokenizer.merges is not None:
        new = tokenizer.pairs[:, 2]
        made = set(new.tolist()) | set(tokenizer.vocabulary.byte_ids.tolist())
        unmade = [i for i, token in enumerate(tokenizer.vocabulary.ordinary) if token and i not in made]
        follows = bool((np.diff(new) > 0).all()) and (tokenizer.whole or not unmade)
    elif follows:
        follows = tokenizer.whole
    if not follows:
        raise UsageError(f"{path}: tiktoken's rule, the lowest id first, would give other ids: choose a name that ends in .json")
    lines = [b"%s %d\n" % (base64.b64encode(token), i) for i, token in enumerate(tokenizer.vocabulary.ordinary) if token]
    write_bytes(path, b"".join(lines))


def read_gpt2(folder: Path, pattern: Pattern | None, special_tokens: Special | None) -> dict[str, Any]:
    """The arguments of the ``Tokenizer`` that ``vocab.json`` and ``merges.txt`` describe; tokens that no merge makes are special."""
    path, merges_path = folder / "vocab.json", folder / "merges.txt"
    try:
        vocab = json.loads(_read(path))
    except ValueError as error:
        raise GroundupError(f"{path} is broken ({error}): get it again") from error
    if not isinstance(vocab, dict):
        raise GroundupError(f"{path} is broken: it is no object of tokens and ids")
    contiguous(vocab, (), path)
    merges, made = [], set()
    lines = _read(merges_path).decode("utf-8", "replace").split("\n")
    for number, line in enumerate(lines, 1):
        if (number == 1 and line.startswith("#version")) or not line:
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(name in vocab for name in pair) or "".join(pair) not in vocab:
            raise GroundupError(f"{merges_path}, line {number}: {line[:60]!r} does not join two tokens of vocab.json into one")
        merges.append((vocab[pair[0]], vocab[pair[1]]))
        made.add("".join(pair))
    special = {name: i for name, i in vocab.items() if len(name) > 1 and name not in made}
    ordinary = {name: i for name, i in vocab.items() if name not in special}
    given = special if special_tokens is None else special_tokens
    return {"merges": merges, "special_tokens": given, "pattern": pattern or "gpt2", "vocabulary": tokens_of(ordinary, path)}


def write_gpt2(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes ``vocab.json`` and ``merges.txt``; the pattern has no place in them."""
    if tokenizer.pieces is not None or tokenizer.normalizer is not None or tokenizer.whole:
        raise UsageError(f"{folder}: vocab.json and merges.txt hold bytes and merges alone: choose the name tokenizer.json")
    names = tokenizer.vocabulary.names()
    vocab = {name: i for i, name in enumerate(names) if name is not None}
    for token in tokenizer.added_tokens:
        if vocab.setdefault(token.text, token.id) != token.id:
            raise UsageError(f"{folder}: {token.text!r} is the special token {token.id} and the ordinary one {vocab[token.text]}")
    merges = [f"{names[left]} {names[right]}" for left, right, _ in tokenizer.vocabulary.merging_pairs().tolist()]
    write_bytes(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False).encode())
    write_bytes(folder / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]).encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give a tokenizer's file") from error
