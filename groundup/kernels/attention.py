"""Attention for the hardware at hand: one function, four backends, chosen in one place.

``reference`` is ``model.functional.attention_reference`` and the oracle. ``blocked`` is ours, for the CPU: the queries go block by
block, each block sees only the keys it may see (half the work of a square, less with a window), and the probabilities are kept for a
backward of plain matrix products; scales, caps, sinks and values of another width it alone knows, on every device. ``triton`` is ours,
for GPUs: flash attention, in ``kernels.triton_attention``. ``sdpa`` is PyTorch's own, a vendor's kernel, for GPUs without a Triton.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.config import ATTENTION_BLOCK

BLOCK = ATTENTION_BLOCK  # at T = 256 as fast as 64 for many rows and faster for few, where every operation counts (docs/lab.md)
HAS_TRITON = find_spec("triton") is not None  # looked for, not imported; a constant, so that torch.compile sees no branch


def choose_backend(device: torch.device) -> tuple[str, str]:
    """The attention backend for a device, and the reason, for the start-up line."""
    if device.type == "cuda" and HAS_TRITON:
        return "triton", "own flash attention in Triton, skips what the mask hides"
    if device.type == "cuda":
        return "sdpa", "PyTorch's fused attention (vendor kernel), since Triton is not installed"
    return "blocked", "own blocked attention, skips what the mask hides"


class _Blocked(torch.autograd.Function):
    """Exact attention by blocks of queries. Layout inside: [B, K, G * t, E] against [B, K, s, E], one matrix product per block.

    Backward needs of each block the probabilities, and under a cap what tanh gave.
    """

    @staticmethod
    def forward(ctx, q, k, v, documents, window, scale, cap, sinks):
        batch, t, heads, dim = q.shape
        kv = k.shape[2]
        # [B, T, H, E] -> [B, K, G, T, E]: blocks of T stay views
        q5 = q.new_empty(batch, kv, heads // kv, t, dim)
        torch.mul(q.reshape(batch, t, kv, heads // kv, dim).permute(0, 2, 3, 1, 4), scale, out=q5)
        k4, v4 = k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()
        turned: list[Tensor] = []  # tanh(scores / cap) of each block

        def softmax(scores: Tensor, start: int, low: int) -> Tensor:
            if cap is not None:
                turned.append(scores.div_(cap).tanh_())
                scores = turned[-1] * cap
            scores = scores.add_(_block_bias(start, low, window, documents, scores))
            return torch.softmax(scores, dim=-1) if sinks is None else _softmax_with_sinks(scores, sinks)

        out, probabilities = attend(q5, k4, v4, window, softmax)
        ctx.save_for_backward(q5, k4, v4, sinks, *probabilities, *turned)
        ctx.window, ctx.scale, ctx.capped = window, scale, cap is not None
        return out

    @staticmethod
    def backward(ctx, grad):
        q5, k4, v4, sinks, *kept = ctx.saved_tensors
        n_blocks = len(kept) // (1 + ctx.capped)
        probabilities, turned = kept[:n_blocks], iter(kept[n_blocks:])
        of_sinks = None if sinks is None else torch.zeros_like(sinks)

        def scored(ds: Tensor) -> Tensor:
            if of_sinks is not None:  # the gradients of all logits of a softmax sum to 0, and a sink is one of them
                of_sinks.sub_(ds.view(len(q5), len(of_sinks), -1).sum(-1).sum(0, dtype=of_sinks.dtype))
            if ctx.capped:
                t = next(turned).view_as(ds)
                ds = ds.sub_((t * t).mul_(ds))
            return ds

        dq5, dk, dv = attend_backward(grad, q5, k4, v4, probabilities, ctx.window, scored)
        dq = dq5.mul_(ctx.scale).permute(0, 3, 1, 2, 4).flatten(2, 3)
        return dq, dk.transpose(1, 2), dv.transpose(1, 2), None, None, None, None, of_sinks


def _softmax_with_sinks(scores: Float[Tensor, "b k g t s"], sinks: Float[Tensor, " h"]) -> Float[Tensor, "b k g t s"]:
    """exp(s_j) / (exp(sink) + sum_j exp(s_j)), in fp32 inside; it may overwrite the scores."""
    wide = scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores
    sink = sinks.to(wide.dtype).view(1, *scores.shape[1:3], 1, 1)
    peak = torch.maximum(wide.amax(-1, keepdim=True), sink)
    exps = wide.sub_(peak).exp_()
    return exps.div_(exps.sum(-1, keepdim=True) + (sink - peak).exp()).to(scores.dtype)


def attend(
    q5: Float[Tensor, "b k g t e"], k4: Float[Tensor, "b k t e"], v4: Float[Tensor, "b k t f"], window: int | None, softmax: Callable
) -> tuple[Float[Tensor, "b t h f"], list[Tensor]]:
    """softmax(q k^T) v, block by block, and each block's probabilities [B K, G t, s]; q comes scaled.

    ``softmax(scores [B, K, G, t, s], first query, first key)`` makes probabilities of scores, 0 where the mask hides.
    """
    batch, kv, groups, t, dim = q5.shape
    width = v4.shape[-1]
    out = torch.empty(batch, t, kv * groups, width, dtype=q5.dtype, device=q5.device)
    out5 = out.view(batch, t, kv, groups, width).permute(0, 2, 3, 1, 4)
    probabilities = []
    for start, stop, low in query_blocks(t, window, BLOCK):
        qb = q5[:, :, :, start:stop].reshape(batch * kv, groups * (stop - start), dim)
        kb, vb = k4[:, :, low:stop].flatten(0, 1), v4[:, :, low:stop].flatten(0, 1)
        scores = torch.bmm(qb, kb.transpose(1, 2)).view(batch, kv, groups, stop - start, stop - low)
        p = softmax(scores, start, low).view(batch * kv, groups * (stop - start), stop - low)
        out5[:, :, :, start:stop] = torch.bmm(p, vb).view(batch, kv, groups, stop - start, width)
        probabilities.append(p)
    return out, probabilities


def attend_backward(
    grad: Float[Tensor, "b t h f"],
    q5: Float[Tensor, "b k g t e"],
    k4: Float[Tensor, "b k t e"],
    v4: Float[Tensor, "b k t f"],
    probabilities: list[Tensor],
    window: int | None,
    scored: Callable[[Tensor], Tensor] = lambda ds: ds,
) -> tuple[Float[Tensor, "b k g t e"], Float[Tensor, "b k t e"], Float[Tensor, "b k t f"]]:
    """Gradients of ``attend``. With O = P V: dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dP * P)), dQ = dS K, dK = dS^T Q.

    ``scored`` takes each block's dS [B K, G t, s] and gives the gradient of the products of queries and keys.
    """
    batch, kv, groups, t, dim = q5.shape
    width = v4.shape[-1]
    g5 = grad.view(batch, t, kv, groups, width).permute(0, 2, 3, 1, 4)
    dq5, dk, dv = torch.empty_like(q5), torch.zeros_like(k4), torch.zeros_like(v4)
    for p, (start, stop, low) in zip(probabilities, query_blocks(t, window, BLOCK), strict=True):
        rows = groups * (stop - start)
        gb = g5[:, :, :, start:stop].reshape(batch * kv, rows, width)
        qb = q5[:, :, :, start:stop].reshape(batch * kv, rows, dim)
        kb, vb = k4[:, :, low:stop].flatten(0, 1), v4[:, :, low:stop].flatten(0, 1)
        dv[:, :, low:stop] += torch.bmm(p.transpose(1, 2), gb).view(batch, kv, stop - low, width)
        ds = scored(torch._softmax_backward_data(torch.bmm(gb, vb.transpose(1, 2)), p, -1, p.dtype))
        dq5[:, :, :, start:stop] = torch.bmm(ds, kb).view(batch, kv, groups, stop - start, dim)
        dk[:, :, low:stop] += torch.bmm(ds.transpose(1, 2), qb).view(batch, kv, stop - low, dim)
    return dq5, dk, dv


def query_blocks(t: int, window: int | None, block: int, earlier: int = 0) -> list[tuple[int, int, int]]:
    """Blocks as (first query, end, first key that any of them sees), of t queries that stand behind ``earlier`` keys."""
    starts, end = range(earlier, earlier + t, block), earlier + t
    return [(start, min(start + block, end), 0 if window is None else max(0, start - window + 1)) for start in starts]


def _block_bias(start: int, low: int, window: int | None, documents: Tensor | None, scores: Tensor) -> Tensor:
    """0 where block queries from start may see keys from low, -inf elsewhere; [1 or B, 1, 1, t, s]."""
    stop = start + scores.shape[-2]
    queries = torch.arange(start, stop, device=scores.device)[:, None]
    keys = torch.arange(low, stop, device=scores.device)[None, :]
    hidden = keys > queries
    if window is not None:
        hidden = hidden | (queries - keys >= window)
    hidden = hidden[None]
    if documents is not None:
        hidden = hidden | (documents[:, start:stop, None] != documents[:, None, low:stop])
    return torch.zeros(hidden.shape, dtype=scores.dtype, device=scores.device).masked_fill_(hidden, float("-inf"))[:, None, None]


def blocked_attention(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t k e"],
    v: Float[Tensor, "b t k f"],
    documents: Int[Tensor, "b t"] | None = None,
    window: int | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
    sinks: Float[Tensor, " h"] | None = None,
) -> Float[Tensor, "b t h f"]:
    """``attention_reference`` for training lengths (t = s), exact, in blocks of queries: the one backend that knows all it says."""
    return _Blocked.apply(q, k, v, documents, window, scale or 1 / math.sqrt(q.shape[-1]), cap, sinks)


def sdpa_attention(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t k e"],
    v: Float[Tensor, "b t k e"],
    documents: Int[Tensor, "b t"] | None = None,
    window: int | None = None,
) -> Float[Tensor, "b t h e"]:
    """The same through PyTorch's scaled_dot_product_attention: a vendor's kernel, causal when nothing else is masked."""
    from torch.nn.functional import scaled_dot_product_attention

    t = q.shape[1]
    mask = None
    if documents is not None or (window is not None and window < t):
        i = torch.arange(t, device=q.device)
        mask = (i[None, :] <= i[:, None])[None]
        if window is not None:
            mask = mask & (i[:, None] - i[None, :] < window)
        if documents is not None:
            mask = mask & (documents[:, :, None] == documents[:, None, :])
        mask = mask[:, None]
    out = scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, is_causal=mask is None, enable_gqa=q.shape[2] != k.shape[2]
    )
    return out.transpose(1, 2)


def triton_backend(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t k e"],
    v: Float[Tensor, "b t k e"],
    documents: Int[Tensor, "b t"] | None = None,
    window: int | None = None,
) -> Float[Tensor, "b t h e"]:
    """``kernels.triton_attention.triton_attention``, imported when it is first called: only GPUs have a Triton."""
    from groundup.kernels.triton_attention import triton_attention

    return triton_attention(q, k, v, documents, window)


BACKENDS = {"blocked": blocked_attention, "sdpa": sdpa_attention, "triton": triton_backend}
