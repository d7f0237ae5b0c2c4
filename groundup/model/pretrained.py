"""A model as others publish it, a Hugging Face folder, a ``.gguf`` file or ``hub:owner/name``: all that is said about it, and its weights.

Opening reads what describes the model; weights are read by ``load``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from groundup.config import ModelConfig
from groundup.data.formats import require
from groundup.errors import GroundupError, UsageError
from groundup.files import read_json
from groundup.gguf_file import GGUFFile
from groundup.model.decoder import Decoder
from groundup.model.families import Family, family_named
from groundup.model.families.family import Values
from groundup.model.weights import gguf_source
from groundup.model.weights.loading import load_model
from groundup.model.weights.sources import Dequantized, SafetensorsFolder, Source
from groundup.tokenizer import END_OF_TEXT, Tokenizer
from groundup.tokenizer.formats import gguf as gguf_tokenizer

HUB = "hub:"
_FETCHED = ["model*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "README.md"]
_NOT_FETCHED = ["*/*"]  # the same weights in other forms, gigabytes of them
_LICENCE = re.compile(r"^license:\s*(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Pretrained:
    """What is known of a model before its weights are read."""

    path: Path
    """Folder or file."""
    values: Mapping[str, Any]
    """``config.json``, or what it would say."""
    chat_template: str | None = None
    """Jinja source, or none."""
    special: Mapping[str, str] = field(default_factory=dict)
    """Texts that a chat template may name: bos_token, eos_token and others."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """``generation_config.json``: token ids that end a text, and how its makers draw."""
    licence: str | None = None
    """As its makers name it."""
    gguf: GGUFFile | None = None
    """The file, where it is one."""

    @property
    def family(self) -> Family:
        """Its family; UsageError for one that is not supported."""
        return family_named(self.values, self._config_file)

    @cached_property
    def config(self) -> ModelConfig:
        """Its configuration, where it does not say whether the head is tied by the weights; UsageError naming what is not supported."""
        if self.gguf is not None:
            gguf_source.check_architecture(self.gguf)
        config = self.family.read(self.values, self._config_file)
        if config.tied or self.values.get("tie_word_embeddings") is not None or self._has_head(config):
            return config
        return replace(config, tied=True)

    def _has_head(self, config: ModelConfig) -> bool:
        """Whether the weights have a head of their own; of weights that cannot be read, ``load`` says why."""
        try:
            names = self.source().names()
        except GroundupError:
            return True
        return any(part.theirs[0] in names for part in self.family.tensors(config) if part.ours == ("head.weight",))

    @property
    def _config_file(self) -> str:
        return str(self.path / "config.json" if self.gguf is None else self.path)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; UsageError for one that is not supported."""
        if self.gguf is None:
            return Tokenizer.load(self.path)
        return Tokenizer.made_of(self.path, gguf_tokenizer.read(self.gguf))

    @property
    def stored_as(self) -> str:
        """How its weights are stored, as far as that is said."""
        if self.gguf is not None:
            kinds = Counter(tensor.kind for tensor in self.gguf.tensors.values())
            return ", ".join(f"{kind} ({n} of {len(self.gguf.tensors)} tensors)" for kind, n in kinds.most_common())
        stored = self.values.get("quantization_config")
        method = stored.get("quant_method") if isinstance(stored, dict) else stored
        return str(method or self.values.get("torch_dtype") or self.values.get("dtype") or "not said")

    def source(self) -> Source:
        """Its tensors; UsageError for a way to store them that is not supported."""
        if self.gguf is not None:
            return gguf_source.GGUFSource(self.gguf)
        stored = Values(Values(self.values, self._config_file).table("quantization_config"), f"{self._config_file}: quantization_config")
        method, sides = stored.get("quant_method"), stored.entries("weight_block_size", [128, 128])
        if method not in (None, "fp8", "mxfp4"):
            raise UsageError(
                f"{self._config_file}: quant_method {method!r} is not supported, only fp8 and mxfp4: get the model unquantized"
            )
        if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int) or sides[0] < 1:
            raise UsageError(f"{self._config_file}: weight_block_size {sides} is not supported, only square blocks are: get it unquantized")
        folder = SafetensorsFolder(self.path)
        return folder if method is None else Dequantized(folder, sides[0])

    def load(self, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32) -> Decoder:
        """The model; see ``weights.loading.load_model``."""
        return load_model(self.source(), self.family, self.config, device=device, dtype=dtype)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end what the model says, of ``generation_config.json`` or else ``config.json``, and the tokenizer's own."""
        found = self.generation.get("eos_token_id", self.values.get("eos_token_id"))
        ids = found if isinstance(found, list) else [] if found is None else [found]
        named = self.tokenizer.special_tokens.get(self.special.get("eos_token", ""))
        return frozenset(i for i in [*ids, named] if isinstance(i, int) and 0 <= i < self.tokenizer.vocab_size)

    @property
    def drawing(self) -> dict[str, Any]:
        """How its makers draw from it, as ``generate`` takes it; what they do not say is left out. A top_k of 0 is theirs for none."""
        said = Values(self.generation, str(self.path / "generation_config.json"))
        found = {key: said.number(key) for key in ("temperature", "top_p") if said.get(key) is not None}
        return found | ({"top_k": said.whole("top_k")} if said.get("top_k") not in (None, 0) else {})

    @cached_property
    def opening(self) -> int:
        """The token that stands before every document: what the tokenizer puts there, else <|endoftext|>, the model's bos, its eos."""
        if self.tokenizer.template.before:
            return self.tokenizer.template.before[0]
        if END_OF_TEXT in self.tokenizer.special_tokens:
            return self.tokenizer.end_of_text
        bos = self.values.get("bos_token_id")
        if isinstance(bos, int) and bos < self.tokenizer.vocab_size:
            return bos
        if not self.stop_ids:
            raise UsageError(f"{self.path} does not say which token begins a text: give its config.json a bos_token_id of its tokenizer's")
        return min(self.stop_ids)


