"""Attention for the hardware at hand: one function, four backends, chosen in one place.

``reference`` is ``model.functional.attention_reference`` and the oracle. ``blocked`` is ours, for the CPU: the queries go block by
block, each block sees only the keys it may see (half the work of a square, less with a window), and the probabilities are kept for a
backward of plain matrix products. ``triton`` is ours, for GPUs: flash attention, in ``kernels.triton_attention``. ``sdpa`` is PyTorch's
own, a vendor's kernel, for GPUs without a Triton.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 128  # queries a block: at T = 256 as fast as 64 for many rows and faster for few, where every operation counts (docs/lab.md)
HAS_TRITON = find_spec("triton") is not None  # looked for, not imported; a constant, so that torch.compile sees no branch


def choose_backend(device: torch.device) -> tuple[str, str]:
    """The attention backend for a device, and the reason, for the start-up line."""
    if device.type == "cuda" and HAS_TRITON:
        return "triton", "own flash attention in Triton, skips what the mask hides"
    if device.type == "cuda":
        return "sdpa", "PyTorch's fused attention (vendor kernel), since Triton is not installed"
    return "blocked", "own blocked attention, skips what the mask hides"


class _Blocked(torch.autograd.Function):
    """Exact attention by blocks of queries. Layout inside: [B, K, G * t, E] against [B, K, s, E], one matrix product per block."""

    @staticmethod
    def forward(ctx, q, k, v, documents, window, scale):
        batch, t, heads, dim = q.shape
        kv = k.shape[2]
        # [B, T, H, E] -> [B, K, G, T, E]: blocks of T stay views
        q5 = q.new_empty(batch, kv, heads // kv, t, dim)
        torch.mul(q.reshape(batch, t, kv, heads // kv, dim).permute(0, 2, 3, 1, 4), scale, out=q5)
        k4, v4 = k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()

        def softmax(scores: Tensor, start: int, low: int) -> Tensor:
            return torch.softmax(scores.add_(_block_bias(start, low, window, documents, scores)), dim=-1)

        out, probabilities = attend(q5, k4, v4, window, softmax)
        ctx.save_for_backward(q5, k4, v4, *probabilities)
        ctx.window, ctx.scale = window, scale
        return out

    @staticmethod
    def backward(ctx, grad):
        q5, k4, v4, *probabilities = ctx.saved_tensors
        dq5, dk, dv = attend_backward(grad, q5, k4, v4, probabilities, ctx.window)
        return dq5.mul_(ctx.scale).permute(0, 3, 1, 2, 4).flatten(2, 3), dk.transpose(1, 2), dv.transpose(1, 2), None, None, None


def attend(
    q5: Float[Tensor, "b k g t e"], k4: Float[Tensor, "b k t e"], v4: Float[Tensor, "b k t e"], window: int | None, softmax: Callable
) -> tuple[Float[Tensor, "b t h e"], list[Tensor]]:
    """softmax(q k^T) v, block by block, and each block's probabilities [B K, G t, s]; q comes scaled.

    ``softmax(scores [B, K, G, t, s], first query, first key)`` makes probabilities of scores, 0 where the mask hides.
    """
    batch, kv, groups, t, dim = q5.shape
    out = torch.empty(batch, t, kv * groups, dim, dtype=q5.dtype, device=q5.device)
    out5 = out.view(batch, t, kv, groups, dim).permute(0, 2, 3, 1, 4)
    probabilities = []
    for start, stop, low in query_blocks(t, window, BLOCK):
        qb = q5[:, :, :, start:stop].reshape(batch * kv, groups * (stop - start), dim)
        kb, vb = k4[:, :, low:stop].flatten(0, 1), v4[:, :, low:stop].flatten(0, 1)
        scores = torch.bmm(qb, kb.transpose(1, 2)).view(batch, kv, groups, stop - start, stop - low)
        p = softmax(scores, start, low).view(batch * kv, groups * (stop - start), stop - low)
        out5[:, :, :, start:stop] = torch.bmm(p, vb).view(batch, kv, groups, stop - start, dim)
        probabilities.append(p)
    return out, probabilities


def attend_backward(
    grad: Float[Tensor, "b t h e"],
    q5: Float[Tensor, "b k g t e"],
    k4: Float[Tensor, "b k t e"],
    v4: Float[Tensor, "b k t e"],
    probabilities: list[Tensor],
    window: int | None,
) -> tuple[Float[Tensor, "b k g t e"], Float[Tensor, "b k t e"], Float[Tensor, "b k t e"]]:
    """Gradients of ``attend``. With O = P V: dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dP * P)), dQ = dS K, dK = dS^T Q."""
    batch, kv, groups, t, dim = q5.shape
    g5 = grad.view(batch, t, kv, groups, dim).permute(0, 2, 3, 1, 4)
    dq5, dk, dv = torch.empty_like(q5), torch.zeros_like(k4), torch.zeros_like(v4)
    for p, (start, stop, low) in zip(probabilities, query_blocks(t, window, BLOCK), strict=True):
        rows = groups * (stop - start)
        gb = g5[:, :, :, start:stop].reshape(batch * kv, rows, dim)
        qb = q5[:, :, :, start:stop].reshape(batch * kv, rows, dim)
        kb, vb = k4[:, :, low:stop].flatten(0, 1), v4[:, :, low:stop].flatten(0, 1)
        dv[:, :, low:stop] += torch.bmm(p.transpose(1, 2), gb).view(batch, kv, stop - low, dim)
        ds = torch._softmax_backward_data(torch.bmm(gb, vb.transpose(1, 2)), p, -1, p.dtype)
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
    v: Float[Tensor, "b t k e"],
    documents: Int[Tensor, "b t"] | None = None,
    window: int | None = None,
) -> Float[Tensor, "b t h e"]:
    """``attention_reference`` for training lengths (t = s), exact, in blocks of queries."""
    return _Blocked.apply(q, k, v, documents, window, 1 / math.sqrt(q.shape[-1]))


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
