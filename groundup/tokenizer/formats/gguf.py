"""The tokenizer in the header of a ``.gguf`` file: byte-level BPE (its kind ``gpt2``), or SentencePiece's BPE (``llama``).

Keys are those of ``docs/gguf.md`` of ggml; what ``tokenizer.ggml.pre`` means is in ``llama-vocab.cpp`` of llama.cpp. Qwen's texts are put
into normal form C, which its own tokenizer does and the header does not say.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from groundup.errors import GroundupError, UsageError
from groundup.gguf_file import GGUFFile
from groundup.tokenizer.added import AddedToken, Template
from groundup.tokenizer.formats.names import contiguous, tokens_of
from groundup.tokenizer.formats.sentencepiece import Piece, arguments_of
from groundup.tokenizer.normalizing import Normalizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = range(1, 5)


class _Rules(NamedTuple):
    """What the name of a pre-tokenizer stands for."""

    pattern: str
    whole: bool = False
    adds_bos: bool = False
    normalizer: Normalizer | None = None


_LLAMA3, _QWEN2 = _Rules("cl100k", whole=True, adds_bos=True), _Rules("qwen2", normalizer="NFC")
_RULES = {
    **dict.fromkeys(("gpt-2", "olmo"), _Rules("gpt2")),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _Rules("cl100k")),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    **dict.fromkeys(("smollm", "starcoder", "refact"), _Rules("smollm")),
    "deepseek-v3": _Rules("deepseek-v3"),
    "gpt-4o": _Rules("o200k"),
}


def read(file: GGUFFile) -> dict[str, Any]:
    """The arguments of the ``Tokenizer`` that the header describes.

    Raises UsageError for a kind that is not supported, GroundupError for a header that lacks or contradicts something.
    """
    names, kinds = _list(file, "tokens"), _list(file, "token_type")
    if len(kinds) != len(names):
        raise GroundupError(f"{file.path}: its header has {len(names)} tokens and {len(kinds)} types of them; get the file again")
    kind = file.value("tokenizer.ggml.model", str)
    if kind == "gpt2":
        return _byte_level(file, names, [int(i) for i in kinds])
    if kind == "llama":
        scores = _list(file, "scores")
        pieces = [Piece(name, float(score), int(i)) for name, score, i in zip(names, scores, kinds, strict=False)]
        given = arguments_of(file.path, pieces, add_prefix=file.value("tokenizer.ggml.add_space_prefix", bool) is not False)
        return given | {"template": _template(file, adds_bos=True)}
    raise UsageError(f"{file.path}: its tokenizer is of the kind {kind!r}, which is not supported: only gpt2 and llama are")


def _byte_level(file: GGUFFile, names: list[str], kinds: list[int]) -> dict[str, Any]:
    named = file.value("tokenizer.ggml.pre", str)
    if named not in _RULES:
        raise UsageError(f"{file.path}: its pre-tokenizer {named!r} is not supported, only {', '.join(_RULES)} are")
    rules = _RULES[named]
    ids = {name: i for i, name in enumerate(names)}
    if len(ids) < len(names):
        raise GroundupError(f"{file.path}: two of its tokens have one name; get the file again")
    ordinary = {name: i for name, i in ids.items() if kinds[i] == _NORMAL}
    added = [
        AddedToken(names[i], i, special=kind != _USER_DEFINED)
        for i, kind in enumerate(kinds)
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    contiguous(ordinary, {i for i in range(len(names)) if kinds[i] != _NORMAL}, file.path)
    merges = []
    for k, merge in enumerate(_list(file, "merges")):
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            raise GroundupError(f"{file.path}: merge {k} ({merge!r}) does not join two tokens of the vocabulary into one; get it again")
        merges.append((ids[left], ids[right]))
    return {
        "merges": merges,
        "special_tokens": added,
        "pattern": rules.pattern,
        "vocabulary": tokens_of(ordinary, file.path),
        "whole": rules.whole,
        "normalizer": rules.normalizer,
        "template": _template(file, adds_bos=rules.adds_bos),
    }


def _template(file: GGUFFile, *, adds_bos: bool) -> Template:
    """What is put around a text; ``adds_bos`` where the header does not say."""

    def one(key: str, default: bool) -> tuple[int, ...]:
        token, adds = file.value(f"tokenizer.ggml.{key}_token_id", int), file.value(f"tokenizer.ggml.add_{key}_token", bool)
        return (token,) if token is not None and (default if adds is None else adds) else ()

    return Template(one("bos", adds_bos), one("eos", False))


def _list(file: GGUFFile, key: str) -> Any:
    found = file.metadata.get(f"tokenizer.ggml.{key}")
    if found is None or isinstance(found, str | int | float):
        raise UsageError(f"{file.path} holds no tokenizer (tokenizer.ggml.{key} is not in its header): give a .gguf of a language model")
    return found
