"""Llama (Touvron et al. 2023; Llama 3, 2024) and SmolLM3 (2025): RMSNorm, rotary grouped-query attention and SwiGLU, pre-norm.

Llama 3.1 and 3.2 slow their rotary frequencies ("llama3" scaling), Marin, SmolLM and SmolLM2 are Llamas by name too, and SmolLM3 leaves
positions out of every fourth layer (Yang et al. 2025, "RoPE to NoPE and back again").
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm
from groundup.errors import UsageError
from groundup.model.families import common
from groundup.model.families.family import Family, Values


def _parts(values: Values, default_theta: float = 10_000.0, n_kv_heads: int | None = None) -> tuple[Attention, Dense, Norm]:
    values.must("hidden_act", "silu")
    bias = values.flag("attention_bias")
    rotary = common.read_rotary(values, default_theta)
    mixer = Attention(**common.read_heads(values, n_kv_heads=n_kv_heads), rotary=rotary, bias=bias, output_bias=bias)
    return mixer, Dense(values.whole("intermediate_size"), bias=values.flag("mlp_bias")), Norm(eps=values.number("rms_norm_eps", 1e-6))


def _llama(values: Values) -> ModelConfig:
    mixer, mlp, norm = _parts(values)
    return common.assemble(values, (Layer(mixer, mlp, norm),) * values.whole("num_hidden_layers"), norm)


def _values(config: ModelConfig) -> dict[str, Any]:
    layer = common.first_layer(config)
    biases = {"attention_bias": common.attentions(config)[0].bias, "mlp_bias": layer.mlp.bias}
    return {**common.base_values(config), **common.attention_values(config), **biases}


def _llama_values(config: ModelConfig) -> dict[str, Any]:
    values = _values(config)
    n_heads = values["num_attention_heads"]
    if config.d_model % n_heads:
        raise UsageError(f"d_model is {config.d_model}, and a Llama's is a multiple of n_heads, {n_heads}")
    return values


def _smollm3(values: Values) -> ModelConfig:
    mixer, mlp, norm = _parts(values, 2_000_000.0, n_kv_heads=4)
    n_layers, interval = values.whole("num_hidden_layers"), values.whole("no_rope_layer_interval", 4)
    turns = values.entries("no_rope_layers", [(i + 1) % interval != 0 for i in range(n_layers)])
    if len(turns) != n_layers:
        raise UsageError(f"{values.where}: no_rope_layers has {len(turns)} entries for {n_layers} layers")
    slides = values.flag("use_sliding_window")
    windows = common.read_windows(values, [slides and not turn for turn in turns], None) if slides else [None] * n_layers
    mixers = (replace(mixer, rotary=mixer.rotary if turn else None, window=window) for turn, window in zip(turns, windows, strict=True))
    return common.assemble(values, (Layer(one, mlp, norm) for one in mixers), norm, tied=True, context=32_768)


def _smollm3_values(config: ModelConfig) -> dict[str, Any]:
    mixers, windows = common.attentions(config), common.window_values(config)
    turns = [int(mixer.rotary is not None) for mixer in mixers]
    return {**_values(config), **windows, "no_rope_layers": turns, "use_sliding_window": windows["sliding_window"] is not None}


LLAMA = Family("llama", "LlamaForCausalLM", _llama, _llama_values, common.llama_tensors)
SMOLLM3 = Family("smollm3", "SmolLM3ForCausalLM", _smollm3, _smollm3_values, common.llama_tensors)
