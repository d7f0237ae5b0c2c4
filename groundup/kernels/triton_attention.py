"""Flash attention in Triton: exact attention whose scores never leave the chip, forward and backward, for a GPU.

Symbols as everywhere: q [B, T, H, E], k and v [B, T, K, E], head h reads kv head h // G with G = H / K. Query i sees key j when
first(i) <= j <= i, where first(i) is the later of its document's first token and i - window + 1.

Forward (Dao et al. 2022, algorithm 1; Dao 2023). A program holds one block of queries and goes through the blocks of keys they see:
S = q k^T / sqrt(E), m = rowmax(S) and l = rowsum(exp(S - m)) so far, O = exp(S - m) v rescaled whenever m grows; in the end O / l, and
L = m + log l is kept for each row. Exponents are in base 2, which is what the hardware has.

Backward (Dao 2023, algorithm 2). P = exp(S - L) is computed again; with D = rowsum(dO * O):
dV = P^T dO, dP = dO v^T, dS = P * (dP - D), dQ = dS k / sqrt(E), dK = dS^T q / sqrt(E).
One kernel has a block of queries a program and gathers dQ (and D); another has a block of keys and gathers dK and dV over the G heads
that share it. P is thus computed twice, and nothing is added up in memory: no atomics, so the same bits every run.

What the mask hides entirely is never visited. Visible keys of a block of queries are one stretch, since documents ascend within a row:
its ends are masked element by element, its middle, where every query sees every key, is not masked at all.
"""

import math
from typing import NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from groundup.errors import UsageError
from groundup.kernels import flash

MAX_HEAD_DIM = 256


class Tile(NamedTuple):
    """How one kernel cuts its work."""

    queries: int
    """Queries a block."""
    keys: int
    """Keys a block."""
    warps: int
    """Warps that share a block."""
    stages: int
    """Blocks in flight from memory."""


class Tiles(NamedTuple):
    """The tiles of the three kernels; the outer block, which a program holds, is a multiple of the inner, which it loops over."""

    forward: Tile
    """Outer: queries."""
    d_queries: Tile
    """Outer: queries."""
    d_keys: Tile
    """Outer: keys."""


def choose_tiles(head_dim: int, element_bytes: int) -> Tiles:
    """Block sizes for a head dim and an element size.

    The outer block is as large as the registers bear, since every inner block is read again for each outer one; 64 rows for each group
    of four warps is what Hopper's tensor cores multiply at once. The backward over keys holds two accumulators, so its inner block is
    half as long. fp32 at full precision has no tensor cores and twice the bytes. Compiled for Hopper these need at most 130 KiB of
    shared memory (of 227), and spill few registers or none; ``benchmarks/gpu.py`` times them against their neighbours.
    """
    if element_bytes == 4:
        side = 32 if head_dim <= 64 else 16
        return Tiles(Tile(2 * side, side, 8, 2), Tile(2 * side, side, 8, 2), Tile(side, side, 8, 2))
    if head_dim <= 64:
        return Tiles(Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(32, 128, 8, 3))
    if head_dim <= 128:
        return Tiles(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(32, 128, 8, 2))
    return Tiles(Tile(64, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 2))


def _rows(x: Tensor) -> Tensor:
    """The tensor itself if the numbers of a head lie side by side, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _sizes(q: Tensor, k: Tensor, documents: Tensor | None, window: int | None) -> tuple[list, dict]:
    """What all three kernels are told: (T, H, G, window, scale in base 2), and what they are compiled for."""
    _, t, heads, dim = q.shape
    runtime = [t, heads, heads // k.shape[2], window or 0, math.log2(math.e) / math.sqrt(dim)]
    constants = {"E": dim, "P": max(16, triton.next_power_of_2(dim)), "WINDOW": window is not None, "DOCUMENTS": documents is not None}
    return runtime, constants


def _how(tile: Tile) -> dict:
    """A tile as Triton's options; exp2(scores * scale - peak) is written to become one multiply-add and an exponential."""
    return {"QUERIES": tile.queries, "KEYS": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True}


