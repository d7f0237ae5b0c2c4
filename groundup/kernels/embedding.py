"""Table lookups whose backward touches only the rows that were read."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, rows, sparse):
        ctx.save_for_backward(rows)
        ctx.shape, ctx.sparse = table.shape, sparse
        return torch.embedding(table, rows)

    @staticmethod
    def backward(ctx, grad):
        (rows,) = ctx.saved_tensors
        flat, grad = rows.reshape(-1), grad.reshape(-1, ctx.shape[1])
        if not ctx.sparse:
            # sorts on a GPU and walks in order on a CPU: the same sum in the same order every run
            return torch.ops.aten.embedding_dense_backward(grad, flat, ctx.shape[0], -1, False), None, None
        unique, inverse = torch.unique(flat, return_inverse=True)
        values = torch.ops.aten.embedding_dense_backward(grad, inverse, unique.shape[0], -1, False)
        return torch.sparse_coo_tensor(unique[None], values, ctx.shape, is_coalesced=True, check_invariants=False), None, None


def lookup(table: Float[Tensor, "v d"], rows: Int[Tensor, "*n"], *, sparse: bool = False) -> Float[Tensor, "*n d"]:
    """table[rows]; with ``sparse`` the gradient is a coalesced sparse tensor of the rows touched, for tables of many rows."""
    return _Lookup.apply(table, rows, sparse)


def ngram_rows(tokens: Int[Tensor, "b t"], documents: Int[Tensor, "b t"] | None, order: int, n_rows: int) -> Int[Tensor, "b t"]:
    """The table row of the n-gram of ``order`` tokens that ends at each position: a multiplicative hash, cut at document starts.

    A position with fewer than ``order`` tokens of its document before it hashes what there is, padded with -1.
    """
    mixed = tokens.clone()
    for back in range(1, order):
        earlier = torch.full_like(tokens, -1)
        earlier[:, back:] = tokens[:, :-back]
        if documents is not None:
            crosses = documents[:, back:] != documents[:, :-back]
            earlier[:, back:].masked_fill_(crosses, -1)
        mixed = mixed * 0x9E3779B1 + (earlier + 2) * 0x85EBCA77
        mixed = mixed ^ (mixed >> 17)
    return (mixed * 0x9E3779B1 + order).bitwise_right_shift(7) % n_rows
