"""Newton-Schulz against the singular value decomposition, and the Polar Express polynomials against the paper's table."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.optim.orthogonal import JORDAN, _iterate, _iterate_gram, _minimax_quintic, orthogonalize, polar_express


def matrices(n, rows, cols, seed=0, smallest=1e-2):
    """Random singular vectors, singular values spread evenly in the logarithm from ``smallest`` to 1."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(n, rows, cols, generator=generator), full_matrices=False)
    return u * torch.logspace(math.log10(smallest), 0, min(rows, cols)) @ vh


def evaluate(quintic, x):
    a, b, c = quintic
    return a * x + b * x**3 + c * x**5


def polar_factor(x):
    u, _, vh = torch.linalg.svd(x.double(), full_matrices=False)
    return (u @ vh).to(x.dtype)


def test_polar_express_is_the_published_table():
    """Amsel et al. 2025, section 4.4: lower bound 1e-3, before the safety factor of 1.01."""
    published = [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
        (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
        (3.3184196573706015, -2.488488024314874, 0.51004894012372),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    ]
    for ours, theirs in zip(polar_express(5), published, strict=True):
        assert [k * 1.01**power for k, power in zip(ours, (1, 3, 5), strict=True)] == pytest.approx(theirs, rel=1e-9)


@settings(max_examples=25)
@given(lower=st.floats(0.01, 0.99), upper=st.floats(1.0, 2.0))
def test_minimax_quintic_has_four_equal_alternating_errors(lower, upper):
    quintic = _minimax_quintic(lower, upper)
    xs = torch.linspace(lower, upper, 2_001, dtype=torch.float64)
    errors = evaluate(quintic, xs) - 1
    at_ends = errors[0].item(), errors[-1].item()
    assert at_ends[0] < 0 < at_ends[1] and at_ends[0] == pytest.approx(-at_ends[1], abs=1e-9)
    assert errors.abs().max().item() == pytest.approx(at_ends[1], rel=1e-3)
    inner = errors[1:-1]
    assert inner.argmax() < inner.argmin() and -inner.min().item() == pytest.approx(at_ends[1], rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 24, 40), (2, 40, 24), (2, 16, 64), (2, 64, 16), (1, 1, 8)])
def test_singular_values_come_near_one(shape):
    def extremes(quintics, smallest):
        values = torch.linalg.svdvals(orthogonalize(matrices(*shape, smallest=smallest), quintics))
        return values.min().item(), values.max().item()

    low, high = extremes(polar_express(5), 1e-2)
    assert low > 0.86 and high < 1.13
    low, high = extremes(polar_express(6), 1e-2)
    assert low > 0.98 and high < 1.01
    low, high = extremes((JORDAN,) * 5, 5e-2)
    assert low > 0.65 and high < 1.25


@settings(max_examples=25)
@given(n=st.integers(1, 3), rows=st.integers(1, 20), cols=st.integers(1, 20), seed=st.integers(0, 1000))
def test_more_steps_reach_the_polar_factor(n, rows, cols, seed):
    x = matrices(n, rows, cols, seed)
    result = orthogonalize(x, polar_express(8))
    # 1.01 is the safety factor: the composition's fixed point is the polynomial of 1/1.01
    torch.testing.assert_close(result, polar_factor(x), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("steps, lower", [(5, 1e-3), (4, 4e-3), (3, 1.7e-2)])
def test_a_composition_keeps_its_bound_from_its_lower_end_on(steps, lower):
    x = torch.logspace(math.log10(lower * 1.01), 0, 10_001, dtype=torch.float64)
    for quintic in polar_express(steps, lower):
        x = evaluate(quintic, x)
    assert (x - 1).abs().max() < 0.16


def test_both_iterations_agree():
    x = matrices(2, 16, 64, smallest=1e-3)
    exact = _iterate(x.double(), x.double() @ x.double().mT, polar_express(5)).float()
    for iterate in (_iterate, _iterate_gram):
        torch.testing.assert_close(iterate(x, x @ x.mT, polar_express(5)), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 8, 32)])
def test_size_does_not_matter_and_zero_stays_zero(shape):
    x = matrices(*shape)
    for size in (1e-12, 1e6):
        torch.testing.assert_close(orthogonalize(x * size, polar_express(5)), orthogonalize(x, polar_express(5)), rtol=1e-3, atol=1e-3)
    assert (orthogonalize(torch.zeros(shape), polar_express(5)) == 0).all()


@pytest.mark.parametrize("shape", [(2, 12, 12), (2, 8, 40)])
def test_low_rank_matrices_stay_bounded(shape):
    n, rows, cols = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, rows, 2, generator=generator) @ torch.randn(n, 2, cols, generator=generator)
    assert torch.linalg.svdvals(orthogonalize(x, polar_express(5))).max() < 1.15


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bf16 Newton-Schulz runs on a GPU only")
def test_bf16_on_a_gpu_comes_near_one():
    values = torch.linalg.svdvals(orthogonalize(matrices(4, 256, 1024).cuda(), polar_express(5)))
    assert values.min() > 0.8 and values.max() < 1.2
