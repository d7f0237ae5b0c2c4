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
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from groundup.errors import UsageError

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

    The outer block is as large as the registers bear, since every inner block is read once for each outer one: 128 rows of accumulator
    are 64 to 128 registers a thread, and 64 rows a warp group is what a tensor core of the Hopper generation multiplies. The backward
    over keys holds two accumulators, so its inner block is smaller. fp32 has no tensor cores at full precision and twice the bytes.
    """
    if element_bytes == 4:
        side = 32 if head_dim <= 64 else 16
        return Tiles(Tile(2 * side, side, 4, 2), Tile(2 * side, side, 4, 2), Tile(side, side, 4, 2))
    if head_dim <= 64:
        return Tiles(Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(64, 128, 8, 2))
    if head_dim <= 128:
        return Tiles(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(64, 128, 8, 2))
    return Tiles(Tile(64, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 2))


# --- What the kernels share. no_type_check keeps run-time type checkers, which cannot be compiled, out of compiled code.


@triton.jit
@no_type_check
def _tile(base, rows, stride, T, columns, E: tl.constexpr, P: tl.constexpr, CHECK: tl.constexpr):
    """[rows, P] from rows of E numbers that are ``stride`` apart: zero beyond E, and beyond row T where CHECK."""
    at = base + rows[:, None] * stride + columns[None, :]
    if CHECK:
        if P == E:
            found = tl.load(at, mask=rows[:, None] < T, other=0.0)
        else:
            found = tl.load(at, mask=(rows[:, None] < T) & (columns[None, :] < E), other=0.0)
    else:
        if P == E:
            found = tl.load(at)
        else:
            found = tl.load(at, mask=columns[None, :] < E, other=0.0)
    return found


@triton.jit
@no_type_check
def _store(base, rows, stride, T, columns, values, E: tl.constexpr):
    mask = (rows[:, None] < T) & (columns[None, :] < E)
    tl.store(base + rows[:, None] * stride + columns[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def _document(documents, rows, T):
    """The documents of these rows; unsigned, so that padding, which is -1 and comes last, is the largest."""
    return tl.load(documents + rows, mask=rows < T, other=-1).to(tl.uint32, bitcast=True)


@triton.jit
@no_type_check
def _count(documents, T, limit, INCLUSIVE: tl.constexpr):
    """How many tokens of the row have a document below ``limit`` (or up to it): where it begins (or ends), since documents ascend."""
    count = 0
    for start in range(0, T, 1024):
        j = start + tl.arange(0, 1024)
        found = _document(documents, j, T)
        if INCLUSIVE:
            below = found <= limit
        else:
            below = found < limit
        count += tl.sum((below & (j < T)).to(tl.int32), 0)
    return count


@triton.jit
@no_type_check
def _descents(documents, T):
    """At how many tokens of the row the document falls."""
    count = 0
    for start in range(0, T, 1024):
        j = start + tl.arange(0, 1024)
        count += tl.sum((_document(documents, j, T) > _document(documents, j + 1, T)).to(tl.int32), 0)
    return count


@triton.jit
@no_type_check
def _first_key(documents, query, T, window, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr):
    """The first key that a query sees."""
    first = query * 0
    if WINDOW:
        first = tl.maximum(first, query - window + 1)
    if DOCUMENTS:
        of_query = tl.load(documents + query).to(tl.uint32, bitcast=True)
        first = tl.maximum(first, _count(documents, T, of_query, False))
    return first


@triton.jit
@no_type_check
def _end_query(documents, key, T, window, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr):
    """One past the last query that sees a key."""
    end = key * 0 + T
    if WINDOW:
        end = tl.minimum(end, key + window)
    if DOCUMENTS:
        of_key = tl.load(documents + key).to(tl.uint32, bitcast=True)
        end = tl.minimum(end, _count(documents, T, of_key, True))
    return end


@triton.jit
@no_type_check
def _visible(i, j, documents, T, window, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr):
    """Whether query i sees key j, for i and j that broadcast."""
    seen = (j <= i) & (i < T)
    if WINDOW:
        seen = seen & (i - j < window)
    if DOCUMENTS:
        seen = seen & (_document(documents, i, T) == _document(documents, j, T))
    return seen


# --- Forward.


@triton.jit
@no_type_check
def _attend(
    acc, peak, total, q, i, k, v, documents, k_t, v_t, start, stop, T, window, scale_log2,
    E: tl.constexpr, P: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """A block of queries goes through keys [start, stop): numerator, running maximum and denominator."""
    columns = tl.arange(0, P)
    for low in range(start, stop, KEYS):
        j = tl.multiple_of(low, KEYS) + tl.arange(0, KEYS)
        scores = tl.dot(q, tl.trans(_tile(k, j, k_t, T, columns, E, P, MASKED)), input_precision="ieee")
        if MASKED:
            seen = _visible(i[:, None], j[None, :], documents, T, window, WINDOW, DOCUMENTS)
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1) * scale_log2)
        p = tl.exp2(scores * scale_log2 - higher[:, None])
        shrink = tl.exp2(peak - higher)
        values = _tile(v, j, v_t, T, columns, E, P, MASKED)
        acc = tl.dot(p.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(p, 1)
        peak = higher
    return acc, peak, total


@triton.jit
@no_type_check
def _forward(
    q, k, v, out, lse, documents, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T, H, G, window, scale_log2,
    E: tl.constexpr, P: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """Output [B, T, H, E] and log-sum-exp in base 2 [B, H, T] of one block of queries of one head."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES  # the longest rows begin first
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    documents += batch * T
    k += batch * k_b + (head // G) * k_h
    v += batch * v_b + (head // G) * v_h
    i, columns = first + tl.arange(0, QUERIES), tl.arange(0, P)
    queries = _tile(q + batch * q_b + head * q_h, i, q_t, T, columns, E, P, True)
    acc = tl.zeros((QUERIES, P), tl.float32)
    peak = tl.full((QUERIES,), -1e30, tl.float32)  # finite: a row that has seen no key yet must not make inf - inf
    total = tl.zeros((QUERIES,), tl.float32)
    full = first * 0
    if WINDOW or DOCUMENTS:
        last = tl.minimum(first + QUERIES, T) - 1
        low = _first_key(documents, first, T, window, WINDOW, DOCUMENTS) // KEYS * KEYS
        full = tl.minimum(tl.cdiv(_first_key(documents, last, T, window, WINDOW, DOCUMENTS), KEYS) * KEYS, first)
        acc, peak, total = _attend(
            acc, peak, total, queries, i, k, v, documents, k_t, v_t, low, full, T, window, scale_log2,
            E, P, KEYS, WINDOW, DOCUMENTS, True,
        )  # fmt: skip
    acc, peak, total = _attend(
        acc, peak, total, queries, i, k, v, documents, k_t, v_t, full, first, T, window, scale_log2,
        E, P, KEYS, WINDOW, DOCUMENTS, False,
    )  # fmt: skip
    acc, peak, total = _attend(
        acc, peak, total, queries, i, k, v, documents, k_t, v_t, first, tl.minimum(first + QUERIES, T), T, window, scale_log2,
        E, P, KEYS, WINDOW, DOCUMENTS, True,
    )  # fmt: skip
    total = tl.where(i < T, total, 1.0)
    acc = acc / total[:, None]
    if DOCUMENTS:
        acc = tl.where(_descents(documents, T) > 0, float("nan"), acc)  # not a wrong answer: no answer
    _store(out + (batch * T * H + head) * E, i, H * E, T, columns, acc, E)
    tl.store(lse + (batch * H + head) * T + i, peak + tl.log2(total), mask=i < T)


# --- Backward.


@triton.jit
@no_type_check
def _gather_d_queries(
    dq, q, grad, lse, delta, i, k, v, documents, k_t, v_t, start, stop, T, window, scale_log2,
    E: tl.constexpr, P: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Adds what keys [start, stop) give to dQ of a block of queries, before its scale."""
    columns = tl.arange(0, P)
    for low in range(start, stop, KEYS):
        j = tl.multiple_of(low, KEYS) + tl.arange(0, KEYS)
        keys = _tile(k, j, k_t, T, columns, E, P, MASKED)
        values = _tile(v, j, v_t, T, columns, E, P, MASKED)
        p = tl.exp2(tl.dot(q, tl.trans(keys), input_precision="ieee") * scale_log2 - lse[:, None])
        if MASKED:
            p = tl.where(_visible(i[:, None], j[None, :], documents, T, window, WINDOW, DOCUMENTS), p, 0.0)
        ds = p * (tl.dot(grad, tl.trans(values), input_precision="ieee") - delta[:, None])
        dq = tl.dot(ds.to(keys.dtype), keys, dq, input_precision="ieee")
    return dq


@triton.jit
@no_type_check
def _backward_queries(
    q, k, v, out, grad, lse, delta, dq, documents, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T, H, G, window, scale_log2, scale,
    E: tl.constexpr, P: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """dQ [B, T, H, E] of one block of queries of one head, and D = rowsum(dO * O) [B, H, T] for the other kernel."""
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * QUERIES
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    documents += batch * T
    k += batch * k_b + (head // G) * k_h
    v += batch * v_b + (head // G) * v_h
    here = (batch * T * H + head) * E  # of out, grad and dq, which are contiguous
    i, columns = first + tl.arange(0, QUERIES), tl.arange(0, P)
    queries = _tile(q + batch * q_b + head * q_h, i, q_t, T, columns, E, P, True)
    grads = _tile(grad + here, i, H * E, T, columns, E, P, True)
    outs = _tile(out + here, i, H * E, T, columns, E, P, True)
    d = tl.sum(grads.to(tl.float32) * outs.to(tl.float32), 1)
    row = (batch * H + head) * T + i
    tl.store(delta + row, d, mask=i < T)
    logs = tl.load(lse + row, mask=i < T, other=0.0)
    acc = tl.zeros((QUERIES, P), tl.float32)
    full = first * 0
    if WINDOW or DOCUMENTS:
        last = tl.minimum(first + QUERIES, T) - 1
        low = _first_key(documents, first, T, window, WINDOW, DOCUMENTS) // KEYS * KEYS
        full = tl.minimum(tl.cdiv(_first_key(documents, last, T, window, WINDOW, DOCUMENTS), KEYS) * KEYS, first)
        acc = _gather_d_queries(
            acc, queries, grads, logs, d, i, k, v, documents, k_t, v_t, low, full, T, window, scale_log2,
            E, P, KEYS, WINDOW, DOCUMENTS, True,
        )  # fmt: skip
    acc = _gather_d_queries(
        acc, queries, grads, logs, d, i, k, v, documents, k_t, v_t, full, first, T, window, scale_log2,
        E, P, KEYS, WINDOW, DOCUMENTS, False,
    )  # fmt: skip
    acc = _gather_d_queries(
        acc, queries, grads, logs, d, i, k, v, documents, k_t, v_t, first, tl.minimum(first + QUERIES, T), T, window, scale_log2,
        E, P, KEYS, WINDOW, DOCUMENTS, True,
    )  # fmt: skip
    _store(dq + here, i, H * E, T, columns, acc * scale, E)


@triton.jit
@no_type_check
def _gather_d_keys(
    dk, dv, k, v, j, q, grad, lse, delta, documents, q_t, grad_t, start, stop, T, window, scale_log2,
    E: tl.constexpr, P: tl.constexpr, QUERIES: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Adds what queries [start, stop) of one head give to dK (before its scale) and dV of a block of keys; all tiles transposed."""
    columns = tl.arange(0, P)
    for low in range(start, stop, QUERIES):
        i = tl.multiple_of(low, QUERIES) + tl.arange(0, QUERIES)
        queries = _tile(q, i, q_t, T, columns, E, P, MASKED)
        grads = _tile(grad, i, grad_t, T, columns, E, P, MASKED)
        if MASKED:
            logs = tl.load(lse + i, mask=i < T, other=0.0)
            d = tl.load(delta + i, mask=i < T, other=0.0)
        else:
            logs, d = tl.load(lse + i), tl.load(delta + i)
        p = tl.exp2(tl.dot(k, tl.trans(queries), input_precision="ieee") * scale_log2 - logs[None, :])
        if MASKED:
            p = tl.where(_visible(i[None, :], j[:, None], documents, T, window, WINDOW, DOCUMENTS), p, 0.0)
        dv = tl.dot(p.to(grads.dtype), grads, dv, input_precision="ieee")
        ds = p * (tl.dot(v, tl.trans(grads), input_precision="ieee") - d[None, :])
        dk = tl.dot(ds.to(queries.dtype), queries, dk, input_precision="ieee")
    return dk, dv


@triton.jit
@no_type_check
def _backward_keys(
    q, k, v, grad, lse, delta, dk_out, dv_out, documents, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T, H, G, window, scale_log2, scale,
    E: tl.constexpr, P: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """dK and dV [B, T, K, E] of one block of keys of one kv head."""
    first = tl.program_id(0) * KEYS  # the first keys are seen by the most queries, and begin first
    kv_head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    documents += batch * T
    j, columns = first + tl.arange(0, KEYS), tl.arange(0, P)
    keys = _tile(k + batch * k_b + kv_head * k_h, j, k_t, T, columns, E, P, True)
    values = _tile(v + batch * v_b + kv_head * v_h, j, v_t, T, columns, E, P, True)
    last = tl.minimum(first + KEYS, T) - 1
    stop = _end_query(documents, last, T, window, WINDOW, DOCUMENTS)
    full = first + KEYS  # queries from here on come after all these keys
    full_stop = tl.maximum(full, _end_query(documents, first, T, window, WINDOW, DOCUMENTS) // QUERIES * QUERIES)
    dk, dv = tl.zeros((KEYS, P), tl.float32), tl.zeros((KEYS, P), tl.float32)
    for head in range(kv_head * G, kv_head * G + G):
        q_head, rows = q + batch * q_b + head * q_h, (batch * H + head) * T
        grad_head = grad + (batch * T * H + head) * E
        dk, dv = _gather_d_keys(
            dk, dv, keys, values, j, q_head, grad_head, lse + rows, delta + rows, documents, q_t, H * E,
            first, tl.minimum(full, stop), T, window, scale_log2, E, P, QUERIES, WINDOW, DOCUMENTS, True,
        )  # fmt: skip
        dk, dv = _gather_d_keys(
            dk, dv, keys, values, j, q_head, grad_head, lse + rows, delta + rows, documents, q_t, H * E,
            full, full_stop, T, window, scale_log2, E, P, QUERIES, WINDOW, DOCUMENTS, False,
        )  # fmt: skip
        dk, dv = _gather_d_keys(
            dk, dv, keys, values, j, q_head, grad_head, lse + rows, delta + rows, documents, q_t, H * E,
            full_stop, stop, T, window, scale_log2, E, P, QUERIES, WINDOW, DOCUMENTS, True,
        )  # fmt: skip
    here, stride = (batch * T * (H // G) + kv_head) * E, (H // G) * E
    _store(dk_out + here, j, stride, T, columns, dk * scale, E)
    _store(dv_out + here, j, stride, T, columns, dv, E)


# --- Launching.


def _rows(x: Tensor) -> Tensor:
    """The tensor itself if the numbers of a head lie side by side, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _sizes(q: Tensor, k: Tensor, documents: Tensor | None, window: int | None) -> tuple[list, dict]:
    """What all three kernels are told: (T, H, G, window, scale in base 2), and what they are compiled for."""
    _, t, heads, dim = q.shape
    runtime = [t, heads, heads // k.shape[2], window or 0, math.log2(math.e) / math.sqrt(dim)]
    constants = {"E": dim, "P": max(16, triton.next_power_of_2(dim)), "WINDOW": window is not None, "DOCUMENTS": documents is not None}
    return runtime, constants


def forward(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, window: int | None, tile: Tile) -> tuple[Tensor, Tensor]:
    """Launches the forward kernel: output [B, T, H, E] and log-sum-exp in base 2 [B, H, T]; a window, if any, is below T."""
    q, k, v = _rows(q), _rows(k), _rows(v)
    batch, t, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, t, dtype=torch.float32, device=q.device)
    runtime, constants = _sizes(q, k, documents, window)
    given = lse if documents is None else documents.contiguous()  # without documents the pointer is never read
    strides = [*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]]
    with torch.cuda.device_of(q):
        _forward[(triton.cdiv(t, tile.queries), heads, batch)](
            q, k, v, out, lse, given, *strides, *runtime, **constants,
            QUERIES=tile.queries, KEYS=tile.keys, num_warps=tile.warps, num_stages=tile.stages,
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
    given = lse if documents is None else documents.contiguous()
    strides = [*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]]
    with torch.cuda.device_of(q):
        tile = tiles.d_queries
        _backward_queries[(triton.cdiv(t, tile.queries), heads, batch)](
            q, k, v, out, grad, lse, delta, dq, given, *strides, *runtime, **constants,
            QUERIES=tile.queries, KEYS=tile.keys, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        tile = tiles.d_keys
        _backward_keys[(triton.cdiv(t, tile.keys), k.shape[2], batch)](
            q, k, v, grad, lse, delta, dk, dv, given, *strides, *runtime, **constants,
            QUERIES=tile.queries, KEYS=tile.keys, num_warps=tile.warps, num_stages=tile.stages,
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
