"""One tiny checkpoint a family, made by ``transformers`` itself: shapes in which what differs between families shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from groundup.model.decoder import Decoder
from groundup.model.pretrained import open_pretrained

VOCAB, CONTEXT = 96, 320

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 8.0, "original_max_position_embeddings": 40}
LATENT = {
    "num_key_value_heads": 6,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
}
DEEPSEEK_YARN = {**YARN, "mscale": 0.8, "mscale_all_dim": 0.6}

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("gpt2", {"n_embd": 36, "n_layer": 2, "n_head": 3, "n_inner": 50, "n_positions": CONTEXT}),
    "Llama 2": ("llama", {"num_key_value_heads": 6, "rms_norm_eps": 1e-5}),
    "Llama 3.1": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "Llama with biases, heads wider than the model": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 8}),
    "Llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}}),
    "Qwen2.5": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "Qwen3": ("qwen3", {"head_dim": 10, "rope_parameters": YARN}),
    "Qwen3-MoE": (
        "qwen3_moe",
        {
            "head_dim": 10,
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 20,
            "norm_topk_prob": True,
            "num_hidden_layers": 3,
            "mlp_only_layers": [1],
        },
    ),
    "Qwen3-MoE, not renormalized": (
        "qwen3_moe",
        {"head_dim": 8, "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "attention_bias": True},
    ),
    "Mistral": ("mistral", {"sliding_window": 9}),
    "Mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "SmolLM3": ("smollm3", {"num_hidden_layers": 4}),
    "OLMo 2": ("olmo2", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "OLMo 3": (
        "olmo3",
        {
            "num_hidden_layers": 4,
            "sliding_window": 9,
            "rope_parameters": {
                "full_attention": {**YARN, "attention_factor": 1.2},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            },
        },
    ),
    "Gemma 2": ("gemma2", {"head_dim": 8, "sliding_window": 9, "query_pre_attn_scalar": 20, "num_hidden_layers": 3}),
    "Gemma 3": (
        "gemma3_text",
        {
            "head_dim": 8,
            "sliding_window": 9,
            "query_pre_attn_scalar": 8,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gpt-oss": (
        "gpt_oss",
        {
            "head_dim": 8,
            "sliding_window": 9,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "rope_parameters": {**YARN, "factor": 32.0, "truncate": False},
        },
    ),
    "DeepSeek-V2": (
        "deepseek_v2",
        {
            **LATENT,
            "q_lora_rank": 16,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 4.0,
            "rope_parameters": DEEPSEEK_YARN,
            "attention_bias": True,
        },
    ),
    "DeepSeek-V2-Lite": ("deepseek_v2", {**LATENT, "q_lora_rank": None}),
    "Qwen3-Next": (
        "qwen3_next",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 6,
            "linear_value_head_dim": 10,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 28,
            "mlp_only_layers": [1],
            "rms_norm_eps": 1e-2,  # what the first tokens leave in a state is near zero: a plain norm would magnify its rounding
        },
    ),
    "DeepSeek-V3": ("deepseek_v3", {**LATENT, "q_lora_rank": 16, "n_group": 4, "topk_group": 2, "rope_parameters": DEEPSEEK_YARN}),
}


def reference(name: str) -> PreTrainedModel:
    """The reference's model of a row, every weight random and large enough to show where it is forgotten."""
    family, changes = ROWS[name]
    sizes = {**SIZES, **changes} if family != "gpt2" else {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, **changes}
    config = AutoConfig.for_model(family, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(0.3 * noise(p))
            elif "bias" in key:
                p.copy_(0.3 * noise(p))
            elif "embed" in key or "wte" in key or "wpe" in key:
                p.copy_(0.1 * noise(p))  # small, so that a tied head does not only repeat what it read
            else:
                p.copy_(noise(p) * p.shape[-1] ** -0.5)
        for key, buffer in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * noise(buffer))
    return model


def opened(folder: Path) -> Decoder:
    """A folder's model as ours."""
    return open_pretrained(folder).load()


transformers.logging.set_verbosity_error()
