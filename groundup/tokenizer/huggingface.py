"""``tokenizer.json``, the format of Hugging Face's ``tokenizers``: written so that it opens there and gives the same ids, and read back."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from groundup.errors import GroundupError, UsageError
from groundup.tokenizer.patterns import PATTERNS


class Parts(NamedTuple):
    """What a byte-level BPE tokenizer is made of."""

    merges: list[tuple[int, int]]
    """Pairs of ids, the k-th making id 256 + k."""
    special_tokens: list[str]
    """In the order of their ids, which follow the merges'."""
    pattern: str
    """Name of the pre-tokenization pattern."""


def byte_alphabet() -> list[str]:
    """The visible character that stands for each byte in the file (GPT-2's ``bytes_to_unicode``).

    Printable Latin-1 characters stand for themselves, the 68 other bytes for U+0100 and on, in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x100 + 256 - len(visible)))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def token_names(merges: list[tuple[int, int]]) -> list[str]:
    """The name in the file of each byte and each merge, by id."""
    names = byte_alphabet()
    for left, right in merges:
        names.append(names[left] + names[right])
    return names


def to_json(parts: Parts) -> dict[str, Any]:
    """The tokenizer as ``tokenizer.json`` says it: Split by the pattern, then ByteLevel, then BPE, with special tokens beside it."""
    names = token_names(parts.merges)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[parts.pattern]}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": len(names) + i, "content": token, **flags} for i, token in enumerate(parts.special_tokens)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": [f"{names[left]} {names[right]}" for left, right in parts.merges],
        },
    }


def write(parts: Parts, path: Path) -> None:
    """Writes ``tokenizer.json``, or replaces it whole: a reader never sees half of it. Raises GroundupError when it cannot."""
    text = json.dumps(to_json(parts), ensure_ascii=False, indent=1)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise GroundupError(f"{path} cannot be written ({error.strerror}): choose a writable folder with room on its disk") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def read(path: Path) -> Parts:
    """Reads a ``tokenizer.json`` of the kind that ``write`` writes, also after ``tokenizers`` itself has saved it anew.

    Raises UsageError for a file that is not there or a component that is not supported, and GroundupError for a broken file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give a tokenizer.json or a folder that holds one") from error
    except ValueError as error:
        raise GroundupError(f"{path} is broken ({error}): get or train it again") from error
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise UsageError(f"{path} is no tokenizer.json: it has no 'model'")
    if found["model"].get("type") != "BPE":
        raise UsageError(f"{path}: model {found['model'].get('type')!r} is not supported, only BPE is")
    parts = Parts(_merges(found["model"], path), _special_tokens(found, path), _pattern(found, path))
    _compare(found, to_json(parts), path)
    return parts


def _pattern(found: dict[str, Any], path: Path) -> str:
    """Finds the pattern by its expression."""
    steps = (found.get("pre_tokenizer") or {}).get("pretokenizers") or [{}]
    expression = (steps[0].get("pattern") or {}).get("Regex")
    for name, known in PATTERNS.items():
        if expression == known:
            return name
    raise UsageError(f"{path}: its pre_tokenizer is not supported, only Split by the pattern of {', '.join(PATTERNS)}, then ByteLevel, is")


def _special_tokens(found: dict[str, Any], path: Path) -> list[str]:
    added = found.get("added_tokens") or []
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not isinstance(token.get("id"), int):
            raise GroundupError(f"{path}: added token {token!r} lacks its content or id")
    return [token["content"] for token in sorted(added, key=lambda token: token["id"])]


def _merges(model: dict[str, Any], path: Path) -> list[tuple[int, int]]:
    """Merges as ids; the k-th must make token 256 + k."""
    ids = {name: i for i, name in enumerate(byte_alphabet())}
    merges = []
    for k, merge in enumerate(model.get("merges") or []):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(name, str) and name in ids for name in pair):
            raise GroundupError(f"{path}: merge {k} ({merge!r}) does not join two tokens that stand before it")
        merges.append((ids[pair[0]], ids[pair[1]]))
        ids[pair[0] + pair[1]] = 256 + k
    return merges


def _compare(found: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
    """Raises UsageError naming the first entry in which a file differs from what we would write, for it may mean other ids."""
    model = {**found["model"], "merges": expected["model"]["merges"]}
    for where, ours, theirs in (("", expected, found), ("model ", expected["model"], model)):
        for key in ours.keys() | theirs.keys():
            if key in ("model", "vocab", "decoder", "version"):
                continue
            if ours.get(key) != theirs.get(key):
                raise UsageError(f"{path}: its {where}{key} is not supported: {json.dumps(theirs.get(key))[:200]}")
    if (found.get("decoder") or {}).get("type") != "ByteLevel":
        raise UsageError(f"{path}: decoder {json.dumps(found.get('decoder'))[:200]} is not supported, only ByteLevel is")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise GroundupError(f"{path} is broken: its model has no vocab")
    for name, token in expected["model"]["vocab"].items():
        if vocab.get(name) != token:
            raise UsageError(f"{path}: token {name!r} has id {vocab.get(name)}, only {token} is supported (bytes in order, then merges)")
    if unmade := sorted(vocab.keys() - expected["model"]["vocab"].keys()):
        raise UsageError(f"{path}: token {unmade[0]!r} is made by no merge, which is not supported")
