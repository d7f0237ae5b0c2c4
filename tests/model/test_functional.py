"""Every layer function equals its peer in torch, and its gradient is the true one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as torch_f

from groundup.config import Norm, Rotary
from groundup.model import functional as F
from groundup.model.positions import rotary_tables


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a, b, tolerance: float = 1e-6):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bias", [False, True])
def test_linear(bias):
    x, weight, b = randn(2, 3, 5), randn(4, 5, seed=1), randn(4, seed=2) if bias else None
    close(F.linear(x, weight, b), torch_f.linear(x, weight, b))


def test_linear_runs_in_the_precision_of_its_input():
    assert F.linear(randn(2, 4).bfloat16(), randn(3, 4).float(), randn(3).float()).dtype == torch.bfloat16


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_rms_norm(weighted, eps):
    x, weight = randn(2, 3, 8), randn(8, seed=1) if weighted else None
    close(F.rms_norm(x, weight, eps), torch_f.rms_norm(x, (8,), weight, eps))
    close(F.norm(x, Norm(eps=eps), weight), torch_f.rms_norm(x, (8,), weight, eps))


@pytest.mark.parametrize("weighted", [False, True])
def test_layer_norm(weighted):
    x, weight, bias = randn(2, 3, 8), randn(8, seed=1) if weighted else None, randn(8, seed=2) if weighted else None
    close(F.layer_norm(x, weight, bias, 1e-5), torch_f.layer_norm(x, (8,), weight, bias, 1e-5))
    close(F.norm(x, Norm("layer", eps=1e-5), weight, bias), torch_f.layer_norm(x, (8,), weight, bias, 1e-5))


def test_norms_keep_their_statistics_in_fp32():
    x = (300 * randn(2, 64)).to(torch.float16)  # the squares overflow fp16
    close(F.rms_norm(x).float(), torch_f.rms_norm(x.float(), (64,), eps=1e-6), 2e-3)
    close(F.layer_norm(x).float(), torch_f.layer_norm(x.float(), (64,)), 2e-3)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (F.silu, torch_f.silu),
        (F.gelu, lambda x: torch_f.gelu(x, approximate="tanh")),
        (F.relu2, lambda x: torch_f.relu(x) ** 2),
        (lambda x: F.softcap(x, 3.0), lambda x: 3 * torch.tanh(x / 3)),
    ],
    ids=["silu", "gelu", "relu2", "softcap"],
)
def test_activations_and_their_gradients(ours, theirs):
    x = (3 * randn(40)).requires_grad_()
    close(ours(x), theirs(x))
    assert torch.autograd.gradcheck(ours, x)


def test_rotation_by_hand():
    """Pair (x_i, x_{i + E/2}) as a complex number is multiplied by e^(i position theta^(-2i/E))."""
    x, positions = randn(1, 5, 2, 6), torch.tensor([0, 1, 2, 7, 100])
    turned = F.rotate(x, *rotary_tables(positions, 6, Rotary(50.0)))
    numbers = torch.complex(x[..., :3], x[..., 3:])
    angles = positions.double()[:, None] * 50.0 ** (-torch.arange(3).double() / 3)
    expected = numbers * torch.polar(torch.ones_like(angles), angles)[None, :, None]
    close(turned, torch.cat((expected.real, expected.imag), -1))


@given(shift=st.integers(0, 1000), gap=st.integers(0, 50))
@settings(max_examples=20)
def test_a_rotated_product_depends_on_the_distance_only(shift, gap):
    q, k = randn(1, 1, 1, 8), randn(1, 1, 1, 8, seed=1)
    tables = [rotary_tables(torch.tensor([p]), 8, Rotary(100.0)) for p in (gap, 0, shift + gap, shift)]
    near, far = ((F.rotate(q, *a) * F.rotate(k, *b)).sum() for a, b in (tables[:2], tables[2:]))
    close(near, far, 1e-5)


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_attention_is_torchs(n_kv_heads, window, packed):
    q, k, v = randn(2, 9, 4, 6), randn(2, 9, n_kv_heads, 6, seed=1), randn(2, 9, n_kv_heads, 6, seed=2)
    documents = torch.tensor([[0] * 4 + [1] * 5, [0] + [1] * 2 + [2] * 6]) if packed else None
    i = torch.arange(9)
    mask = (i[None] <= i[:, None]) & (i[:, None] - i[None] < (window or 9))
    if documents is not None:
        mask = mask & (documents[:, :, None] == documents[:, None, :])[:, None]
    theirs = torch_f.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)), attn_mask=mask, enable_gqa=True).transpose(1, 2)
    close(F.attention_reference(q, k, v, documents, window), theirs)


def test_the_last_queries_alone_give_what_they_give_among_all():
    q, k, v = randn(2, 9, 4, 6), randn(2, 9, 2, 6, seed=1), randn(2, 9, 2, 6, seed=2)
    documents = torch.tensor([[0] * 4 + [1] * 5] * 2)
    whole = F.attention_reference(q, k, v, documents, 5)
    close(F.attention_reference(q[:, 6:], k, v, documents, 5), whole[:, 6:])


def test_attention_takes_a_scale_of_its_own():
    q, k, v = randn(1, 4, 2, 6), randn(1, 4, 2, 6, seed=1), randn(1, 4, 2, 6, seed=2)
    close(F.attention_reference(q, k, v, scale=0.5), F.attention_reference(q * 0.5 * math.sqrt(6), k, v))


def test_gradients_of_the_parametrized_layers():
    x, w, b = randn(2, 3, 4).requires_grad_(), randn(4, seed=1).requires_grad_(), randn(4, seed=2).requires_grad_()
    weight = randn(5, 4, seed=3).requires_grad_()
    tables = rotary_tables(torch.arange(3), 4, Rotary(10.0))
    assert torch.autograd.gradcheck(lambda x, w: F.linear(x, w), (x, weight))
    assert torch.autograd.gradcheck(F.rms_norm, (x, w))
    assert torch.autograd.gradcheck(F.layer_norm, (x, w, b))
    assert torch.autograd.gradcheck(lambda x: F.rotate(x[:, :, None], *tables), x)


@pytest.mark.parametrize("window", [None, 2])
def test_gradients_of_attention(window):
    q, k, v = (randn(2, 4, heads, 2, seed=heads).requires_grad_() for heads in (4, 2, 1))
    documents = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    assert torch.autograd.gradcheck(lambda q, k: F.attention_reference(q, k, k, documents, window), (q, k))
    assert torch.autograd.gradcheck(lambda q, v: F.attention_reference(q, v, v, None, window), (q, v))


def test_nats_of_targets_are_torchs_cross_entropy_and_ignored_ones_cost_nothing():
    logits, targets = randn(6, 5), torch.tensor([0, 4, -1, 2, -1, 1])
    theirs = torch_f.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    close(F.mixture_nll_reference(logits, targets).double(), theirs)


@given(seed=st.integers(0, 1000), n_experts=st.integers(1, 4))
@settings(max_examples=20)
def test_the_mixture_is_a_distribution(seed, n_experts):
    """Over all targets, probabilities sum to one: the gate mixes distributions, whatever it says."""
    v = 5
    logits, gate = randn(1, v, seed=seed).expand(v, v), 3 * randn(1, n_experts + 1, seed=seed + 1).expand(v, -1)
    experts = torch.log_softmax(2 * randn(n_experts, v, seed=seed + 2), 1).T
    nats = F.mixture_nll_reference(logits, torch.arange(v), gate, experts)
    close(torch.exp(-nats).sum().double(), torch.tensor(1.0, dtype=torch.float64))


def test_the_mixture_by_hand():
    logits, targets = randn(3, 4), torch.tensor([2, 0, -1])
    gate, log_p = randn(3, 3, seed=1), torch.log(torch.tensor([[0.5, 0.1], [0.2, 0.9], [1.0, 1.0]]))
    g = gate.softmax(1)
    p = g[:, 0] * logits.softmax(1)[torch.arange(3), targets] + g[:, 1] * log_p[:, 0].exp() + g[:, 2] * log_p[:, 1].exp()
    expected = torch.where(targets >= 0, -p.log(), 0.0)
    close(F.mixture_nll_reference(logits, targets, gate, log_p).double(), expected, 1e-6)
