"""Mistral 7B (Jiang et al. 2023), whose first version slides a window in every layer, and Mixtral (Jiang et al. 2024), its experts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from groundup.config import Attention, Dense, Experts, Layer, ModelConfig, Norm, Router
from groundup.model.families import common
from groundup.model.families.family import Family, TensorMap, Values


def _config(values: Values, mlp: Dense | Experts, window: int | None, theta: float, norm: Norm) -> ModelConfig:
    values.must("hidden_act", "silu")
    mixer = Attention(**common.read_heads(values, n_kv_heads=8), rotary=common.read_rotary(values, theta), window=window)
    return common.assemble(values, (Layer(mixer, mlp, norm),) * values.whole("num_hidden_layers"), norm, context=4096 * 32)


def _mistral(values: Values) -> ModelConfig:
    mlp, norm = Dense(values.whole("intermediate_size", 14_336)), Norm(eps=values.number("rms_norm_eps", 1e-6))
    return _config(values, mlp, common.read_window(values, 4096), 10_000.0, norm)


def _values(config: ModelConfig) -> dict[str, Any]:
    window = common.attentions(config)[0].window
    return {**common.base_values(config), **common.attention_values(config), "sliding_window": window}


def _mixtral(values: Values) -> ModelConfig:
    mlp = Experts(
        n_experts=values.whole("num_local_experts", values.get("num_experts", 8)),
        n_active=values.whole("num_experts_per_tok", 2),
        d_ff=values.whole("intermediate_size", 14_336),
        router=Router(renormalize=True),
    )
    return _config(values, mlp, common.read_window(values, None), 1_000_000.0, Norm(eps=values.number("rms_norm_eps", 1e-5)))


def _mixtral_values(config: ModelConfig) -> dict[str, Any]:
    mlp = common.experts(config)
    sizes = {"intermediate_size": mlp.d_ff, "num_local_experts": mlp.n_experts, "num_experts_per_tok": mlp.n_active}
    return {**_values(config), **sizes}


def _mixtral_tensors(config: ModelConfig) -> Iterable[TensorMap]:
    names = {**common.NAMES, "mlp": "block_sparse_moe"}
    return common.expert_tensors(config, names, {"gate": "w1", "up": "w3", "down": "w2"})


MISTRAL = Family("mistral", "MistralForCausalLM", _mistral, _values, common.llama_tensors)
MIXTRAL = Family("mixtral", "MixtralForCausalLM", _mixtral, _mixtral_values, _mixtral_tensors)
