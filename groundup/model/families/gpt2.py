"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, biases everywhere, GELU; its matrices are stored [in, out], q, k, v in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm, check
from groundup.errors import UsageError
from groundup.model.families import common
from groundup.model.families.family import Family, TensorMap, Tensors, Values, renamed

NAMES = {
    "embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
    "layers": "transformer.h",
    "mixer_norm": "ln_1",
    "mlp_norm": "ln_2",
}
_TRANSPOSED = {"mixer.output": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}


def _config(values: Values) -> ModelConfig:
    values.word("activation_function", "gelu_new", {"gelu_new": True, "gelu_pytorch_tanh": True})
    values.must("scale_attn_weights", True)
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        values.must(key, False)
    d, n_heads = values.whole("n_embd", 768), values.whole("n_head", 12)
    if d % n_heads:
        raise UsageError(f"{values.where}: n_embd {d} is not a multiple of n_head {n_heads}")
    norm = Norm("layer", values.number("layer_norm_epsilon", 1e-5), bias=True)
    mixer = Attention(n_heads, n_heads, d // n_heads, rotary=None, bias=True, output_bias=True)
    layer = Layer(mixer, Dense(values.whole("n_inner", 4 * d), "gelu", bias=True), norm)
    return check(
        ModelConfig(
            vocab_size=values.whole("vocab_size", 50_257),
            d_model=d,
            context_length=values.whole("n_positions", values.get("n_ctx", 1024)),
            layers=(layer,) * values.whole("n_layer", 12),
            final_norm=norm,
            tied=values.flag("tie_word_embeddings", True),
            learned_positions=True,
        )
    )


def _values(config: ModelConfig) -> dict[str, Any]:
    layer = common.first_layer(config)
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.d_model,
        "n_layer": len(config.layers),
        "n_head": layer.mixer.n_heads,
        "n_inner": layer.mlp.d_ff,
        "n_positions": config.context_length,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": layer.norm.eps,
        "tie_word_embeddings": config.tied,
    }


def _transpose(tensors: Tensors) -> Tensors:
    return (tensors[0].T,)


def _part_matrix(theirs: Tensors) -> Tensors:
    return theirs[0].T.chunk(3)


def _join_matrix(ours: Tensors) -> Tensors:
    return (torch.cat(ours).T,)


def _part_bias(theirs: Tensors) -> Tensors:
    return theirs[0].chunk(3)


def _join_bias(ours: Tensors) -> Tensors:
    return (torch.cat(ours),)


def _tensors(config: ModelConfig) -> Iterator[TensorMap]:
    yield from renamed(config, NAMES, skip=lambda name: name.startswith("layers.") and name.split(".")[2] in ("mixer", "mlp"))
    for i in range(len(config.layers)):
        ours, theirs = f"layers.{i}", f"transformer.h.{i}"
        joint = [f"{ours}.mixer.{part}" for part in ("query", "key", "value")]
        yield TensorMap(tuple(f"{name}.weight" for name in joint), (f"{theirs}.attn.c_attn.weight",), _part_matrix, _join_matrix)
        yield TensorMap(tuple(f"{name}.bias" for name in joint), (f"{theirs}.attn.c_attn.bias",), _part_bias, _join_bias)
        for name, other in _TRANSPOSED.items():
            yield TensorMap((f"{ours}.{name}.weight",), (f"{theirs}.{other}.weight",), _transpose, _transpose)
            yield TensorMap((f"{ours}.{name}.bias",), (f"{theirs}.{other}.bias",))


GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    _config,
    _values,
    _tensors,
    prefix="transformer.",
    ignored=r"lm_head\.weight|.*\.attn\.(bias|masked_bias)",  # old files store their masks
)
