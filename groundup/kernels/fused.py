"""What the CPU trains through in fp32: products by PyTorch's BLAS, and all that stands between them in the loops of ``kernels.native``.

Each function equals the plain one named in its docstring, which is its oracle and what every other device and type runs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.kernels import native
from groundup.kernels.attention import attend, attend_backward
from groundup.kernels.native import split_rows


def exp_rows(logits: Float[Tensor, "n v"]) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """Turns logits into exp(logits - peak) in place; returns each row's peak and the sum of its exponentials."""
    peaks, totals = torch.empty(len(logits)), torch.empty(len(logits))
    split_rows(native.exp_rows, *logits.shape, logits.numpy(), peaks.numpy(), totals.numpy())
    return peaks[:, None], totals[:, None]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):
        x = x.contiguous()
        rows = x.numel() // x.shape[-1]
        y, inverse = torch.empty_like(x), torch.empty(rows)
        flat = (a.view(rows, -1).numpy() for a in (x, y))
        split_rows(native.rms_norm_rows, rows, x.shape[-1], next(flat), native.number(eps), next(flat), inverse.numpy())
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx, grad):
        y, inverse = ctx.saved_tensors
        rows, out = len(inverse), torch.empty_like(y)
        flat = [a.view(rows, -1).numpy() for a in (grad.contiguous(), y)]
        split_rows(native.rms_norm_backward_rows, rows, y.shape[-1], *flat, inverse.numpy(), out.view(rows, -1).numpy())
        return out, None


def rms_norm(x: Float[Tensor, "*n d"], eps: float) -> Float[Tensor, "*n d"]:
    """``kernels.elementwise.rms_norm``."""
    return _RMSNorm.apply(x, eps)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, cos, sin, documents, n_heads, n_kv, eps, window, offset_keys):
        batch, t, width = x.shape
        dim, scale = width // (n_heads + 2 * n_kv), (width // (n_heads + 2 * n_kv)) ** -0.5
        q, k, v = torch.empty(batch, n_heads, t, dim), torch.empty(batch, n_kv, t, dim), torch.empty(batch, n_kv, t, dim)
        inverse = torch.empty(batch, t, n_heads + n_kv)
        begins = torch.zeros(batch, t, dtype=torch.int32)
        if documents is not None:
            native.document_begins(documents.numpy(), begins.numpy())
        arguments = (x.numpy(), cos.numpy(), sin.numpy(), begins.numpy(), native.number(eps), native.number(scale), offset_keys)
        split_rows(native.heads_rows, batch * t, width, *arguments, *(a.numpy() for a in (q, k, v, inverse)))

        def softmax(scores: Tensor, start: int, low: int) -> Tensor:
            flat = scores.view(-1, scores.shape[-1])
            settings = (begins.numpy(), window or t, scores.shape[-2], start, low)
            split_rows(native.softmax_rows, flat.shape[0], flat.shape[1], flat.numpy(), *settings)
            return scores

        q5 = q.view(batch, n_kv, n_heads // n_kv, t, dim)
        out, probabilities = attend(q5, k, v, window, softmax)
        ctx.save_for_backward(x, cos, sin, begins, inverse, q5, k, v, *probabilities)
        ctx.window, ctx.scale, ctx.offset_keys = window, scale, offset_keys
        return out

    @staticmethod
    def backward(ctx, grad):
        x, cos, sin, begins, inverse, q5, k, v, *probabilities = ctx.saved_tensors
        dq, dk, dv = attend_backward(grad.contiguous(), q5, k, v, probabilities, ctx.window)
        dx = torch.empty_like(x)
        arguments = (x.numpy(), cos.numpy(), sin.numpy(), begins.numpy(), native.number(ctx.scale), ctx.offset_keys)
        gradients = (dq.flatten(1, 2).numpy(), dk.numpy(), dv.numpy(), inverse.numpy(), dx.numpy())
        split_rows(native.heads_backward_rows, x.shape[0] * x.shape[1], x.shape[2], *arguments, *gradients)
        return dx, *(None,) * 8


def attention(
    x: Float[Tensor, "b t w"],
    rotary: tuple[Float[Tensor, "t e2"], Float[Tensor, "t e2"]],
    documents: Int[Tensor, "b t"] | None,
    *,
    n_heads: int,
    n_kv_heads: int,
    eps: float,
    window: int | None,
    offset_keys: bool,
) -> Float[Tensor, "b t h e"]:
    """Attention from its joint product x = [queries, keys, values], width W = (H + 2 K) E, to the heads' outputs.

    Equals RMSNorm without gain on every query and key head, ``functional.rotate``, ``functional.offset_keys`` where asked for, then
    ``functional.attention_reference``; equal numbers in ``documents`` must stand together, as loaders pack them.
    """
    return _Attention.apply(x.contiguous(), *rotary, documents, n_heads, n_kv_heads, eps, window, offset_keys)