def forward(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, window: int | None, tile: Tile) -> tuple[Tensor, Tensor]:
    """Launches the forward kernel: output [B, T, H, E] and log-sum-exp in base 2 [B, H, T]; a window, if any, is below T."""
    q, k, v = _rows(q), _rows(k), _rows(v)
    batch, t, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, t, dtype=torch.float32, device=q.device)
    runtime, constants = _sizes(q, k, documents, window)
    given = lse if documents is None else documents.int().contiguous()  # without documents the pointer is never read
    strides = [*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]]
    with torch.cuda.device_of(q):
        flash.forward_kernel[(triton.cdiv(t, tile.queries), heads, batch)](
            q, k, v, out, lse, given, *strides, *runtime, **constants,
            **_how(tile),
        )  # fmt: skip
    return out, lse


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    documents: Tensor | None,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    window: int | None,
    tiles: Tiles,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the two backward kernels: gradients of q, k and v from the gradient of the output."""
    q, k, v, grad = _rows(q), _rows(k), _rows(v), grad.contiguous()
    batch, t, heads, _ = q.shape
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    delta = torch.empty_like(lse)
    runtime, constants = _sizes(q, k, documents, window)
    runtime.append(1 / math.sqrt(q.shape[-1]))
    given = lse if documents is None else documents.int().contiguous()
    strides = [*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]]
    with torch.cuda.device_of(q):
        tile = tiles.d_queries
        flash.backward_queries_kernel[(triton.cdiv(t, tile.queries), heads, batch)](
            q, k, v, out, grad, lse, delta, dq, given, *strides, *runtime, **constants,
            **_how(tile),
        )  # fmt: skip
        tile = tiles.d_keys
        flash.backward_keys_kernel[(triton.cdiv(t, tile.keys), k.shape[2], batch)](
            q, k, v, grad, lse, delta, dk, dv, given, *strides, *runtime, **constants,
            **_how(tile),
        )  # fmt: skip
    return dq, dk, dv


# --- As operators: torch.compile puts each into its graph as one node and does not look inside.


@torch.library.custom_op(
    "groundup::flash_forward", mutates_args=(), schema="(Tensor q, Tensor k, Tensor v, Tensor? documents, int? window) -> (Tensor, Tensor)"
)
def _flash_forward(q, k, v, documents, window):
    return forward(q, k, v, documents, window, choose_tiles(q.shape[-1], q.element_size()).forward)


@_flash_forward.register_fake
def _(q, k, v, documents, window):
    return q.new_empty(q.shape), q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


@torch.library.custom_op(
    "groundup::flash_backward",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? documents, Tensor out, Tensor lse, Tensor grad, int? window)"
    " -> (Tensor, Tensor, Tensor)",
)
def _flash_backward(q, k, v, documents, out, lse, grad, window):
    return backward(q, k, v, documents, out, lse, grad, window, choose_tiles(q.shape[-1], q.element_size()))


@_flash_backward.register_fake
def _(q, k, v, documents, out, lse, grad, window):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _keep(ctx, inputs, output):
    q, k, v, documents, ctx.window = inputs
    ctx.save_for_backward(q, k, v, documents, *output)


def _differentiate(ctx, grad, _):
    return *_flash_backward(*ctx.saved_tensors, grad, ctx.window), None, None


_flash_forward.register_autograd(_differentiate, setup_context=_keep)


def triton_attention(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t k e"],
    v: Float[Tensor, "b t k e"],
    documents: Int[Tensor, "b t"] | None = None,
    window: int | None = None,
) -> Float[Tensor, "b t h e"]:
    """``attention_reference`` for training lengths (t = s), exact, on a GPU; accumulates in fp32, gradients are deterministic.

    Documents must ascend within a row, padding (-1) last, as the data room makes them; a row in which they do not comes out as NaN.
    Raises UsageError for numbers that are not fp32, bf16 or fp16 and for a head dim above 256.
    Oracle: ``model.functional.attention_reference``.
    """
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16) or q.shape[-1] > MAX_HEAD_DIM:
        raise UsageError(
            f"the Triton attention takes fp32, bf16 or fp16 and a head_dim of at most {MAX_HEAD_DIM}, "
            f"not {q.dtype} and {q.shape[-1]}: use the backend blocked"
        )
    hides = window is not None and window < q.shape[1]
    return _flash_forward(q, k, v, documents, window if hides else None)[0]
