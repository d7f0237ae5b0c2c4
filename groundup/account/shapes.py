"""Named architectures: a width and a depth in, a whole ModelConfig out."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from groundup.config import Attention, Dense, HashEmbedding, Layer, ModelConfig, Norm, Prior, Rotary

Architecture = Literal["groundup", "qwen3", "llama"]


def architecture(
    name: Architecture,
    *,
    vocab_size: int,
    d_model: int,
    n_layers: int,
    head_dim: int,
    context_length: int,
    n_kv_heads: int | None = None,
    hash_rows: int = 0,
    prior: bool = False,
) -> ModelConfig:
    """The model of a named architecture.

    groundup: what wins in small budgets (docs/lab.md): norms without gains, QK-norm, offset keys, value embeddings in the first and the
    last layer, ReLU squared, hashed bigram embeddings, an untied head, and n-gram counts as a prior. qwen3: RMSNorm with gains, QK-norm,
    SwiGLU with d_ff = 8/3 d_model; opens in ``transformers``. llama: the same without QK-norm.
    """
    n_heads = max(1, d_model // head_dim)
    kv = n_kv_heads or n_heads
    if name == "groundup":
        norm = Norm(weight=False)
        mixer = Attention(n_heads, kv, head_dim, rotary=Rotary(), qk_norm=norm, key_offset=True)
        layer = Layer(mixer, Dense((2 if d_model < 256 else 4) * d_model, "relu2"), norm)
        # a table of V x kv for each layer would soon outweigh the layers themselves
        with_values = replace(layer, mixer=replace(mixer, value_embedding=True))
        layers = tuple(with_values if i in (0, n_layers - 1) else layer for i in range(n_layers))
        return ModelConfig(
            vocab_size,
            d_model,
            context_length,
            layers,
            final_norm=norm,
            embedding_norm=norm,
            hash_embedding=HashEmbedding((2,), hash_rows) if hash_rows else None,
            prior=Prior() if prior else None,
        )
    mixer = Attention(n_heads, kv, head_dim, rotary=Rotary(), qk_norm=Norm() if name == "qwen3" else None)
    d_ff = max(16, round(8 / 3 * d_model / 16) * 16)  # SwiGLU has three matrices: 8/3 keeps the parameters of a 4x MLP (Shazeer 2020)
    return ModelConfig(vocab_size, d_model, context_length, (Layer(mixer, Dense(d_ff, "swiglu")),) * n_layers)
