"""OLMo 2 (2024) and OLMo 3 (2025): norms after each branch only, queries and keys normed over the whole projection, no norm before.

The gain multiplies before the cast to the activations' type. OLMo 3 slides a window in three layers of four, and where it extends its
context by YaRN, only the full layers are scaled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm
from groundup.model.families import common
from groundup.model.families.family import Family, Values, renamed

NAMES = {**common.NAMES, "mixer_out_norm": "post_attention_layernorm", "mlp_out_norm": "post_feedforward_layernorm"}


def _mixer(values: Values, norm: Norm) -> Attention:
    values.must("hidden_act", "silu")
    bias = values.flag("attention_bias")
    return Attention(**common.read_heads(values), qk_norm=norm, qk_norm_over="projection", bias=bias, output_bias=bias)


def _norm(values: Values) -> Norm:
    return Norm(eps=values.number("rms_norm_eps", 1e-5), wide_gain=True)


def _olmo2(values: Values) -> ModelConfig:
    norm, mlp = _norm(values), Dense(values.whole("intermediate_size"))
    mixer = replace(_mixer(values, norm), rotary=common.read_rotary(values))
    return common.assemble(values, (Layer(mixer, mlp, norm, "after"),) * values.whole("num_hidden_layers"), norm)


def _olmo3(values: Values) -> ModelConfig:
    norm, mlp = _norm(values), Dense(values.whole("intermediate_size"))
    windows = common.read_windows(values, [(i + 1) % 4 != 0 for i in range(values.whole("num_hidden_layers"))])
    mixer = _mixer(values, norm)
    full, sliding = (common.read_rotary(values, kind=kind) for kind in (common.FULL, common.SLIDING))
    mixers = (replace(mixer, window=window, rotary=full if window is None else sliding) for window in windows)
    return common.assemble(values, (Layer(one, mlp, norm, "after") for one in mixers), norm)


def _values(config: ModelConfig) -> dict[str, Any]:
    bias = {"attention_bias": common.attentions(config)[0].bias}
    return {**common.base_values(config), **common.attention_values(config), **bias}


def _olmo3_values(config: ModelConfig) -> dict[str, Any]:
    values = {**_values(config), **common.nested_rotary_values(config), **common.window_values(config)}
    return {key: value for key, value in values.items() if key != "rope_theta"}


OLMO2 = Family("olmo2", "Olmo2ForCausalLM", _olmo2, _values, lambda config: renamed(config, NAMES))
OLMO3 = Family("olmo3", "Olmo3ForCausalLM", _olmo3, _olmo3_values, lambda config: renamed(config, NAMES))
