"""Gemma 2 (2024) and the text model of Gemma 3 (2025): norms of gain 1 + w around each branch, GEGLU, embeddings times sqrt(d_model).

Gemma 2 caps its scores and its logits and slides a window in every other layer. Gemma 3 norms queries and keys instead, slides in five
layers of six, and gives the sliding layers a rotary base of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm
from groundup.model.families import common
from groundup.model.families.family import Family, Values, renamed

NAMES = {
    **common.NAMES,
    "mixer_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}


def _norm(values: Values) -> Norm:
    return Norm(eps=values.number("rms_norm_eps", 1e-6), plus_one=True, wide_gain=True)


def _cap(values: Values, key: str, default: float | None) -> float | None:
    """Null means none, absent the default."""
    return None if values.values.get(key, default) is None else values.number(key, default)


def _mixer(values: Values, *, softcap: float | None) -> Attention:
    values.must("hidden_activation", "gelu_pytorch_tanh")
    values.must("use_bidirectional_attention", False)
    bias = values.flag("attention_bias")
    heads = common.read_heads(values, n_kv_heads=4, head_dim=256)
    asked = values.number("query_pre_attn_scalar", 256)
    scale = None if asked == heads["head_dim"] else asked**-0.5
    return Attention(**heads, bias=bias, output_bias=bias, softcap=_cap(values, "attn_logit_softcapping", softcap), scale=scale)


def _config(values: Values, mixers: list[Attention], *, softcap: float | None, context: int) -> ModelConfig:
    norm, mlp = _norm(values), Dense(values.whole("intermediate_size", 9216), "geglu")
    layers = (Layer(mixer, mlp, norm, "sandwich") for mixer in mixers)
    more = {"embedding_scale": values.whole("hidden_size") ** 0.5, "logit_softcap": _cap(values, "final_logit_softcapping", softcap)}
    return common.assemble(values, layers, norm, tied=True, context=context, **more)


def _gemma2(values: Values) -> ModelConfig:
    mixer = replace(_mixer(values, softcap=50.0), rotary=common.read_rotary(values))
    windows = common.read_windows(values, [i % 2 == 0 for i in range(values.whole("num_hidden_layers"))])
    return _config(values, [replace(mixer, window=window) for window in windows], softcap=30.0, context=8192)


def _gemma3(values: Values) -> ModelConfig:
    mixer = replace(_mixer(values, softcap=None), qk_norm=_norm(values))
    pattern = values.whole("sliding_window_pattern", values.get("_sliding_window_pattern", 6))
    windows = common.read_windows(values, [(i + 1) % pattern != 0 for i in range(values.whole("num_hidden_layers"))])
    full = common.read_rotary(values, 1_000_000.0, kind=common.FULL)
    nested = {kind: value for kind, value in values.table("rope_parameters").items() if kind in (common.SLIDING, common.FULL)}
    beside = {"rope_theta": values.get("rope_local_base_freq", 10_000.0), "rope_parameters": nested}
    sliding = common.read_rotary(Values(beside, values.where), 10_000.0, kind=common.SLIDING)
    mixers = [replace(mixer, window=window, rotary=full if window is None else sliding) for window in windows]
    return _config(values, mixers, softcap=None, context=131_072)


def _values(config: ModelConfig) -> dict[str, Any]:
    a = common.attentions(config)[0]
    values = {**common.base_values(config), **common.attention_values(config), **common.window_values(config)}
    return {
        **values,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": a.bias,
        "query_pre_attn_scalar": a.head_dim if a.scale is None else round(a.scale**-2),
        "attn_logit_softcapping": a.softcap,
        "final_logit_softcapping": config.logit_softcap,
    }


def _gemma3_values(config: ModelConfig) -> dict[str, Any]:
    values = {**_values(config), **common.nested_rotary_values(config)}
    return {key: value for key, value in values.items() if key != "rope_theta"}


GEMMA2 = Family("gemma2", "Gemma2ForCausalLM", _gemma2, _values, lambda config: renamed(config, NAMES))
GEMMA3 = Family("gemma3_text", "Gemma3ForCausalLM", _gemma3, _gemma3_values, lambda config: renamed(config, NAMES))
