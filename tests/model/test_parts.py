"""A norm on a processor gives what its plain function gives, in every type and with every gain."""

import itertools

import pytest
import torch

from groundup.config import Norm
from groundup.model import functional as F
from groundup.model.parts import NormLayer

GAINS = [Norm(weight=w, plus_one=p, wide_gain=g) for w, p, g in itertools.product((True, False), repeat=3) if w or not p]


@pytest.mark.parametrize("config", GAINS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_norm_keeps_the_type_and_rounds_where_it_is_asked_to(config, dtype):
    generator = torch.Generator().manual_seed(0)
    layer, x = NormLayer(config, 64), (3 * torch.randn(5, 64, generator=generator)).to(dtype)
    if layer.weight is not None:
        torch.nn.init.normal_(layer.weight, std=0.3, generator=generator)
    found, expected = layer(x), F.norm(x, config, layer.weight)
    assert found.dtype == expected.dtype == dtype
    if dtype == torch.bfloat16:  # rounded once or twice, and to the same side but where the statistics' own rounding decides
        assert (found == expected).float().mean() > 0.98
    torch.testing.assert_close(found, expected)
