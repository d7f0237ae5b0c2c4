"""The logarithm of the compiled loops against numpy's."""

import numpy as np
from numba import njit

from groundup.kernels.native import natural_log


@njit
def logs(xs, out):
    for i in range(xs.shape[0]):
        out[i] = natural_log(xs[i])


def test_natural_log_over_all_scales_and_near_one() -> None:
    generator = np.random.default_rng(0)
    everywhere, near_one = np.exp(generator.uniform(-85, 85, 10_000)), generator.uniform(0.5, 2, 10_000)
    xs = np.concatenate([everywhere, np.arange(1, 3000), near_one]).astype(np.float32)
    out = np.empty_like(xs)
    logs(xs, out)
    np.testing.assert_allclose(out, np.log(xs.astype(np.float64)), rtol=3e-7, atol=2e-8)
