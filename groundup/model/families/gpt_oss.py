"""gpt-oss (OpenAI 2025): experts of a clamped SwiGLU, a sink logit a head, a window of 128 in every other layer, biases, YaRN.

Weights that are stored in MXFP4 reach ``load`` as the plain tensors that they stand for, [X, in, out].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from groundup.config import Attention, Experts, Layer, ModelConfig, Norm, Router
from groundup.model.families import common
from groundup.model.families.family import Family, TensorMap, Tensors, Values, renamed

NAMES = {**common.NAMES, "router": "router"}
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""Of a config.json that says nothing of it."""


def _config(values: Values) -> ModelConfig:
    values.must("hidden_act", "silu")
    values.must("swiglu_alpha", 1.702)
    values.must("swiglu_limit", 7.0)
    if values.get("rope_parameters") is None and values.get("rope_scaling") is None:
        values = Values({**values.values, "rope_parameters": _YARN}, values.where)
    norm, bias = Norm(eps=values.number("rms_norm_eps", 1e-5), wide_gain=True), values.flag("attention_bias", True)
    rotary = common.read_rotary(values, 150_000.0)
    mixer = Attention(**common.read_heads(values, n_kv_heads=8, head_dim=64), rotary=rotary, bias=bias, output_bias=bias, sinks=True)
    mlp = Experts(
        n_experts=values.whole("num_local_experts", values.get("num_experts", 128)),
        n_active=values.whole("num_experts_per_tok", values.get("experts_per_token", 4)),
        d_ff=values.whole("intermediate_size", 2880),
        router=Router("softmax_of_chosen", bias=True),
        activation="clamped_swiglu",
        bias=True,
    )
    windows = common.read_windows(values, [i % 2 == 0 for i in range(values.whole("num_hidden_layers", 36))], 128)
    return common.assemble(values, (Layer(replace(mixer, window=w), mlp, norm) for w in windows), norm, context=131_072)


def _values(config: ModelConfig) -> dict[str, Any]:
    mlp = common.experts(config)
    return {
        **common.base_values(config),
        **common.attention_values(config),
        **common.window_values(config),
        "attention_bias": common.attentions(config)[0].bias,
        "intermediate_size": mlp.d_ff,
        "num_local_experts": mlp.n_experts,
        "num_experts_per_tok": mlp.n_active,
    }


def _part(theirs: Tensors) -> Tensors:
    """[X, D, 2 F] with gate and up in turns -> two of [X, F, D]."""
    return theirs[0][..., 0::2].transpose(1, 2), theirs[0][..., 1::2].transpose(1, 2)


def _join(ours: Tensors) -> Tensors:
    return (torch.stack(ours, dim=-1).transpose(1, 2).flatten(2),)


def _part_bias(theirs: Tensors) -> Tensors:
    return theirs[0][..., 0::2], theirs[0][..., 1::2]


def _join_bias(ours: Tensors) -> Tensors:
    return (torch.stack(ours, dim=-1).flatten(1),)


def _turn(tensors: Tensors) -> Tensors:
    return (tensors[0].transpose(1, 2),)


def _tensors(config: ModelConfig) -> Iterator[TensorMap]:
    yield from renamed(config, NAMES, skip=lambda name: ".mlp." in name and ".router." not in name)
    for i in range(len(config.layers)):
        ours, theirs = f"layers.{i}.mlp", f"model.layers.{i}.mlp.experts"
        yield TensorMap((f"{ours}.gate.weight", f"{ours}.up.weight"), (f"{theirs}.gate_up_proj",), _part, _join)
        yield TensorMap((f"{ours}.gate.bias", f"{ours}.up.bias"), (f"{theirs}.gate_up_proj_bias",), _part_bias, _join_bias)
        yield TensorMap((f"{ours}.down.weight",), (f"{theirs}.down_proj",), _turn, _turn)
        yield TensorMap((f"{ours}.down.bias",), (f"{theirs}.down_proj_bias",))


GPT_OSS = Family("gpt_oss", "GptOssForCausalLM", _config, _values, _tensors)
