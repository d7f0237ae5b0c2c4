"""The layers as functions of tensors: each is its equation, and the oracle for whatever kernel replaces it.

Shapes: B batch, T query length, S key length, D d_model, H query heads, K kv heads, G = H / K, E head_dim, F d_ff, V vocabulary.
"""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.config import Norm


def _wide(x: Tensor) -> Tensor:
    """Half precisions as fp32, wider ones as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def linear(x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None = None) -> Float[Tensor, "*n o"]:
    """x @ weight^T + bias. The weight is stored [out, in] and cast to x's type: masters stay fp32, the product runs in x's precision."""
    y = x @ weight.to(x.dtype).T
    return y if bias is None else y + bias.to(x.dtype)


def rms_norm(x: Float[Tensor, "*n d"], weight: Float[Tensor, " d"] | None = None, eps: float = 1e-6) -> Float[Tensor, "*n d"]:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019); the statistics are in fp32."""
    wide = _wide(x)
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return y if weight is None else y * weight.to(x.dtype)


def layer_norm(
    x: Float[Tensor, "*n d"],
    weight: Float[Tensor, " d"] | None = None,
    bias: Float[Tensor, " d"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "*n d"]:
    """(x - mean) / sqrt(var + eps) * weight + bias, with the biased variance (Ba et al. 2016); the statistics are in fp32."""
    wide = _wide(x)
    centred = wide - wide.mean(-1, keepdim=True)
    y = (centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    y = y if weight is None else y * weight.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype)


def norm(x: Tensor, config: Norm, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The normalization that the config names, over the last dimension."""
    if config.kind == "rms":
        return rms_norm(x, weight, config.eps)
    return layer_norm(x, weight, bias, config.eps)


def rotary_tables(positions: Int[Tensor, "*n"], head_dim: int, theta: float) -> tuple[Float[Tensor, "*n e2"], Float[Tensor, "*n e2"]]:
    """cos and sin of position * theta^(-2i / E) for i < E/2 (Su et al. 2021), in fp32."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float64) / head_dim)
    angles = positions.double()[..., None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(x: Float[Tensor, "b t h e"], cos: Float[Tensor, "*b t e2"], sin: Float[Tensor, "*b t e2"]) -> Float[Tensor, "b t h e"]:
    """Turns each pair (x_i, x_{i+E/2}) by its angle: the half-split layout of Llama and Qwen, not the interleaved one of the paper."""
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def offset_keys(k: Float[Tensor, "b s k e"], documents: Int[Tensor, "b s"] | None = None) -> Float[Tensor, "b s k e"]:
    """Quarters 2 and 4 of each key, which ``rotate`` turns slowly, taken from the position before; zero where a document begins."""
    earlier = torch.zeros_like(k)
    earlier[:, 1:] = k[:, :-1]
    if documents is not None:
        begins = documents[:, 1:] != documents[:, :-1]
        earlier[:, 1:].masked_fill_(begins[:, :, None, None], 0.0)
    quarters = zip(k.chunk(4, dim=-1), earlier.chunk(4, dim=-1), strict=True)
    return torch.cat([before if i % 2 else now for i, (now, before) in enumerate(quarters)], dim=-1)


def attention_mask(
    t: int, s: int, window: int | None, documents: Int[Tensor, "b s"] | None, device: torch.device
) -> Bool[Tensor, "#b t s"]:
    """Who sees whom: query i, at position s - t + i, sees key j when j <= i, i - j < window and both are in the same document."""
    queries = torch.arange(s - t, s, device=device)[:, None]
    keys = torch.arange(s, device=device)[None, :]
    mask = keys <= queries
    if window is not None:
        mask = mask & (queries - keys < window)
    mask = mask[None]
    if documents is not None:
        mask = mask & (documents[:, s - t :, None] == documents[:, None, :])
    return mask


def attention_reference(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b s k e"],
    v: Float[Tensor, "b s k e"],
    documents: Int[Tensor, "b s"] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b t h e"]:
    """softmax(q k^T / sqrt(E)) v over the visible keys; head h reads kv head h // G (Vaswani et al. 2017; Ainslie et al. 2023).

    The queries are the last t of the s positions, so the same function serves training (t = s) and decoding with a cache.
    """
    groups = q.shape[2] // k.shape[2]
    grouped = rearrange(q, "b t (k g) e -> b t k g e", g=groups)
    scores = _wide(einsum(grouped, k, "b t k g e, b s k e -> b k g t s")) * (scale or 1 / math.sqrt(q.shape[-1]))
    mask = attention_mask(q.shape[1], k.shape[1], window, documents, q.device)
    scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    return rearrange(einsum(weights, v, "b k g t s, b s k e -> b t k g e"), "b t k g e -> b t (k g) e")


def silu(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """x * sigmoid(x)."""
    return x * torch.sigmoid(x)


def gelu(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016, the tanh form of GPT-2)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu2(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """max(x, 0)^2 (So et al. 2021)."""
    return torch.relu(x).square()


def softcap(logits: Float[Tensor, "*n"], cap: float) -> Float[Tensor, "*n"]:
    """cap * tanh(logits / cap): keeps logits within (-cap, cap) (Gemma 2, 2024)."""
    return cap * torch.tanh(logits / cap)


def mixture_nll_reference(
    logits: Float[Tensor, "n v"],
    targets: Int[Tensor, " n"],
    gate_logits: Float[Tensor, "n k1"] | None = None,
    expert_log_p: Float[Tensor, "n k"] | None = None,
) -> Float[Tensor, " n"]:
    """Nats of each target under the network alone, or under the mixture sum_k g_k p_k(y) + g_0 p_net(y), g = softmax(gate_logits).

    A target of -1 costs nothing. Gate column 0 is the network's.
    """
    log_p = torch.log_softmax(_wide(logits), dim=-1).gather(1, targets.clamp(min=0)[:, None])
    if gate_logits is not None and expert_log_p is not None:
        log_gate = torch.log_softmax(_wide(gate_logits), dim=-1)
        log_p = torch.logsumexp(log_gate + torch.cat((log_p, _wide(expert_log_p)), dim=1), dim=1, keepdim=True)
    return torch.where(targets >= 0, -log_p[:, 0], 0.0)
