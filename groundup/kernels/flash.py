"""The kernels of ``kernels.triton_attention``: programs of Triton, each a block of queries or of keys of one head; equations there.

``no_type_check`` keeps run-time type checkers out of compiled code. Strides are in numbers, ``_b``, ``_t`` and ``_h`` of batch, token and
head; the numbers of a head lie side by side. E is the head dim, P the power of two it is padded to. WINDOW and DOCUMENTS say whether
there are any, MASKED whether a stretch of keys (or queries) needs masking or everyone sees everyone.
"""

from typing import no_type_check

import triton
import triton.language as tl


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
    return tl.load(documents + rows, mask=rows < T, other=0).to(tl.uint32, bitcast=True)


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
        falls = _document(documents, j, T) > _document(documents, j + 1, T)
        count += tl.sum((falls & (j + 1 < T)).to(tl.int32), 0)
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
def _owners(documents, rows, T, DOCUMENTS: tl.constexpr):
    """The documents of these rows, if there are documents."""
    owners = rows
    if DOCUMENTS:
        owners = _document(documents, rows, T)
    return owners


@triton.jit
@no_type_check
def _visible(i, j, of_i, of_j, T, window, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr):
    """Whether query i sees key j, given their documents; all four broadcast."""
    seen = (j <= i) & (i < T)
    if WINDOW:
        seen = seen & (i - j < window)
    if DOCUMENTS:
        seen = seen & (of_i == of_j)
    return seen


# --- Forward.


@triton.jit
@no_type_check
def _attend(
    acc, peak, total, q, i, of_i, k, v, documents, k_t, v_t, start, stop, T, window, scale_log2,
    E: tl.constexpr, P: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """A block of queries goes through keys [start, stop): numerator, running maximum and denominator."""
    columns = tl.arange(0, P)
    for low in range(start, stop, KEYS):
        j = tl.multiple_of(low, KEYS) + tl.arange(0, KEYS)
        scores = tl.dot(q, tl.trans(_tile(k, j, k_t, T, columns, E, P, MASKED)), input_precision="ieee")
        if MASKED:
            of_j = _owners(documents, j, T, DOCUMENTS)
            seen = _visible(i[:, None], j[None, :], of_i[:, None], of_j[None, :], T, window, WINDOW, DOCUMENTS)
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
def forward_kernel(
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
    of_i = _owners(documents, i, T, DOCUMENTS)
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
            acc, peak, total, queries, i, of_i, k, v, documents, k_t, v_t, low, full, T, window, scale_log2,
            E, P, KEYS, WINDOW, DOCUMENTS, True,
        )  # fmt: skip
    acc, peak, total = _attend(
        acc, peak, total, queries, i, of_i, k, v, documents, k_t, v_t, full, first, T, window, scale_log2,
        E, P, KEYS, WINDOW, DOCUMENTS, False,
    )  # fmt: skip
    acc, peak, total = _attend(
        acc, peak, total, queries, i, of_i, k, v, documents, k_t, v_t, first, tl.minimum(first + QUERIES, T), T, window, scale_log2,
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
    dq, q, grad, lse, delta, i, of_i, k, v, documents, k_t, v_t, start, stop, T, window, scale_log2,
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
            of_j = _owners(documents, j, T, DOCUMENTS)
            p = tl.where(_visible(i[:, None], j[None, :], of_i[:, None], of_j[None, :], T, window, WINDOW, DOCUMENTS), p, 0.0)
        ds = p * (tl.dot(grad, tl.trans(values), input_precision="ieee") - delta[:, None])
        dq = tl.dot(ds.to(keys.dtype), keys, dq, input_precision="ieee")
    return dq


@triton.jit
@no_type_check
def backward_queries_kernel(
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
    of_i = _owners(documents, i, T, DOCUMENTS)
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
            acc, queries, grads, logs, d, i, of_i, k, v, documents, k_t, v_t, low, full, T, window, scale_log2,
            E, P, KEYS, WINDOW, DOCUMENTS, True,
        )  # fmt: skip
    acc = _gather_d_queries(
        acc, queries, grads, logs, d, i, of_i, k, v, documents, k_t, v_t, full, first, T, window, scale_log2,
        E, P, KEYS, WINDOW, DOCUMENTS, False,
    )  # fmt: skip
    acc = _gather_d_queries(
        acc, queries, grads, logs, d, i, of_i, k, v, documents, k_t, v_t, first, tl.minimum(first + QUERIES, T), T, window, scale_log2,
        E, P, KEYS, WINDOW, DOCUMENTS, True,
    )  # fmt: skip
    _store(dq + here, i, H * E, T, columns, acc * scale, E)


@triton.jit
@no_type_check
def _gather_d_keys(
    dk, dv, k, v, j, of_j, q, grad, lse, delta, documents, q_t, grad_t, start, stop, T, window, scale_log2,
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
            of_i = _owners(documents, i, T, DOCUMENTS)
            p = tl.where(_visible(i[None, :], j[:, None], of_i[None, :], of_j[:, None], T, window, WINDOW, DOCUMENTS), p, 0.0)
        dv = tl.dot(p.to(grads.dtype), grads, dv, input_precision="ieee")
        ds = p * (tl.dot(v, tl.trans(grads), input_precision="ieee") - d[None, :])
        dk = tl.dot(ds.to(queries.dtype), queries, dk, input_precision="ieee")
    return dk, dv


@triton.jit
@no_type_check
def backward_keys_kernel(
    q, k, v, grad, lse, delta, dk_out, dv_out, documents, q_b, q_t, q_h, k_b, k_t, k_h, v_b, v_t, v_h, T, H, G, window, scale_log2, scale,
    E: tl.constexpr, P: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr,
):  # fmt: skip
    """dK and dV [B, T, K, E] of one block of keys of one kv head."""
    first = tl.program_id(0) * KEYS  # the first keys are seen by the most queries, and begin first
    kv_head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    documents += batch * T
    j, columns = first + tl.arange(0, KEYS), tl.arange(0, P)
    of_j = _owners(documents, j, T, DOCUMENTS)
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
            dk, dv, keys, values, j, of_j, q_head, grad_head, lse + rows, delta + rows, documents, q_t, H * E,
            first, tl.minimum(full, stop), T, window, scale_log2, E, P, QUERIES, WINDOW, DOCUMENTS, True,
        )  # fmt: skip
        dk, dv = _gather_d_keys(
            dk, dv, keys, values, j, of_j, q_head, grad_head, lse + rows, delta + rows, documents, q_t, H * E,
            full, full_stop, T, window, scale_log2, E, P, QUERIES, WINDOW, DOCUMENTS, False,
        )  # fmt: skip
        dk, dv = _gather_d_keys(
            dk, dv, keys, values, j, of_j, q_head, grad_head, lse + rows, delta + rows, documents, q_t, H * E,
            full_stop, stop, T, window, scale_log2, E, P, QUERIES, WINDOW, DOCUMENTS, True,
        )  # fmt: skip
    here, stride = (batch * T * (H // G) + kv_head) * E, (H // G) * E
    _store(dk_out + here, j, stride, T, columns, dk * scale, E)
    _store(dv_out + here, j, stride, T, columns, dv, E)
