"""The layers as functions of tensors: each is its equation, and the oracle for whatever kernel replaces it.

Shapes: B batch, T query length, S key length, D d_model, H query heads, K kv heads, G = H / K, E head_dim, F d_ff, V vocabulary.
"""

import math

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from groundup.config import Norm


def wide(x: Tensor) -> Tensor:
    """Half precisions as fp32, wider ones as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def linear(x: Float[Tensor, "*n i"], weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None = None) -> Float[Tensor, "*n o"]:
    """x @ weight^T + bias. The weight is stored [out, in] and cast to x's type: masters stay fp32, the product runs in x's precision."""
    y = x @ weight.to(x.dtype).T
    return y if bias is None else y + bias.to(x.dtype)


def rms_norm(
    x: Float[Tensor, "*n d"],
    weight: Float[Tensor, " d"] | None = None,
    eps: float = 1e-6,
    *,
    plus_one: bool = False,
    wide_gain: bool = False,
) -> Float[Tensor, "*n d"]:
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019), or * (1 + weight) (Gemma); the statistics are in fp32.

    The gain multiplies after the cast back to x's type, or with ``wide_gain`` before it.
    """
    broad = wide(x)
    y = broad * torch.rsqrt(broad.square().mean(-1, keepdim=True) + eps)
    if weight is None:
        return y.to(x.dtype)
    gain = 1 + wide(weight) if plus_one else weight
    return (y * wide(gain)).to(x.dtype) if wide_gain else y.to(x.dtype) * gain.to(x.dtype)


def layer_norm(
    x: Float[Tensor, "*n d"],
    weight: Float[Tensor, " d"] | None = None,
    bias: Float[Tensor, " d"] | None = None,
    eps: float = 1e-5,
) -> Float[Tensor, "*n d"]:
    """(x - mean) / sqrt(var + eps) * weight + bias, with the biased variance (Ba et al. 2016); the statistics are in fp32."""
    broad = wide(x)
    centred = broad - broad.mean(-1, keepdim=True)
    y = (centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    y = y if weight is None else y * weight.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype)


def norm(x: Tensor, config: Norm, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """The normalization that the config names, over the last dimension."""
    if config.kind == "rms":
        return rms_norm(x, weight, config.eps, plus_one=config.plus_one, wide_gain=config.wide_gain)
    return layer_norm(x, weight, bias, config.eps)


def rotate(
    x: Float[Tensor, "b t h e"], cos: Float[Tensor, "*b t r2"], sin: Float[Tensor, "*b t r2"], *, interleaved: bool = False
) -> Float[Tensor, "b t h e"]:
    """Turns each pair (x_i, x_{i+R/2}) of the first R dims by its angle, R = E unless the tables are narrower: Llama's layout.

    ``interleaved`` pairs (x_{2i}, x_{2i+1}) as the paper does; the result then has the halves' order, for which queries and keys agree.
    """
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    turned, kept = x.split([2 * cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, kept), dim=-1)


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
    v: Float[Tensor, "b s k f"],
    documents: Int[Tensor, "b s"] | None = None,
    window: int | None = None,
    scale: float | None = None,
    cap: float | None = None,
    sinks: Float[Tensor, " h"] | None = None,
) -> Float[Tensor, "b t h f"]:
    """softmax(q k^T / sqrt(E)) v over the visible keys; head h reads kv head h // G (Vaswani et al. 2017; Ainslie et al. 2023).

    The queries are the last t of the s positions, so the same function serves training (t = s) and decoding with a cache.
    ``scale`` stands for 1 / sqrt(E). ``cap`` makes cap tanh(score / cap) of each score (Gemma 2, 2024). ``sinks`` are logits, one a
    head, that take part in the softmax and have no value: p_j = exp(s_j) / (exp(sink) + sum_j exp(s_j)) (gpt-oss, 2025).
    """
    groups = q.shape[2] // k.shape[2]
    grouped = rearrange(q, "b t (k g) e -> b t k g e", g=groups)
    scores = wide(einsum(grouped, k, "b t k g e, b s k e -> b k g t s")) * (scale or 1 / math.sqrt(q.shape[-1]))
    scores = scores if cap is None else softcap(scores, cap)
    mask = attention_mask(q.shape[1], k.shape[1], window, documents, q.device)
    scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
    if sinks is not None:
        column = rearrange(wide(sinks), "(k g) -> 1 k g 1 1", g=groups).expand(*scores.shape[:-1], 1)
        scores = torch.cat((scores, column.to(scores.dtype)), dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : k.shape[1]].to(v.dtype)
    return rearrange(einsum(weights, v, "b k g t s, b s k f -> b t k g f"), "b t k g f -> b t (k g) f")


def silu(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """x * sigmoid(x)."""
    return x * torch.sigmoid(x)


def gelu(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016, the tanh form of GPT-2)."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu2(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """max(x, 0)^2 (So et al. 2021)."""
    return torch.relu(x).square()


def clamped_swiglu(gate: Float[Tensor, "*n"], up: Float[Tensor, "*n"], alpha: float = 1.702, limit: float = 7.0) -> Float[Tensor, "*n"]:
    """(u + 1) g sigmoid(alpha g) with g = min(gate, limit) and u = up within [-limit, limit] (gpt-oss, 2025)."""
    g, u = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (u + 1) * (g * torch.sigmoid(alpha * g))


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
    log_p = torch.log_softmax(wide(logits), dim=-1).gather(1, targets.clamp(min=0)[:, None])
    if gate_logits is not None and expert_log_p is not None:
        log_gate = torch.log_softmax(wide(gate_logits), dim=-1)
        log_p = torch.logsumexp(log_gate + torch.cat((log_p, wide(expert_log_p)), dim=1), dim=1, keepdim=True)
    return torch.where(targets >= 0, -log_p[:, 0], 0.0)
