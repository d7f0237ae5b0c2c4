"""``tokenizer.json`` as it is in the wild, read into the arguments of a ``Tokenizer``.

Each component is translated where it means something we have, and is an error that names it where not: no text may get other ids silently.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import regex

from groundup.errors import GroundupError, UsageError
from groundup.tokenizer.added import AddedToken, Template
from groundup.tokenizer.byte_fallback import Pieces
from groundup.tokenizer.formats.json_writing import BEHAVIORS, FROM_MARK, PREPEND, STRIP, TO_MARK
from groundup.tokenizer.formats.names import contiguous, tokens_of
from groundup.tokenizer.normalizing import SPACE_MARK
from groundup.tokenizer.patterns import GPT2, PATTERNS, Pattern, Split
from groundup.tokenizer.vocabulary import byte_names

_KNOWN_KEYS = {
    *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"),
}
_KNOWN_MODEL_KEYS = {
    *("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges"),
    *("vocab", "merges"),
}
_DIGIT = r"\p{N}"
_ORIGINAL_GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_DEEPSEEK_V3 = (
    Split(r"\p{N}{1,3}"),
    Split("[一-龥\u3040-ゟ゠-ヿ]+"),
    Split(
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    ),
)
_STEPS: dict[tuple[Split, ...], str] = {
    **{(Split(expression),): name for name, expression in PATTERNS.items()},
    (Split(_ORIGINAL_GPT2),): "gpt2",
    (Split(_DIGIT), Split(GPT2)): "smollm",
    _DEEPSEEK_V3: "deepseek-v3",
}
"""Steps of pre-tokenization that are one of our patterns."""


def read(path: Path) -> dict[str, Any]:
    """The arguments of the ``Tokenizer`` that a ``tokenizer.json`` describes.

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
    return _Reader(path, found).arguments()


