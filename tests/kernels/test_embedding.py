"""Lookups and their gradients; and the rows of hashed n-grams, which are the same wherever the n-gram stands."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as torch_f

from groundup.kernels.embedding import lookup, ngram_rows


@pytest.mark.parametrize("sparse", [False, True])
def test_lookup_is_torchs_embedding(sparse):
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(9, 4, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    rows = torch.tensor([[0, 3, 3], [8, 0, 3]])
    upstream = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    a, b = lookup(ours, rows, sparse=sparse), torch_f.embedding(rows, theirs)
    torch.testing.assert_close(a, b, atol=0, rtol=0)
    a.backward(upstream)
    b.backward(upstream)
    assert ours.grad.is_sparse == sparse
    torch.testing.assert_close(ours.grad.to_dense(), theirs.grad)
    if sparse:
        assert ours.grad.coalesce().indices().tolist() == [[0, 3, 8]]


def test_the_gradient_of_a_lookup_is_true():
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: lookup(t, torch.tensor([[0, 1, 1, 4]])), table)


def test_two_sparse_gradients_add_up():
    table = torch.zeros(6, 2, requires_grad=True)
    (lookup(table, torch.tensor([1, 2]), sparse=True).sum() + 2 * lookup(table, torch.tensor([2, 5]), sparse=True).sum()).backward()
    assert table.grad.to_dense()[:, 0].tolist() == [0, 1, 3, 0, 0, 2]


tokens_and_cuts = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12)


@given(row=tokens_and_cuts, order=st.integers(1, 4), n_rows=st.sampled_from([7, 1 << 20]))
def test_a_row_depends_on_the_ngram_in_its_document_and_on_nothing_else(row, order, n_rows):
    tokens = torch.tensor([[token for token, _ in row]])
    documents = torch.tensor([[cut for _, cut in row]]).int().cumsum(1)
    rows = ngram_rows(tokens, documents, order, n_rows)
    assert ((rows >= 0) & (rows < n_rows)).all()
    for i in range(len(row)):
        begin = max(i - order + 1, int((documents[0] == documents[0, i]).nonzero()[0]))
        alone = ngram_rows(tokens[:, begin : i + 1], None, order, n_rows)
        assert rows[0, i] == alone[0, -1]


def test_different_ngrams_rarely_share_a_row():
    pairs = torch.cartesian_prod(torch.arange(100), torch.arange(100))
    rows = ngram_rows(pairs, None, 2, 1 << 24)[:, 1]
    assert len(rows.unique()) > 9_950  # 10,000 draws from 16.8 million collide 3 times on average


def test_rows_fill_the_table_evenly():
    pairs = torch.cartesian_prod(torch.arange(128), torch.arange(128))
    counts = torch.bincount(ngram_rows(pairs, None, 2, 64)[:, 1], minlength=64).double()
    expected = len(pairs) / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 150  # chi-squared, 63 degrees of freedom: mean 63, deviation 11


def test_orders_have_rows_of_their_own():
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    assert (ngram_rows(tokens, None, 2, 1 << 20) != ngram_rows(tokens, None, 3, 1 << 20)).all()
