"""Grouped-query attention: the module that holds its projections, and what chooses how scores are computed."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.config import Attention
from groundup.kernels.attention import BACKENDS, BLOCK, blocked_attention, query_blocks
from groundup.kernels.embedding import lookup
from groundup.model import functional as F
from groundup.model.parts import Cache, NormLayer, Weights

Tables = tuple[Tensor, Tensor]
"""cos and sin of the positions' angles: see ``model.positions``."""


def blockwise_attention(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b s k e"],
    v: Float[Tensor, "b s k f"],
    window: int | None = None,
    **scores,
) -> Float[Tensor, "b t h f"]:
    """``attention_reference`` of the last t of s positions, a block of queries at a time, against the keys that any of them sees.

    A long prompt that is read into a cache then takes memory for the scores of a block, and not of all. ``scores`` are the reference's
    scale, cap and sinks. The products are those of ``kernels.attention.blocked_attention``, which trains and keeps them.
    """
    parts, earlier = [], k.shape[1] - q.shape[1]
    for start, stop, low in query_blocks(q.shape[1], window, BLOCK, earlier):
        asking = q[:, start - earlier : stop - earlier]
        parts.append(F.attention_reference(asking, k[:, low:stop], v[:, low:stop], None, window, **scores))
    return torch.cat(parts, dim=1)


class AttentionLayer(nn.Module):
    """Holds the projections of grouped-query attention and applies them."""

    def __init__(self, config: Attention, d_model: int, vocab_size: int):
        super().__init__()
        self.config = config
        q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.query = Weights(q, d_model, bias=config.bias)
        self.key = Weights(kv, d_model, bias=config.bias)
        self.value = Weights(kv, d_model, bias=config.bias)
        self.output = Weights(d_model, q, bias=config.output_bias)
        if config.qk_norm is not None:
            over_head = config.qk_norm_over == "head"
            self.query_norm = NormLayer(config.qk_norm, config.head_dim if over_head else q)
            self.key_norm = NormLayer(config.qk_norm, config.head_dim if over_head else kv)
        self.output_gate = Weights(q, d_model) if config.output_gate else None
        self.sinks = nn.Parameter(torch.zeros(config.n_heads)) if config.sinks else None
        if config.value_embedding:
            self.value_embedding = Weights(vocab_size, kv)
            self.value_gate = Weights(config.n_kv_heads, d_model)

    def joint(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t w"]:
        """[queries, keys, values] of all heads, side by side: one matrix product for all three."""
        parts = (self.query, self.key, self.value)
        bias = torch.cat([p.bias for p in parts]) if self.config.bias else None
        return F.linear(x, torch.cat([p.weight for p in parts]), bias)

    def extra_values(self, x: Float[Tensor, "b t d"], tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b t k e"]:
        """What the value embedding adds: a vector of the token, times a gate in (0, 2) that is 1 at initialization (its weight is 0)."""
        gate = 2 * torch.sigmoid(F.linear(x, self.value_gate.weight))
        vectors = lookup(self.value_embedding.weight, tokens).to(x.dtype)
        return gate[..., None] * vectors.unflatten(-1, (self.config.n_kv_heads, self.config.head_dim))

    def project(self, x: Float[Tensor, "b t d"], tokens: Int[Tensor, "b t"], rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, T, H, E], keys and values [B, T, K, E]: product, then norm and rotation."""
        c = self.config
        heads = self.joint(x).unflatten(-1, (c.n_heads + 2 * c.n_kv_heads, c.head_dim))
        q, k, v = heads.split([c.n_heads, c.n_kv_heads, c.n_kv_heads], dim=2)
        if c.value_embedding:
            v = v + self.extra_values(x, tokens)
        if c.qk_norm is not None and c.qk_norm_over == "head":
            q, k = self.query_norm(q), self.key_norm(k)
        elif c.qk_norm is not None:
            q, k = self.query_norm(q.flatten(2)).view_as(q), self.key_norm(k.flatten(2)).view_as(k)
        if rotary is not None:
            q, k = (F.rotate(heads, *rotary, interleaved=c.rotary.interleaved) for heads in (q, k))
        return q, k, v

    def forward(self, x, tokens, rotary: Tables | None, documents, backend: str, cache: Cache | None, index: int) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        c = self.config
        if cache is None and backend == "blocked" and x.dtype == torch.float32 and self.fusible and not torch.compiler.is_compiling():
            attended = self.fused(x, tokens, rotary, documents)
        else:
            q, k, v = self.project(x, tokens, rotary)
            if cache is not None:
                k, v = cache.append(index, k, v)
            k = F.offset_keys(k, documents) if c.key_offset else k
            scores = {"scale": c.scale, "cap": c.softcap, "sinks": self.sinks}
            if cache is not None:
                attended = blockwise_attention(q, k, v, c.window, **scores)
            elif any(value is not None for value in scores.values()):
                attended = blocked_attention(q, k, v, documents, c.window, **scores)
            else:
                attended = BACKENDS[backend](q, k, v, documents, c.window)
        attended = attended.flatten(2)
        if self.output_gate is not None:
            attended = attended * torch.sigmoid(F.linear(x, self.output_gate.weight))
        return F.linear(attended, self.output.weight, self.output.bias)

    @property
    def fusible(self) -> bool:
        """Whether ``kernels.fused.attention`` says all of it: RMSNorm without gain on query and key heads, and rotation by halves."""
        c, norm, rotary = self.config, self.config.qk_norm, self.config.rotary
        plain = c.qk_norm_over == "head" and c.softcap is None and c.scale is None and not c.sinks
        turned = rotary is not None and not rotary.interleaved and rotary.dims is None and rotary.scaling is None
        return plain and turned and norm is not None and norm.kind == "rms" and not norm.weight

    def fused(self, x, tokens, rotary, documents) -> Float[Tensor, "b t h e"]:
        """``project``, offset and attention in one function of the joint product, for fp32 on a CPU."""
        from groundup.kernels import fused

        c, joint = self.config, self.joint(x)
        if c.value_embedding:
            keep = (c.n_heads + c.n_kv_heads) * c.head_dim
            joint = torch.cat((joint[..., :keep], joint[..., keep:] + self.extra_values(x, tokens).flatten(2)), dim=-1)
        shape = {"n_heads": c.n_heads, "n_kv_heads": c.n_kv_heads, "eps": c.qk_norm.eps}
        return fused.attention(joint, rotary, documents, window=c.window, offset_keys=c.key_offset, **shape)
