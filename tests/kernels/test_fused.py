"""The compiled loops equal the plain layers, forward and backward, and notice numbers that are not finite."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.config import Rotary
from groundup.kernels import fused, native
from groundup.kernels.attention import BLOCK
from groundup.model import functional as F
from groundup.model.positions import rotary_tables


def packed(t: int, seed: int) -> torch.Tensor:
    """Documents of random lengths in two rows."""
    return (torch.rand(2, t, generator=torch.Generator().manual_seed(seed)) < 0.1).int().cumsum(1).int()


def plain_attention(x, rotary, documents, n_heads, n_kv, window, offset_keys):
    heads = x.unflatten(-1, (n_heads + 2 * n_kv, -1))
    q, k, v = heads.split([n_heads, n_kv, n_kv], dim=2)
    q, k = (F.rotate(F.rms_norm(a), *rotary) for a in (q, k))
    return F.attention_reference(q, F.offset_keys(k, documents) if offset_keys else k, v, documents, window)


@given(
    t=st.sampled_from([1, 2, BLOCK, BLOCK + 1, 2 * BLOCK + 5]),
    shape=st.sampled_from([(1, 1, 4), (3, 3, 32), (4, 2, 8), (4, 1, 12)]),
    window=st.sampled_from([None, 1, 7, BLOCK + 9]),
    documents=st.booleans(),
    offset_keys=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=40)
def test_attention_is_norm_rotation_offset_and_the_reference(t, shape, window, documents, offset_keys, seed):
    n_heads, n_kv, dim = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, t, (n_heads + 2 * n_kv) * dim, generator=generator).requires_grad_()
    owners, rotary = packed(t, seed) if documents else None, rotary_tables(torch.arange(t), dim, Rotary(10_000.0))
    sizes = {"n_heads": n_heads, "n_kv_heads": n_kv, "eps": 1e-6}
    ours = fused.attention(x, rotary, owners, window=window, offset_keys=offset_keys, **sizes)
    exact = x.detach().double().requires_grad_()
    reference = plain_attention(exact, rotary, owners, n_heads, n_kv, window, offset_keys)
    torch.testing.assert_close(ours.double(), reference, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(ours.shape, generator=generator)
    (gradient,), (wanted,) = torch.autograd.grad(ours, x, upstream), torch.autograd.grad(reference, exact, upstream.double())
    torch.testing.assert_close(gradient.double(), wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-3)


def test_rms_norm_is_the_plain_one():
    x = torch.randn(3, 5, 96, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upstream = torch.randn(3, 5, 96, generator=torch.Generator().manual_seed(1))
    ours, plain = fused.rms_norm(x, 1e-6), F.rms_norm(x, None, 1e-6)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, x, upstream), torch.autograd.grad(plain, x, upstream))


@pytest.mark.parametrize("scale", [0.1, 4.0, 30.0])
def test_exponentials_are_those_of_float64(scale):
    logits = scale * torch.randn(50, 777, generator=torch.Generator().manual_seed(0))
    exact = torch.exp(logits.double() - logits.double().amax(1, keepdim=True))
    ours = logits.clone()
    peaks, totals = fused.exp_rows(ours)
    assert torch.equal(peaks[:, 0], logits.amax(1))
    torch.testing.assert_close(totals.double(), exact.sum(1, keepdim=True), atol=0, rtol=1e-6)
    torch.testing.assert_close(ours.double(), exact, atol=1e-36, rtol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 5, 76])
def test_a_row_that_is_nan_or_infinity_says_so(bad, column):
    logits = torch.randn(3, 77)
    logits[1, column] = bad
    _, totals = fused.exp_rows(logits)
    assert totals.isfinite()[:, 0].tolist() == [True, False, True]


def test_rows_shared_out_over_threads_are_the_same(monkeypatch):
    logits = torch.randn(101, 64, generator=torch.Generator().manual_seed(0))
    alone, shared = logits.clone(), logits.clone()
    wanted = fused.exp_rows(alone)
    monkeypatch.setattr(native, "ROWS_WORK", 64)
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    torch.testing.assert_close(fused.exp_rows(shared), wanted, atol=0, rtol=0)
    assert torch.equal(shared, alone)


def test_an_error_on_another_thread_is_not_lost(monkeypatch):
    def kernel(start: int, stop: int, out: np.ndarray) -> None:
        if start > 0:
            raise ZeroDivisionError

    monkeypatch.setattr(native, "ROWS_WORK", 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        native.split_rows(kernel, 10, 1, np.zeros(1))
