"""Multi-head latent attention (DeepSeek-V2, 2024, section 2.1), in its full form for training and its absorbed form for decoding.

Symbols: H heads, E head_dim, R rotary_dim, V value_dim, C kv_rank.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from groundup.config import LatentAttention, YarnScaling
from groundup.kernels.attention import blocked_attention
from groundup.model import functional as F
from groundup.model.attention import Tables, blockwise_attention
from groundup.model.parts import Cache, NormLayer, Weights
from groundup.model.positions import yarn_mscale


def latent_scale(config: LatentAttention) -> float:
    """(E + R)^-1/2, under YaRN times m(mscale_all_dim)^2 (DeepSeek-V2's code; section 3.1.4 of the paper)."""
    scale, scaling = (config.head_dim + config.rotary_dim) ** -0.5, config.rotary.scaling
    return scale * yarn_mscale(scaling.factor, scaling.mscale_all_dim) ** 2 if isinstance(scaling, YarnScaling) else scale


class LatentAttentionLayer(nn.Module):
    """Holds the projections of latent attention and applies them."""

    def __init__(self, config: LatentAttention, d_model: int):
        super().__init__()
        self.config = c = config
        width = c.n_heads * (c.head_dim + c.rotary_dim)
        if c.q_rank is None:
            self.query = Weights(width, d_model)
        else:
            self.query_latent = Weights(c.q_rank, d_model, bias=c.bias)
            self.query_norm = NormLayer(c.latent_norm, c.q_rank)
            self.query = Weights(width, c.q_rank)
        self.latent = Weights(c.kv_rank + c.rotary_dim, d_model, bias=c.bias)
        self.latent_norm = NormLayer(c.latent_norm, c.kv_rank)
        self.key_value = Weights(c.n_heads * (c.head_dim + c.value_dim), c.kv_rank)
        self.output = Weights(d_model, c.n_heads * c.value_dim, bias=c.bias)

    def forward(self, x, tokens, rotary: Tables, documents, backend: str, cache: Cache | None, index: int) -> Tensor:
        """[B, T, D] -> [B, T, D]. A cache holds the latent and the rotary key of each position, C + R numbers, and nothing for a head."""
        c = self.config
        source = x if c.q_rank is None else self.query_norm(F.linear(x, self.query_latent.weight, self.query_latent.bias))
        heads = F.linear(source, self.query.weight).unflatten(-1, (c.n_heads, -1))
        q, q_turned = heads.split([c.head_dim, c.rotary_dim], dim=-1)
        latent, k_turned = F.linear(x, self.latent.weight, self.latent.bias).split([c.kv_rank, c.rotary_dim], dim=-1)
        latent = self.latent_norm(latent)
        q_turned = F.rotate(q_turned, *rotary, interleaved=c.rotary.interleaved)
        k_turned = F.rotate(k_turned.unsqueeze(2), *rotary, interleaved=c.rotary.interleaved).squeeze(2)
        if cache is None:
            q, k, v = self.heads(q, q_turned, latent, k_turned)
            attended = blocked_attention(q, k, v, documents, scale=latent_scale(c))
        else:
            earlier = cache.length
            latent, k_turned = (part.squeeze(2) for part in cache.append(index, latent.unsqueeze(2), k_turned.unsqueeze(2)))
            attended = (self.absorbed if earlier else self.full)(q, q_turned, latent, k_turned)
        return F.linear(attended.flatten(2), self.output.weight, self.output.bias)

    def heads(
        self,
        q: Float[Tensor, "b t h e"],
        q_turned: Float[Tensor, "b t h r"],
        latent: Float[Tensor, "b t c"],
        k_turned: Float[Tensor, "b t r"],
    ) -> tuple[Float[Tensor, "b t h w"], Float[Tensor, "b t h w"], Float[Tensor, "b t h v"]]:
        """Queries, keys [W_k latent, rotary key] and values W_v latent of every head."""
        c = self.config
        k, v = F.linear(latent, self.key_value.weight).unflatten(-1, (c.n_heads, -1)).split([c.head_dim, c.value_dim], dim=-1)
        k = torch.cat((k, k_turned.unsqueeze(2).expand(-1, -1, c.n_heads, -1)), dim=-1)
        return torch.cat((q, q_turned), dim=-1), k, v

    def full(self, *parts: Tensor) -> Float[Tensor, "b t h v"]:
        """``heads``, then attention as usual, for a prompt: fewest FLOPs where all T ask."""
        return blockwise_attention(*self.heads(*parts), scale=latent_scale(self.config))

    def absorbed(
        self,
        q: Float[Tensor, "b t h e"],
        q_turned: Float[Tensor, "b t h r"],
        latent: Float[Tensor, "b s c"],
        k_turned: Float[Tensor, "b s r"],
    ) -> Float[Tensor, "b t h v"]:
        """The same with q^T (W_k c) = (W_k^T q)^T c and W_v (sum_s p_s c_s): attention over latents, one key for all heads.

        The queries are the last t of the s positions; keys and values of the heads are never made.
        """
        c = self.config
        heads = rearrange(self.key_value.weight.to(q.dtype), "(h e) c -> h e c", h=c.n_heads)
        of_keys, of_values = heads.split([c.head_dim, c.value_dim], dim=1)
        asked = torch.cat((einsum(q, of_keys, "b t h e, h e c -> b t h c"), q_turned), dim=-1)
        keys = torch.cat((latent, k_turned), dim=-1).unsqueeze(2)
        read = blockwise_attention(asked, keys, latent.unsqueeze(2), scale=latent_scale(c))
        return einsum(read, of_values, "b t h c, h v c -> b t h v")
