"""A ``.gguf`` file as a Hugging Face folder would be: ``config.json`` from its metadata, tensors by their Hugging Face names.

Supported are the architectures that differ from their folder by names alone, and Llama's, whose query and key rows stand in another order:
llama.cpp rotates neighbouring rows (2i, 2i + 1) of a head together, Hugging Face rows (i, i + E/2), E the head's width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from groundup.errors import GroundupError, UsageError
from groundup.gguf_file import GGUFFile
from groundup.model.weights.quantized import dequantize

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Those that are read; ``general.architecture`` and ``model_type`` are the same word."""

_ROPE_FACTORS = "rope_freqs.weight"
_PAIRED = re.compile(r"blk\.\d+\.attn_([qk])\.(weight|bias)")
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class GGUFSource:
    """Tensors of a file by their Hugging Face names; see ``sources.Source``.

    Raises UsageError for an architecture or a way to store numbers that is not supported, GroundupError for a tensor that no model has.
    """

    def __init__(self, file: GGUFFile) -> None:
        check_architecture(file)
        self.file, self.where = file, str(file.path)
        self._names = {hugging_face_name(name, self.where): name for name in file.tensors if name != _ROPE_FACTORS}
        for name in file.tensors:
            file.check_kind(name)

    def names(self) -> Collection[str]:
        """See ``Source``."""
        return self._names.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``Source``."""
        return self.file.tensors[self._names[name]].shape

    def read(self, name: str) -> Tensor:
        """See ``Source``; always fp32."""
        stored = self.file.tensors[self._names[name]]
        blocks = self.file.blocks(stored.name)
        if self.file.architecture == "llama" and (paired := _PAIRED.fullmatch(stored.name)):
            heads = _heads(self.file)[0 if paired[1] == "q" else 1]
            if stored.shape[0] % (2 * heads):
                raise GroundupError(f"{self.where}: {stored.name} has {stored.shape[0]} rows, which {heads} heads do not divide")
            rows = blocks.reshape(stored.shape[0], -1)  # before unpacking, when there are fewer bytes to move
            blocks = rearrange(rows, "(h i two) b -> (h two i) b", h=heads, two=2).reshape(blocks.shape)
        try:
            return torch.from_numpy(dequantize(stored.kind, blocks)).view(stored.shape)
        except ValueError as error:
            raise GroundupError(f"{self.where} is broken: {stored.name} ({error}); get it again") from error


def check_architecture(file: GGUFFile) -> None:
    """Raises UsageError for a file of an architecture that is not supported."""
    if file.architecture not in ARCHITECTURES:
        raise UsageError(
            f"{file.path}: general.architecture {file.architecture!r} is not supported as GGUF, only {', '.join(ARCHITECTURES)} are: "
            "get the model as a folder of safetensors"
        )


def hugging_face_name(name: str, where: str) -> str:
    """``blk.0.attn_q.weight`` is ``model.layers.0.self_attn.q_proj.weight``; GroundupError for a name that none of theirs stands for."""
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    stem = found and (_TOP if found[1] is None else _IN_LAYER).get(found[2])
    if found is None or stem is None:
        raise GroundupError(f"{where}: tensor {name} belongs to no model that is supported: get the model as a folder of safetensors")
    return f"{stem}.{found[3]}" if found[1] is None else f"model.layers.{found[1]}.{stem}.{found[3]}"


def config_values(file: GGUFFile) -> dict[str, Any]:
    """What ``config.json`` would say; UsageError for what is not supported, GroundupError naming a key that the header lacks."""
    check_architecture(file)
    architecture = file.architecture
    if architecture == "llama" and file.value("llama.expert_count", int):
        raise UsageError(f"{file.path}: a Llama with llama.expert_count is a Mixtral: get it as a folder of safetensors")

    def said(key: str, kind: type = int, default: Any = None) -> Any:
        value = file.value(f"{architecture}.{key}", kind)
        if value is None and default is None:
            raise GroundupError(f"{file.path} is broken: its header lacks {architecture}.{key}; get it again")
        return default if value is None else value

    n_heads, n_kv_heads = _heads(file)
    d_model, n_layers = said("embedding_length"), said("block_count")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise GroundupError(f"{file.path} is broken: it lacks token_embd.weight; get it again")
    if n_layers > len(file.tensors):
        raise GroundupError(f"{file.path} is broken: it has {n_layers:,} layers and {len(file.tensors):,} tensors; get it again")
    head_dim = said("attention.key_length", default=said("rope.dimension_count", default=d_model // n_heads))
    if said("rope.dimension_count", default=head_dim) != head_dim:
        raise UsageError(f"{file.path}: {architecture}.rope.dimension_count must be the width of a head, {head_dim}, to be supported")
    values = {
        "model_type": architecture,
        "vocab_size": embedding.shape[0],
        "hidden_size": d_model,
        "intermediate_size": said("feed_forward_length"),
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": said("context_length"),
        "rms_norm_eps": _shortest(said("attention.layer_norm_rms_epsilon", float)),
        "rope_theta": _shortest(said("rope.freq_base", float, 10_000.0)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **_token_ids(file),
    }
    if architecture == "llama":
        values["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    scaling = _scaling(file, values["head_dim"], values["rope_theta"])
    return values | ({"rope_scaling": scaling} if scaling else {})


def _heads(file: GGUFFile) -> tuple[int, int]:
    """Query heads and kv heads."""
    key = f"{file.architecture}.attention.head_count"
    found = file.metadata.get(key)
    found_kv = file.metadata.get(f"{key}_kv", found)
    if not all(isinstance(n, int) and n > 0 for n in (found, found_kv)):
        raise GroundupError(f"{file.path}: {key} {found!r} and {key}_kv {found_kv!r} are not numbers of heads, the same in every layer")
    return found, found_kv


def _shortest(value: float) -> float:
    """The shortest decimal that is this number in fp32, in which the header holds it: 1e-05 and not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _token_ids(file: GGUFFile) -> dict[str, int]:
    ids = {f"{key}_token_id": file.value(f"tokenizer.ggml.{key}_token_id", int) for key in ("bos", "eos")}
    return {key: token for key, token in ids.items() if token is not None}


