"""DeepSeek-V2 and V2-Lite (2024), V3 and R1 (2024, 2025): latent attention, fine-grained experts beside shared ones, dense first layers.

The multi-token-prediction layer that V3's files hold after the last layer is left out: it takes no part in the next token's logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from groundup.config import Dense, Experts, LatentAttention, Layer, ModelConfig, Norm, Router
from groundup.errors import UsageError
from groundup.model.families import common
from groundup.model.families.family import Family, TensorMap, Values

NAMES = {
    **common.NAMES,
    "query_latent": "q_a_proj",
    "query_norm": "q_a_layernorm",
    "latent": "kv_a_proj_with_mqa",
    "latent_norm": "kv_a_layernorm",
    "key_value": "kv_b_proj",
    "shared": "shared_experts",
}


def _mixer(values: Values, *, interleaved: bool) -> LatentAttention:
    values.must("hidden_act", "silu")
    n_heads = values.whole("num_attention_heads")
    values.must("num_key_value_heads", n_heads)
    rotary = common.read_rotary(values)
    ranks = {"q_rank": values.values.get("q_lora_rank", 1536), "kv_rank": values.whole("kv_lora_rank", 512)}  # null means no latent
    dims = {
        "head_dim": values.whole("qk_nope_head_dim", 128),
        "rotary_dim": values.whole("qk_rope_head_dim", 64),
        "value_dim": values.whole("v_head_dim", 128),
    }
    rotary = replace(rotary, interleaved=interleaved)
    return LatentAttention(n_heads, **dims, **ranks, rotary=rotary, bias=values.flag("attention_bias"))


def _config(values: Values, mixer: LatentAttention, experts: Experts, n_dense: int, context: int) -> ModelConfig:
    values.must("moe_layer_freq", 1)
    norm, n_layers = Norm(eps=values.number("rms_norm_eps", 1e-6)), values.whole("num_hidden_layers")
    dense = Dense(values.whole("intermediate_size"))
    layers = (Layer(mixer, dense if i < n_dense else experts, norm) for i in range(n_layers))
    return common.assemble(values, layers, norm, context=context)


def _v2(values: Values) -> ModelConfig:
    values.must("scoring_func", "softmax")
    values.must("norm_topk_prob", False)
    values.must("mlp_bias", False)
    groups: dict[str, int] = {}
    if values.word("topk_method", "greedy", {"greedy": False, "group_limited_greedy": True}):
        groups = {"n_groups": values.whole("n_group"), "n_active_groups": values.whole("topk_group")}
    width = values.whole("moe_intermediate_size", 1407)
    experts = Experts(
        n_experts=values.whole("n_routed_experts", 64),
        n_active=values.whole("num_experts_per_tok"),
        d_ff=width,
        router=Router(scale=values.number("routed_scaling_factor", 1.0), **groups),
        shared=Dense(width * values.whole("n_shared_experts", 2)),
    )
    return _config(values, _mixer(values, interleaved=True), experts, values.whole("first_k_dense_replace", 0, least=0), 2048)


def _v3(values: Values) -> ModelConfig:
    values.must("scoring_func", "sigmoid")
    values.must("topk_method", "noaux_tc")
    width = values.whole("moe_intermediate_size", 2048)
    router = Router(
        "sigmoid",
        renormalize=values.flag("norm_topk_prob", True),
        scale=values.number("routed_scaling_factor", 2.5),
        selection_bias=True,
        n_groups=values.whole("n_group", 8),
        n_active_groups=values.whole("topk_group", 4),
        group_score="top2",
    )
    n_experts, n_active = values.whole("n_routed_experts", 256), values.whole("num_experts_per_tok", 8)
    experts = Experts(n_experts, n_active, width, router, shared=Dense(width * values.whole("n_shared_experts", 1)))
    mixer = _mixer(values, interleaved=values.flag("rope_interleave", True))
    return _config(values, mixer, experts, values.whole("first_k_dense_replace", 3, least=0), 4096)


def _values(config: ModelConfig) -> dict[str, Any]:
    a, mlp = common.first_layer(config).mixer, common.experts(config)
    if not isinstance(a, LatentAttention):
        raise UsageError(f"layers[0].mixer is of kind {type(a).__name__}, and this family has LatentAttention")
    if mlp.shared is None:
        raise UsageError("mlp.shared is none, and this family has shared experts")
    dense = [isinstance(layer.mlp, Dense) for layer in config.layers]
    base = common.base_values(config)
    return {
        **base,
        "intermediate_size": base.get("intermediate_size", 4 * config.d_model),
        "num_key_value_heads": a.n_heads,
        "qk_nope_head_dim": a.head_dim,
        "qk_rope_head_dim": a.rotary_dim,
        "v_head_dim": a.value_dim,
        "kv_lora_rank": a.kv_rank,
        "q_lora_rank": a.q_rank,
        "attention_bias": a.bias,
        "rope_theta": a.rotary.theta,
        "rope_parameters": common.rotary_values(a.rotary),
        "moe_intermediate_size": mlp.d_ff,
        "n_routed_experts": mlp.n_experts,
        "num_experts_per_tok": mlp.n_active,
        "n_shared_experts": mlp.shared.d_ff // mlp.d_ff,
        "first_k_dense_replace": dense.index(False),
        "routed_scaling_factor": mlp.router.scale,
        "n_group": mlp.router.n_groups,
        "topk_group": mlp.router.n_active_groups,
        "norm_topk_prob": mlp.router.renormalize,
    }


def _v2_values(config: ModelConfig) -> dict[str, Any]:
    values = _values(config)
    grouped = values["n_group"] > 1
    return {**values, "topk_method": "group_limited_greedy" if grouped else "greedy", "scoring_func": "softmax"}


def _v3_values(config: ModelConfig) -> dict[str, Any]:
    values = _values(config)
    more = {
        "rope_interleave": config.layers[0].mixer.rotary.interleaved,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "num_nextn_predict_layers": 0,
    }
    return {**values, **more}


def _tensors(config: ModelConfig) -> Iterator[TensorMap]:
    latent = any(layer.mixer.q_rank is not None for layer in config.layers)
    names = {**NAMES, "query": "q_b_proj"} if latent else NAMES
    yield from common.expert_tensors(config, names, {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"})
    for i, layer in enumerate(config.layers):
        if isinstance(layer.mlp, Experts) and layer.mlp.router.selection_bias:
            yield TensorMap((f"layers.{i}.mlp.selection_bias",), (f"model.layers.{i}.mlp.gate.e_score_correction_bias",))


DEEPSEEK_V2 = Family("deepseek_v2", "DeepseekV2ForCausalLM", _v2, _v2_values, _tensors)
DEEPSEEK_V3 = Family("deepseek_v3", "DeepseekV3ForCausalLM", _v3, _v3_values, _tensors, extra_layers=True)
