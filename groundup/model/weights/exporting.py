"""A model as a folder that ``transformers`` opens with equal logits: by its family's maps, a shard at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from groundup.errors import GroundupError, UsageError
from groundup.files import write_json
from groundup.model.decoder import Decoder
from groundup.model.families import FAMILIES, Family, TensorMap, to_family
from groundup.model.pretrained import Pretrained
from groundup.model.weights.sources import INDEX, WHOLE
from groundup.tokenizer import END_OF_TEXT, Tokenizer

SHARD_BYTES = 5_000_000_000
"""A file holds no more, unless one tensor does."""

_TOKENIZER_FILES = (
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
    ),
    *("tokenizer.model", "vocab.json", "merges.txt"),
)


def export_model(
    model: Decoder,
    folder: Path,
    *,
    tokenizer: Path | None = None,
    origin: Pretrained | None = None,
    family: Family | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes ``config.json``, ``generation_config.json``, the weights in the precision they have, and the tokenizer's files.

    Args:
        tokenizer: a ``tokenizer.json`` of ours, which is copied; <|endoftext|> is then the token that begins and ends a text.
        origin: the files that the model was loaded from, from which tokenizer, special tokens and chat template are taken instead.
        family: whose folder it becomes: by default that of the origin, or the first that can say the configuration.
        shard_bytes: of weights in one file; beyond it there are several, with an index.

    The folder gets its name once it is complete. Raises UsageError for a model that no family describes, a tokenizer with more tokens than
    the model, or a folder that has something in it; GroundupError for a disk that fails.
    """
    config = model.config
    family = family or (origin and origin.family)
    values = to_family(config) if family is None else family.write(config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already: choose another folder")
    known = None if tokenizer is None else Tokenizer.load(tokenizer)
    if known is not None and known.vocab_size > config.vocab_size:
        raise UsageError(f"{tokenizer} has {known.vocab_size} tokens, the model {config.vocab_size}: give the tokenizer of its run")
    generation = _generation(known, origin)
    ids = {f"{key}_token_id": (origin.values if origin else generation).get(f"{key}_token_id") for key in ("bos", "eos", "pad")}
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    with _new_folder(folder) as partial:
        write_json(partial / "config.json", {**values, "torch_dtype": dtype, **ids})
        write_json(partial / "generation_config.json", generation)
        _write_weights(model, list(FAMILIES[values["model_type"]].tensors(config)), partial, shard_bytes)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, partial / "tokenizer.json")
            special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
            write_json(partial / "tokenizer_config.json", _tokenizer_config(special, config.context_length))
        elif origin is not None and origin.gguf is None:
            for name in _TOKENIZER_FILES:
                if (origin.path / name).exists():
                    shutil.copyfile(origin.path / name, partial / name)
        elif origin is not None:
            _write_tokenizer(origin, partial)


def _generation(tokenizer: Tokenizer | None, origin: Pretrained | None) -> dict[str, Any]:
    if origin is not None:
        return dict(origin.generation)
    if tokenizer is None:
        return {"do_sample": True}
    return {"do_sample": True, "bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}


def _tokenizer_config(special: Mapping[str, str], context_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
    }


def _write_tokenizer(origin: Pretrained, folder: Path) -> None:
    """What the header of a GGUF file says of its tokenizer, as a folder says it."""
    origin.tokenizer.save(folder)
    said = _tokenizer_config(origin.special, origin.config.context_length) | {"add_bos_token": bool(origin.tokenizer.template.before)}
    write_json(folder / "tokenizer_config.json", said | ({} if origin.chat_template is None else {"chat_template": origin.chat_template}))


def _write_weights(model: Decoder, maps: list[TensorMap], folder: Path, shard_bytes: int) -> None:
    """One file, or shards with an index; beside the model itself no more is held than what a shard's maps have to rearrange."""
    ours = model.state_dict()
    shards = _shards(maps, ours, shard_bytes)
    if len(shards) == 1:
        _save(shards[0], ours, folder / WHOLE)
        return
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        places |= dict.fromkeys(_save(shard, ours, folder / file), file)
    total = sum(p.numel() * p.element_size() for p in ours.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _shards(maps: list[TensorMap], ours: dict[str, Tensor], shard_bytes: int) -> list[list[TensorMap]]:
    """Maps in turn, as many to a shard as it holds."""
    shards: list[list[TensorMap]] = [[]]
    held = 0
    for part in maps:
        size = sum(ours[name].numel() * ours[name].element_size() for name in part.ours)
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(part)
        held += size
    return shards


@torch.no_grad()
def _save(maps: list[TensorMap], ours: dict[str, Tensor], file: Path) -> list[str]:
    """Writes the tensors of some maps; gives their names."""
    tensors: dict[str, Tensor] = {}
    for part in maps:
        saved = part.save(tuple(ours[name].detach().cpu() for name in part.ours))
        tensors |= {name: tensor.contiguous() for name, tensor in zip(part.theirs, saved, strict=True)}
    save_file(tensors, file, metadata={"format": "pt"})
    return [*tensors]


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
