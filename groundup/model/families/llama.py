"""Llama (Touvron et al. 2023; Llama 3, 2024) and Qwen3 (2025): pre-norm decoders of RMSNorm, rotary grouped-query attention and SwiGLU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from groundup.config import Attention, Dense, Layer, ModelConfig, Norm, Rotary, check
from groundup.errors import UsageError
from groundup.model.families.family import Family, TensorMap, Values, renamed

NAMES = {
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
"""Word of our names -> words of theirs."""


def tensors(config: ModelConfig) -> Iterable[TensorMap]:
    """Every parameter under its Llama name."""
    return renamed(config, NAMES)


def _config(values: Values, *, qk_norm: bool, head_dim: int | None) -> ModelConfig:
    rope = {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}
    Values(rope, values.where).must("rope_type", "default", rope.get("type", "default"))
    values.must("hidden_act", "silu")
    for key in ("attention_bias", "mlp_bias", "use_sliding_window"):
        values.must(key, False)
    d_model, n_heads = values.whole("hidden_size"), values.whole("num_attention_heads")
    norm = Norm(eps=values.number("rms_norm_eps", 1e-6))
    mixer = Attention(
        n_heads=n_heads,
        n_kv_heads=values.whole("num_key_value_heads", n_heads),
        head_dim=values.whole("head_dim", head_dim or d_model // n_heads),
        rotary=Rotary(float(rope.get("rope_theta", values.number("rope_theta", 10_000.0)))),
        qk_norm=norm if qk_norm else None,
    )
    return check(
        ModelConfig(
            vocab_size=values.whole("vocab_size"),
            d_model=d_model,
            context_length=values.whole("max_position_embeddings"),
            layers=(Layer(mixer, Dense(values.whole("intermediate_size")), norm),) * values.whole("num_hidden_layers"),
            final_norm=norm,
            tied=values.flag("tie_word_embeddings"),
        )
    )


def _values(config: ModelConfig) -> dict[str, Any]:
    if not config.layers:
        raise UsageError("layers is empty")
    layer = config.layers[0]
    theta = layer.mixer.rotary.theta if layer.mixer.rotary else 10_000.0
    return {
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
        "tie_word_embeddings": config.tied,
    }


def _llama_values(config: ModelConfig) -> dict[str, Any]:
    values = _values(config)
    n_heads = values["num_attention_heads"]
    if config.d_model % n_heads:
        raise UsageError(f"d_model is {config.d_model}, and a Llama's is a multiple of n_heads, {n_heads}")
    return {**values, "mlp_bias": False}


LLAMA = Family("llama", "LlamaForCausalLM", lambda values: _config(values, qk_norm=False, head_dim=None), _llama_values, tensors)
QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    lambda values: _config(values, qk_norm=True, head_dim=128),
    lambda config: {**_values(config), "use_sliding_window": False},
    tensors,
)