class _Reader:
    """One file, whose parts are translated one by one."""

    def __init__(self, path: Path, found: dict[str, Any]) -> None:
        self.path, self.found, self.model = path, found, found["model"]

    def arguments(self) -> dict[str, Any]:
        """The arguments of the ``Tokenizer``."""
        self._check_keys()
        added = self._added_tokens()
        vocab = self._vocab()
        merges = self._merges(vocab)
        given: dict[str, Any] = {"merges": merges, "special_tokens": added, "template": self._template(added)}
        if self.model.get("byte_fallback"):
            return given | {"vocabulary": self._pieces(vocab, added)}
        given |= {"pattern": self._pattern(), "normalizer": self._normalizer(), "whole": bool(self.model.get("ignore_merges"))}
        if (self.found.get("decoder") or {}).get("type") != "ByteLevel":
            self._refuse("decoder", self.found.get("decoder"))
        if vocab == {name: i for i, name in enumerate(byte_names(merges))} and not given["whole"]:
            return given  # ids as they are by default
        name_of, added_ids = {i: name for name, i in vocab.items()}, {token.id for token in added}
        made = {name_of[left] + name_of[right] for left, right in merges}
        ordinary = {name: i for name, i in vocab.items() if name in made or i not in added_ids}
        return given | {"vocabulary": tokens_of(ordinary, self.path)}

    def _refuse(self, what: str, component: Any) -> None:
        raise UsageError(f"{self.path}: its {what} is not supported: {json.dumps(component, ensure_ascii=False)[:200]}")

    def _check_keys(self) -> None:
        for where, found, known in (("", self.found, _KNOWN_KEYS), ("model ", self.model, _KNOWN_MODEL_KEYS)):
            for key in found.keys() - known:
                if found[key] is not None:
                    self._refuse(where + key, found[key])
        if self.model.get("type", "BPE") != "BPE":
            raise UsageError(f"{self.path}: model {self.model['type']!r} is not supported, only BPE is")
        for key in ("truncation", "padding"):
            if self.found.get(key) is not None:
                self._refuse(key, self.found[key])
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self.model.get(key):
                self._refuse(f"model {key}", self.model[key])
        if self.model.get("byte_fallback") and self.model.get("ignore_merges"):
            self._refuse("model ignore_merges beside byte_fallback", True)

    def _vocab(self) -> dict[str, int]:
        vocab = self.model.get("vocab")
        if not isinstance(vocab, dict):
            raise GroundupError(f"{self.path} is broken: its model has no vocab")
        contiguous(vocab, {token["id"] for token in self.found.get("added_tokens") or []}, self.path)
        return vocab

    def _added_tokens(self) -> list[AddedToken]:
        added = self.found.get("added_tokens") or []
        for token in added:
            if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not isinstance(token.get("id"), int):
                raise GroundupError(f"{self.path}: added token {token!r} lacks its content or id")
        vocab = self.model.get("vocab")
        for token in added:
            if isinstance(vocab, dict) and vocab.get(token["content"], token["id"]) != token["id"]:
                raise GroundupError(f"{self.path}: added token {token['content']!r} has id {token['id']} and {vocab[token['content']]}")
        flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
        return [
            AddedToken(token["content"], token["id"], **{flag: bool(token.get(flag, False)) for flag in flags})
            for token in sorted(added, key=lambda token: token["id"])
        ]

    def _merges(self, vocab: dict[str, int]) -> list[tuple[int, int]]:
        merges = []
        for k, merge in enumerate(self.model.get("merges") or []):
            pair = merge.split(" ") if isinstance(merge, str) else merge
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(name, str) and name in vocab for name in pair):
                raise GroundupError(f"{self.path}: merge {k} ({merge!r}) does not join two tokens of the vocabulary")
            if pair[0] + pair[1] not in vocab:
                raise GroundupError(f"{self.path}: merge {k} makes {pair[0] + pair[1]!r}, which the vocabulary lacks")
            merges.append((vocab[pair[0]], vocab[pair[1]]))
        return merges

    def _flat(self, component: Any, parts: str) -> list[Any]:
        """The steps of a component, which may be none, one, or a Sequence."""
        if component is None:
            return []
        if isinstance(component, dict) and component.get("type") == "Sequence":
            return [step for part in component.get(parts) or [] for step in self._flat(part, parts)]
        return [component]

    def _normalizer(self) -> str | None:
        steps = self._flat(self.found.get("normalizer"), "normalizers")
        for step in steps:
            if step != {"type": "NFC"}:
                self._refuse("normalizer", step)
        return "NFC" if steps else None

    def _pattern(self) -> Pattern:
        *steps, last = self._flat(self.found.get("pre_tokenizer"), "pretokenizers") or [None]
        if not isinstance(last, dict) or last.get("type") != "ByteLevel":
            self._refuse("pre_tokenizer, which does not end in ByteLevel,", self.found.get("pre_tokenizer"))
        if last.get("add_prefix_space", True):
            self._refuse("pre_tokenizer's add_prefix_space", last)
        splits = tuple(map(self._split, steps))
        if last.get("use_regex", True):
            splits = (*splits, Split(GPT2))
        return _STEPS.get(splits, splits)

    def _split(self, step: dict[str, Any]) -> Split:
        if step.get("type") == "Digits":
            return Split(_DIGIT, "isolated" if step.get("individual_digits") else "contiguous")
        pattern = step.get("pattern") or {}
        expression = pattern.get("Regex") if "Regex" in pattern else pattern.get("String") and regex.escape(pattern["String"])
        if step.get("type") != "Split" or not isinstance(expression, str) or step.get("behavior") not in BEHAVIORS:
            self._refuse("pre_tokenizer", step)
        return Split(expression, BEHAVIORS[step["behavior"]], bool(step.get("invert")))

    def _template(self, added: list[AddedToken]) -> Template:
        before: list[int] = []
        behind: list[int] = []
        for step in self._flat(self.found.get("post_processor"), "processors"):
            if step.get("type") == "ByteLevel":
                continue  # trims offsets, not ids
            if step.get("type") != "TemplateProcessing" or not isinstance(step.get("single"), list):
                self._refuse("post_processor", step)
            ids, into = step.get("special_tokens") or {}, before
            for part in step["single"]:
                if "Sequence" in part:
                    into = behind
                elif (name := (part.get("SpecialToken") or {}).get("id")) in ids:
                    into += ids[name]["ids"]
                else:
                    self._refuse("post_processor", part)
        return Template(tuple(before), tuple(behind))

    def _pieces(self, vocab: dict[str, int], added: list[AddedToken]) -> Pieces:
        names: list[str | None] = [None] * (max(vocab.values(), default=-1) + 1)
        for name, i in vocab.items():
            names[i] = name
        normal = self._flat(self.found.get("normalizer"), "normalizers")
        steps = self._flat(self.found.get("pre_tokenizer"), "pretokenizers")
        pieces = Pieces(tuple(names), "never")
        if normal == [PREPEND, TO_MARK] and all(map(_splits_at_spaces, steps)):
            pieces = Pieces(tuple(names), "every")
        elif not normal and len(steps) == 1 and steps[0].get("type") == "Metaspace" and steps[0].get("replacement") == SPACE_MARK:
            scheme = {"never": "never", "first": "first", "always": "every"}.get(steps[0].get("prepend_scheme", "always"))
            pieces = Pieces(tuple(names), scheme or "never", False, bool(steps[0].get("split", True)))
        elif normal != [TO_MARK]:
            self._refuse("normalizer", self.found.get("normalizer"))
        elif not all(map(_splits_at_spaces, steps)):
            self._refuse("pre_tokenizer", self.found.get("pre_tokenizer"))
        decoders = FROM_MARK + ([STRIP] if pieces.prefix != "never" else [])
        if self._flat(self.found.get("decoder"), "decoders") != decoders:
            self._refuse("decoder", self.found.get("decoder"))
        return pieces


def _splits_at_spaces(step: dict[str, Any]) -> bool:
    """Whether a step of pre-tokenization looks for spaces, of which the normalizer has left none."""
    return step.get("type") == "Split" and step.get("pattern") == {"String": " "}