def _scaling(file: GGUFFile, head_dim: int, theta: float) -> dict[str, Any] | None:
    """The ``rope_scaling`` of a header, or of the table of divisors that llama.cpp makes of Llama 3's."""
    if _ROPE_FACTORS in file.tensors:
        factors = dequantize(file.tensors[_ROPE_FACTORS].kind, file.blocks(_ROPE_FACTORS)).astype(np.float64)
        factor = float(round(factors.max()))
        if factors.shape != (head_dim // 2,) or not np.allclose(factors, llama3_factors(head_dim, theta, factor), rtol=1e-3):
            raise UsageError(f"{file.path}: {_ROPE_FACTORS} is not of Llama 3's rotary scaling, which alone is supported as a table")
        return {"rope_type": "llama3", "factor": factor, **_LLAMA3}
    prefix = f"{file.architecture}.rope.scaling"
    factor = file.value(f"{prefix}.factor", float) or file.value(f"{file.architecture}.rope.scale_linear", float)  # the second is older
    kind = file.value(f"{prefix}.type", str) or ("linear" if factor else "none")  # a factor alone is linear to llama.cpp
    if kind == "none":
        return None
    found = {"rope_type": kind, "factor": factor or 1.0}
    original = file.value(f"{prefix}.original_context_length", int)
    return found | ({} if original is None else {"original_max_position_embeddings": original})


def llama3_factors(head_dim: int, theta: float, factor: float) -> np.ndarray:
    """By what Llama 3 divides each frequency: 1 for wavelengths below 8192 / 4, ``factor`` above 8192, and between them a blend.

    1 / (s + (1 - s) / factor) with s = (8192 / wavelength - 1) / 3 from 0 to 1 (Llama 3.1's ``apply_scaling``, 2024).
    """
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    low, high, original = _LLAMA3.values()
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return 1 / (smooth + (1 - smooth) / factor)
