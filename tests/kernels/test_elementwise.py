"""The pointwise kernels equal the readable functions, and their backward passes are the true gradients."""

import pytest
import torch

from groundup.kernels import elementwise
from groundup.model import functional as F


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize(
    "kernel, reference, n_inputs",
    [
        (elementwise.relu2, F.relu2, 1),
        (elementwise.swiglu, lambda gate, up: F.silu(gate) * up, 2),
        (elementwise.rms_norm, F.rms_norm, 1),
        (lambda x: elementwise.rms_norm(x, 0.5), lambda x: F.rms_norm(x, None, 0.5), 1),
    ],
    ids=["relu2", "swiglu", "rms_norm", "rms_norm with a large eps"],
)
def test_values_and_gradients(kernel, reference, n_inputs):
    inputs = [randn(3, 4, 5, seed=i) for i in range(n_inputs)]
    torch.testing.assert_close(kernel(*inputs), reference(*inputs))
    assert torch.autograd.gradcheck(kernel, inputs)


def test_the_norm_of_zeros_is_zero_with_a_finite_gradient():
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    y = elementwise.rms_norm(x)
    y.sum().backward()
    assert not y.any() and torch.isfinite(x.grad).all()
