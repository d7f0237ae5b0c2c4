"""Qwen2.5 (2024), Qwen3 and its mixture of experts (2025): Llamas with biases on q, k and v, or with a norm of each query and key head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from groundup.config import Attention, Dense, Experts, Layer, ModelConfig, Norm, Router
from groundup.model.families import common
from groundup.model.families.family import Family, TensorMap, Values


def _norm(values: Values) -> Norm:
    return Norm(eps=values.number("rms_norm_eps", 1e-6))


def _windows(values: Values) -> list[int | None]:
    """Layers from max_window_layers on slide where windows are used at all."""
    n_layers = values.whole("num_hidden_layers")
    if not values.flag("use_sliding_window"):
        return [None] * n_layers
    whole = values.whole("max_window_layers", 28, least=0)
    return common.read_windows(values, [i >= whole for i in range(n_layers)])


def _dense(values: Values, mixer: Attention) -> ModelConfig:
    values.must("hidden_act", "silu")
    norm, mlp = _norm(values), Dense(values.whole("intermediate_size"))
    layers = (Layer(replace(mixer, window=window), mlp, norm) for window in _windows(values))
    return common.assemble(values, layers, norm, context=32_768)


def _dense_values(config: ModelConfig) -> dict[str, Any]:
    windows = common.window_values(config)
    used = {"use_sliding_window": windows["sliding_window"] is not None}
    return {**common.base_values(config), **common.attention_values(config), **windows, **used}


def _qwen2(values: Values) -> ModelConfig:
    return _dense(values, Attention(**common.read_heads(values, n_kv_heads=32), rotary=common.read_rotary(values), bias=True))


def _normed(values: Values, **heads: int) -> Attention:
    bias = values.flag("attention_bias")
    rotary = common.read_rotary(values)
    return Attention(**common.read_heads(values, **heads), rotary=rotary, qk_norm=_norm(values), bias=bias, output_bias=bias)


def _qwen3(values: Values) -> ModelConfig:
    return _dense(values, _normed(values, n_kv_heads=32, head_dim=128))


def _bias(config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": common.attentions(config)[0].bias}


def _moe(values: Values) -> ModelConfig:
    values.must("hidden_act", "silu")
    n_layers, step = values.whole("num_hidden_layers"), values.whole("decoder_sparse_step", 1)
    window = values.whole("sliding_window", 4096) if values.flag("use_sliding_window") else None
    mixer, norm = replace(_normed(values, n_kv_heads=4), window=window), _norm(values)
    mlp = Experts(
        n_experts=values.whole("num_experts", values.get("num_local_experts", 128)),
        n_active=values.whole("num_experts_per_tok", 8),
        d_ff=values.whole("moe_intermediate_size", 768),
        router=Router(renormalize=values.flag("norm_topk_prob")),
    )
    sparse = [i not in values.entries("mlp_only_layers") and (i + 1) % step == 0 for i in range(n_layers)]
    dense = mlp if all(sparse) else Dense(values.whole("intermediate_size", 6144))
    return common.assemble(values, (Layer(mixer, mlp if one else dense, norm) for one in sparse), norm, context=32_768)


def _moe_values(config: ModelConfig) -> dict[str, Any]:
    mlp, window = common.experts(config), common.attentions(config)[0].window
    return {
        **common.base_values(config),
        **common.attention_values(config),
        **_bias(config),
        "num_experts": mlp.n_experts,
        "num_experts_per_tok": mlp.n_active,
        "moe_intermediate_size": mlp.d_ff,
        "norm_topk_prob": mlp.router.renormalize,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, layer in enumerate(config.layers) if isinstance(layer.mlp, Dense)],
        "use_sliding_window": window is not None,
        "sliding_window": window,
    }


def _moe_tensors(config: ModelConfig) -> Iterable[TensorMap]:
    return common.expert_tensors(config, common.NAMES, {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"})


QWEN2 = Family("qwen2", "Qwen2ForCausalLM", _qwen2, _dense_values, common.llama_tensors)
QWEN3 = Family("qwen3", "Qwen3ForCausalLM", _qwen3, lambda config: {**_dense_values(config), **_bias(config)}, common.llama_tensors)
QWEN3_MOE = Family("qwen3_moe", "Qwen3MoeForCausalLM", _moe, _moe_values, _moe_tensors)
