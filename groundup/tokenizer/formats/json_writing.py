"""``tokenizer.json``, the format of Hugging Face's ``tokenizers``: written so that it opens there and gives the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.errors import UsageError
from groundup.files import write_bytes
from groundup.tokenizer.byte_fallback import Pieces
from groundup.tokenizer.normalizing import SPACE_MARK
from groundup.tokenizer.patterns import PATTERNS, Pattern, Split

if TYPE_CHECKING:
    from groundup.tokenizer.tokenizer import Tokenizer

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
PREPEND = {"type": "Prepend", "prepend": SPACE_MARK}
FROM_MARK = [{"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
BEHAVIORS = {
    "Isolated": "isolated",
    "Contiguous": "contiguous",
    "MergedWithPrevious": "merged_with_previous",
    "MergedWithNext": "merged_with_next",
}


def write(tokenizer: Tokenizer, path: Path) -> None:
    """Writes ``tokenizer.json``, or replaces it whole: a reader never sees half of it.

    Raises UsageError for a tokenizer that the format cannot say, GroundupError for a file that cannot be written.
    """
    write_bytes(path, json.dumps(to_json(tokenizer, path), ensure_ascii=False, indent=1).encode())


def to_json(tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """The tokenizer as ``tokenizer.json`` says it: normalizer, pre-tokenizer, BPE, decoder, with added tokens beside them."""
    names = tokenizer.vocabulary.names()
    vocab = {name: i for i, name in enumerate(names) if name is not None}
    added = sorted(tokenizer.added_tokens, key=lambda token: token.id)
    inside = [token for token in added if token.id < len(names)]
    behind = [token.id for token in added[len(inside) :]]
    if len(vocab) + len(inside) < len(names) or behind != list(range(len(names), len(names) + len(behind))):
        inside = added  # an id that does not follow the others is believed only where the vocabulary has it too
    for token in inside:
        if vocab.setdefault(token.text, token.id) != token.id:
            raise UsageError(f"{path}: {token.text!r} is the added token {token.id} and the ordinary one {vocab[token.text]}")
    pairs = tokenizer.vocabulary.merging_pairs().tolist()
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token.id,
                "content": token.text,
                "single_word": token.single_word,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "special": token.special,
            }
            for token in added
        ],
        "normalizer": _normalizer(tokenizer, path),
        "pre_tokenizer": _splits(tokenizer.pattern) if tokenizer.pieces is None else _metaspace(tokenizer.pieces),
        "post_processor": _template(tokenizer),
        "decoder": BYTE_LEVEL if tokenizer.pieces is None else _from_pieces(tokenizer.pieces),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": tokenizer.pieces is not None,
            "ignore_merges": tokenizer.whole,
            "vocab": vocab,
            "merges": [[names[left], names[right]] if tokenizer.pieces else f"{names[left]} {names[right]}" for left, right, _ in pairs],
        },
    }


def _normalizer(tokenizer: Tokenizer, path: Path) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = [{"type": tokenizer.normalizer}] if tokenizer.normalizer else []
    pieces = tokenizer.pieces
    if pieces is not None and pieces.prefix_always and pieces.prefix != "never":
        if pieces.prefix == "first":
            raise UsageError(
                f"{path}: a space before a text that has one, but not behind added tokens, is more than tokenizer.json can say"
            )
        steps.append(PREPEND)
    if pieces is not None and not _has_metaspace(pieces):
        steps.append(TO_MARK)
    return None if not steps else steps[0] if len(steps) == 1 else {"type": "Sequence", "normalizers": steps}


def _has_metaspace(pieces: Pieces) -> bool:
    """Whether the pre-tokenizer, not the normalizer, turns spaces into marks."""
    return pieces.split or (pieces.prefix != "never" and not pieces.prefix_always)


def _metaspace(pieces: Pieces) -> dict[str, Any] | None:
    if not _has_metaspace(pieces):
        return None
    scheme = "never" if pieces.prefix_always else {"never": "never", "first": "first", "every": "always"}[pieces.prefix]
    return {"type": "Metaspace", "replacement": SPACE_MARK, "prepend_scheme": scheme, "split": pieces.split}


def _from_pieces(pieces: Pieces) -> dict[str, Any]:
    return {"type": "Sequence", "decoders": FROM_MARK + ([] if pieces.prefix == "never" else [STRIP])}


def _splits(pattern: Pattern) -> dict[str, Any]:
    steps = (Split(PATTERNS.get(pattern, pattern)),) if isinstance(pattern, str) else pattern
    behaviors = {ours: theirs for theirs, ours in BEHAVIORS.items()}
    said = [
        {"type": "Split", "pattern": {"Regex": step.expression}, "behavior": behaviors[step.behavior], "invert": step.invert}
        for step in steps
    ]
    return {"type": "Sequence", "pretokenizers": [*said, BYTE_LEVEL]}


def _template(tokenizer: Tokenizer) -> dict[str, Any] | None:
    before, behind = tokenizer.template
    if not before and not behind:
        return None
    names = {i: tokenizer.token_bytes[i].decode("utf-8", "replace") for i in (*before, *behind)}

    def around(letter: str, kind: int) -> list[dict[str, Any]]:
        def special(token: int) -> dict[str, Any]:
            return {"SpecialToken": {"id": names[token], "type_id": kind}}

        return [*map(special, before), {"Sequence": {"id": letter, "type_id": kind}}, *map(special, behind)]

    tokens = {name: {"id": name, "ids": [i], "tokens": [name]} for i, name in names.items()}
    return {"type": "TemplateProcessing", "single": around("A", 0), "pair": around("A", 0) + around("B", 1), "special_tokens": tokens}
