"""Families as mappings: our configuration and tensor names to a Hugging Face folder's, and back. Two so far: Qwen3, and Llama.

Both are pre-norm decoders of RMSNorm, rotary grouped-query attention and SwiGLU without biases; Qwen3 norms each query and key head,
Llama does not. What else a ModelConfig can say has no word in their ``config.json``, and ``family_of`` names it.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm, Rotary, check
from groundup.errors import GroundupError, UsageError
from groundup.model.decoder import Decoder
from groundup.tokenizer import END_OF_TEXT, Tokenizer

Family = Literal["qwen3", "llama"]

CLASSES: dict[Family, str] = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}

# part of our name -> part of theirs, whole words between dots
TENSOR_NAMES = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "layers": "model.layers",
    "mixer_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mixer": "self_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "query_norm": "q_norm",
    "key_norm": "k_norm",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}


def family_of(config: ModelConfig) -> tuple[Family | None, str]:
    """The family whose ``config.json`` can say all of a configuration, and why; None with the first field that none can say."""
    if not config.layers:
        return None, "layers is empty"
    difference = _difference(config, _nearest(config), "")
    if difference:
        return None, difference
    mixer = config.layers[0].mixer
    if mixer.qk_norm is not None:
        return "qwen3", "qk_norm is what Qwen3 has over Llama"
    if config.d_model % mixer.n_heads:
        return None, f"d_model is {config.d_model}, and a Llama's is a multiple of n_heads, {mixer.n_heads}"
    return "llama", "without qk_norm it is a Llama"


def tensor_name(name: str) -> str:
    """Their name of one of our tensors: ``layers.0.mixer.query.weight`` is ``model.layers.0.self_attn.q_proj.weight``."""
    return ".".join(TENSOR_NAMES.get(part, part) for part in name.split("."))


def to_family(config: ModelConfig) -> dict[str, Any]:
    """The ``config.json`` of a configuration, without token ids; raises UsageError naming the field that it cannot say."""
    family, reason = family_of(config)
    if family is None:
        raise UsageError(f"this model cannot be exported: {reason}; train one with --arch qwen3 or --arch llama")
    layer = config.layers[0]
    theta = layer.mixer.rotary.theta
    return {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": layer.mlp.d_ff,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": layer.mixer.n_heads,
        "num_key_value_heads": layer.mixer.n_kv_heads,
        "head_dim": layer.mixer.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": layer.norm.eps,
        # transformers 5 reads the second, 4 the first
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": False,
        **({"mlp_bias": False} if family == "llama" else {"use_sliding_window": False}),
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
    }


def from_family(values: dict[str, Any], where: str = "config.json") -> ModelConfig:
    """The configuration that a Llama's or Qwen3's ``config.json`` describes, absent keys by that family's defaults.

    Raises UsageError naming the key that is missing or asks for what the decoder does not do.
    """
    family = values.get("model_type")
    if family not in CLASSES:
        raise UsageError(f"{where}: model_type {family!r} is not supported, only {' and '.join(CLASSES)} are")
    rope = {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    plain = {
        "hidden_act": (values.get("hidden_act", "silu"), "silu"),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "attention_bias": (bool(values.get("attention_bias")), False),
        "mlp_bias": (bool(values.get("mlp_bias")), False),
        "use_sliding_window": (bool(values.get("use_sliding_window")), False),
    }
    for key, (found, supported) in plain.items():
        if found != supported:
            raise UsageError(f"{where}: {key} {found!r} is not supported, only {supported!r} is")

    def whole(key: str, default: int | None = None) -> int:
        value = values.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{where}: {key} must be a whole number of at least 1, not {value!r}")
        return value

    d_model, n_heads = whole("hidden_size"), whole("num_attention_heads")
    norm = Norm(eps=float(values.get("rms_norm_eps", 1e-6)))
    mixer = Attention(
        n_heads=n_heads,
        n_kv_heads=whole("num_key_value_heads", n_heads),
        head_dim=whole("head_dim", 128 if family == "qwen3" else d_model // n_heads),
        rotary=Rotary(float(rope.get("rope_theta", values.get("rope_theta", 10_000.0)))),
        qk_norm=norm if family == "qwen3" else None,
    )
    config = ModelConfig(
        vocab_size=whole("vocab_size"),
        d_model=d_model,
        context_length=whole("max_position_embeddings"),
        layers=(Layer(mixer, Dense(whole("intermediate_size")), norm),) * whole("num_hidden_layers"),
        final_norm=norm,
        tied=bool(values.get("tie_word_embeddings")),
    )
    return check(config)


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
    tensors = {tensor_name(name): p.detach().float().cpu().contiguous() for name, p in model.named_parameters()}
    with _new_folder(folder) as partial:
        _write_json(partial / "config.json", {**values, "bos_token_id": None, "eos_token_id": None, **ids})
        _write_json(partial / "generation_config.json", {"do_sample": True, **ids})
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        if tokenizer is not None:
            shutil.copyfile(tokenizer, partial / "tokenizer.json")
            _write_json(partial / "tokenizer_config.json", _tokenizer_config(config.context_length))


def import_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration and the tensors, by our names and in the file's precision, of a Llama's or Qwen3's folder, whole or sharded.

    Raises UsageError for what is missing or not supported, GroundupError for weights that are broken or do not fit their configuration.
    """
    config = from_family(_read_json(folder / "config.json"), str(folder / "config.json"))
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
        shapes = {name: p.shape for name, p in Decoder(config).named_parameters()}
    tensors = {}
    for name, shape in shapes.items():
        tensor = found.pop(tensor_name(name), None)
        if tensor is None or tensor.shape != shape:
            has = "no" if tensor is None else f"{list(tensor.shape)} as its"
            raise GroundupError(f"{folder}: the weights have {has} {tensor_name(name)}, where config.json asks for {list(shape)}")
        tensors[name] = tensor
    # a tied head may be stored again, and old Llamas store their rotary frequencies
    if unknown := sorted(name for name in found if not (name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq"))):
        raise GroundupError(f"{folder}: the weights have {unknown[0]}, which config.json does not ask for")
    return config, tensors


def _nearest(config: ModelConfig) -> ModelConfig:
    """The configuration of a family that shares the sizes of this one: all that it can say, with everything else as it must be."""
    first = config.layers[0]
    norm = Norm("rms", first.norm.eps, weight=True, bias=False)
    mixer = Attention(
        first.mixer.n_heads,
        first.mixer.n_kv_heads,
        first.mixer.head_dim,
        rotary=first.mixer.rotary or Rotary(),
        qk_norm=norm if first.mixer.qk_norm else None,
    )
    layer = Layer(mixer, Dense(first.mlp.d_ff, "swiglu"), norm, "pre")
    return ModelConfig(config.vocab_size, config.d_model, config.context_length, (layer,) * len(config.layers), norm, tied=config.tied)


def _difference(found: Any, wanted: Any, where: str) -> str | None:
    """The first field in which two trees of dataclasses differ, as a clause."""
    if found == wanted:
        return None
    if isinstance(found, tuple) and isinstance(wanted, tuple) and len(found) == len(wanted):
        return next(filter(None, (_difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(found, wanted, strict=True)))), None)
    if dataclasses.is_dataclass(found) and type(found) is type(wanted):
        parts = ((getattr(found, f.name), getattr(wanted, f.name), f"{where}.{f.name}".lstrip(".")) for f in dataclasses.fields(found))
        return next(filter(None, (_difference(*part) for part in parts)), None)
    return f"{where} is {found!r}, where Llama and Qwen3 have {wanted!r}"


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
        raise UsageError(f"{path} cannot be read ({error.strerror}): give a folder with a Llama's or Qwen3's files") from error
    except ValueError as error:
        raise GroundupError(f"{path} is broken ({error}): get it again") from error
    if not isinstance(found, dict):
        raise GroundupError(f"{path} is broken: it holds no object")
    return found
