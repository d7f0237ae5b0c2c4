"""Folders as ``transformers`` writes them: a model of ours out, and one of any family in."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundup.config import ModelConfig
from groundup.errors import GroundupError, UsageError
from groundup.model.decoder import Decoder
from groundup.model.families import FAMILIES, family_named, to_family
from groundup.tokenizer import END_OF_TEXT, Tokenizer


def export_model(model: Decoder, config: ModelConfig, folder: Path, *, tokenizer: Path | None = None) -> None:
    """Writes a folder that ``transformers`` opens: ``config.json``, ``generation_config.json``, ``model.safetensors`` (fp32).

    With the path of a ``tokenizer.json`` it copies that, writes ``tokenizer_config.json`` beside it, and names <|endoftext|> as the
    token that begins and ends a text. The folder gets its name once it is complete. Raises UsageError for a model that no family
    describes, a tokenizer with more tokens than the model, or a folder that has something in it; GroundupError for a disk that fails.
    """
    values = to_family(config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already: choose another folder")
    ids: dict[str, int] = {}
    if tokenizer is not None:
        known = Tokenizer.load(tokenizer)
        if known.vocab_size > config.vocab_size:
            raise UsageError(f"{tokenizer} has {known.vocab_size} tokens, the model {config.vocab_size}: give the tokenizer of its run")
        ids = {"bos_token_id": known.end_of_text, "eos_token_id": known.end_of_text}
    ours = {name: p.detach().float().cpu() for name, p in model.named_parameters()}
    tensors = {}
    for part in FAMILIES[values["model_type"]].tensors(config):
        saved = part.save(tuple(ours[name] for name in part.ours))
        tensors |= {name: tensor.contiguous() for name, tensor in zip(part.theirs, saved, strict=True)}
    with _new_folder(folder) as partial:
        _write_json(partial / "config.json", {**values, "bos_token_id": None, "eos_token_id": None, **ids})
        _write_json(partial / "generation_config.json", {"do_sample": True, **ids})
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            shutil.copyfile(tokenizer, partial / "tokenizer.json")
            _write_json(partial / "tokenizer_config.json", _tokenizer_config(config.context_length))


def import_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and the tensors, by our names and in the file's precision, of a folder, whole or sharded.

    Raises UsageError for what is missing or not supported, GroundupError for weights that are broken or do not fit their configuration.
    """
    values, where = _read_json(folder / "config.json"), str(folder / "config.json")
    family = family_named(values, where)
    config = family.read(values, where)
    names = ["model.safetensors"]
    if (folder / "model.safetensors.index.json").exists():
        names = sorted(set(_read_json(folder / "model.safetensors.index.json")["weight_map"].values()))
    found: dict[str, Tensor] = {}
    for name in names:
        try:
            found |= load_file(folder / name)
        except FileNotFoundError as error:
            raise UsageError(f"{folder / name} is missing: get the whole folder") from error
        except SafetensorError as error:
            raise GroundupError(f"{folder / name} is broken ({error}): get it again") from error
    with torch.device("meta"):
        ours = dict(Decoder(config).named_parameters())
    tensors: dict[str, Tensor] = {}
    for part in family.tensors(config):
        theirs = []
        for name, wanted in zip(part.theirs, part.save(tuple(ours[name] for name in part.ours)), strict=True):
            tensor = found.pop(name, None)
            if tensor is None or tensor.shape != wanted.shape:
                has = "no" if tensor is None else f"{list(tensor.shape)} as its"
                raise GroundupError(f"{folder}: the weights have {has} {name}, where config.json asks for {list(wanted.shape)}")
            theirs.append(tensor)
        tensors |= zip(part.ours, part.load(tuple(theirs)), strict=True)
    if unknown := sorted(name for name in found if not re.fullmatch(family.ignored, name)):
        raise GroundupError(f"{folder}: the weights have {unknown[0]}, which config.json does not ask for")
    return config, tensors


def _tokenizer_config(context_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
    }


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``folder`` at the end, every byte on disk, or leaves nothing behind."""
    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise GroundupError(f"{folder} cannot be written ({reason}): choose a writable folder with room on its disk") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): give a folder with a model's files") from error
    except ValueError as error:
        raise GroundupError(f"{path} is broken ({error}): get it again") from error
    if not isinstance(found, dict):
        raise GroundupError(f"{path} is broken: it holds no object")
    return found