def open_pretrained(name: str | Path) -> Pretrained:
    """Opens a folder, a ``.gguf`` file, or ``hub:owner/name``, which is downloaded, or what of it is missing.

    Raises UsageError for what is none of these, GroundupError for broken files.
    """
    path = _download(name) if isinstance(name, str) and name.startswith(HUB) else Path(name)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf":
        return _open_gguf(path)
    raise UsageError(f"{name} is no model: give a folder with a config.json, a .gguf file, or {HUB}owner/name")


def _open_folder(folder: Path) -> Pretrained:
    def optional(file: str) -> dict[str, Any]:
        return read_json(folder / file) if (folder / file).exists() else {}

    tokenizer = optional("special_tokens_map.json") | optional("tokenizer_config.json")  # older folders name tokens in either
    special = {
        key: value["content"] if isinstance(value, dict) else value
        for key, value in tokenizer.items()
        if key.endswith("_token") and (isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str)))
    }
    card = folder / "README.md"
    licence = _LICENCE.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    return Pretrained(
        folder,
        read_json(folder / "config.json"),
        _template_of(folder, tokenizer.get("chat_template") or optional("chat_template.json").get("chat_template")),
        special,
        optional("generation_config.json"),
        licence[1] if licence else None,
    )


def _template_of(folder: Path, said: Any) -> str | None:
    """The chat template: of a file by itself, or what ``tokenizer_config.json`` says; of several the one named default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise GroundupError(f"{file} cannot be read ({error}): get it again") from error
    if isinstance(said, list):
        named = {entry.get("name"): entry.get("template") for entry in said if isinstance(entry, dict)}
        said = named.get("default")
    return said if isinstance(said, str) else None


def _open_gguf(path: Path) -> Pretrained:
    file = GGUFFile(path)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    texts = tokens if isinstance(tokens, list) else []
    ids = {key: file.value(f"tokenizer.ggml.{key}_token_id", int) for key in ("bos", "eos", "eot", "eom", "padding", "unknown")}
    known = {key: token for key, token in ids.items() if token is not None and 0 <= token < len(texts)}
    names = {"padding": "pad", "unknown": "unk"}
    special = {f"{names.get(key, key)}_token": texts[token] for key, token in known.items()}
    ends = [known[key] for key in ("eos", "eot", "eom") if key in known]
    generation = {"eos_token_id": ends} if ends else {}
    template, licence = file.value("tokenizer.chat_template", str), file.value("general.license", str)
    known_kind = file.architecture in gguf_source.ARCHITECTURES
    values = gguf_source.config_values(file) if known_kind else {"model_type": file.architecture}
    return Pretrained(path, values, template, special, generation, licence, file)


def _download(name: str) -> Path:
    """The newest version of a repository of the hub, its weights as safetensors; what is here already is not fetched again."""
    hub = require("huggingface_hub", name)
    errors = require("huggingface_hub.errors", name)
    repository = name.removeprefix(HUB)
    try:
        return Path(hub.snapshot_download(repository, allow_patterns=_FETCHED, ignore_patterns=_NOT_FETCHED))
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UsageError(f"{name}: the hub has no model {repository!r} that you may read: check owner/name and access") from error
    except (OSError, errors.HTTPError, errors.LocalEntryNotFoundError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(f"{name}: the download failed ({reason}): check the network and run again to go on, or give a folder") from error
