"""The attention kernels equal the readable reference, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.kernels.attention import BACKENDS, BLOCK, blocked_attention, choose_backend
from groundup.model.functional import attention_reference


def inputs(t: int, heads: int, kv: int, seed: int, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, t, n, 4, generator=generator, dtype=dtype).requires_grad_() for n in (heads, kv, kv)]


def packed(t: int, seed: int) -> torch.Tensor:
    """Documents of random lengths in two rows."""
    return (torch.rand(2, t, generator=torch.Generator().manual_seed(seed)) < 0.05).int().cumsum(1).int()


@pytest.mark.parametrize("name", ["blocked", "sdpa"])  # triton: see test_triton_attention.py
@given(
    t=st.sampled_from([1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5]),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (3, 1)]),
    window=st.sampled_from([None, 1, 7, BLOCK, BLOCK + 9, 1000]),
    documents=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=25)
def test_values_and_gradients_are_the_references(name, t, heads, window, documents, seed):
    q, k, v = inputs(t, *heads, seed)
    owners = packed(t, seed) if documents else None
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=q.dtype)
    ours = BACKENDS[name](q, k, v, owners, window)
    reference = attention_reference(q, k, v, owners, window)
    torch.testing.assert_close(ours, reference, atol=1e-10, rtol=1e-8)
    gradients = [torch.autograd.grad(out, (q, k, v), upstream) for out in (ours, reference)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def test_gradients_of_the_blocked_kernel_are_true(monkeypatch):
    monkeypatch.setattr("groundup.kernels.attention.BLOCK", 2)  # several blocks in five positions
    q, k, v = inputs(5, 2, 1, 0)
    documents = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]])
    for window, owners in ((None, None), (2, documents)):
        assert torch.autograd.gradcheck(lambda *a, w=window, d=owners: blocked_attention(*a, d, w), (q, k, v))


@given(
    t=st.sampled_from([1, BLOCK, BLOCK + 5]),
    heads=st.sampled_from([(4, 4), (4, 2)]),
    window=st.sampled_from([None, 9]),
    cap=st.sampled_from([None, 0.7]),
    scale=st.sampled_from([None, 2.0]),
    with_sinks=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=15)
def test_caps_sinks_scales_and_values_of_another_width_are_the_references(t, heads, window, cap, scale, with_sinks, seed):
    q, k, _ = inputs(t, *heads, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    v = torch.randn(2, t, heads[1], 3, generator=generator, dtype=q.dtype).requires_grad_()
    sinks = torch.randn(heads[0], generator=generator, dtype=q.dtype).requires_grad_() if with_sinks else None
    upstream = torch.randn(2, t, heads[0], 3, generator=generator, dtype=q.dtype)
    asked = (q, k, v) if sinks is None else (q, k, v, sinks)
    made = [f(q, k, v, packed(t, seed), window, scale=scale, cap=cap, sinks=sinks) for f in (blocked_attention, attention_reference)]
    torch.testing.assert_close(*made, atol=1e-10, rtol=1e-8)
    for ours, reference in zip(*(torch.autograd.grad(out, asked, upstream) for out in made), strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-10, rtol=1e-8)


def test_values_are_accurate_in_fp32():
    q, k, v = (a.detach().float() for a in inputs(100, 4, 2, 0))
    exact = attention_reference(q.double(), k.double(), v.double())
    torch.testing.assert_close(blocked_attention(q, k, v).double(), exact, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_choice_of_a_backend_comes_with_its_reason(device):
    name, why = choose_backend(torch.device(device))
    assert name in BACKENDS and why
