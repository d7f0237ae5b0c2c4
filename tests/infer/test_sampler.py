"""The sampler against its definitions, and against transformers' warpers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from groundup.errors import GroundupError, UsageError
from groundup.infer.sampler import check_settings, draw, probabilities

rows = st.integers(0, 2**31).map(lambda seed: torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 3)
temperatures = st.floats(0.05, 5)


@settings(max_examples=50)
@given(logits=rows, temperature=temperatures, top_k=st.none() | st.integers(1, 60), top_p=st.none() | st.floats(0.01, 0.99))
def test_probabilities_equal_transformers_warpers(logits, temperature, top_k, top_p):
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    expected = TopKLogitsWarper(top_k)(None, expected) if top_k else expected
    expected = TopPLogitsWarper(top_p)(None, expected) if top_p else expected
    found = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    torch.testing.assert_close(found, torch.softmax(expected, dim=-1), atol=1e-6, rtol=1e-5)


@given(logits=rows, temperature=st.sampled_from([0.0, 1e-300, 1e-40, 1e-6]))
def test_a_temperature_of_zero_is_greedy(logits, temperature):
    p = probabilities(logits, temperature=temperature)
    assert p.argmax(-1).tolist() == logits.argmax(-1).tolist()
    assert p.amax(-1).tolist() == p.sum(-1).tolist() == [1, 1, 1]


@given(logits=rows, top_p=st.floats(0.001, 1))
def test_top_p_keeps_the_fewest_tokens_that_hold_p(logits, top_p):
    before = torch.softmax(logits, -1)
    for full, kept in zip(before, probabilities(logits, top_p=top_p) > 0, strict=True):
        held = full[kept].sum()
        assert held >= top_p - 1e-5
        assert held - full[kept].min() < top_p + 1e-5


@given(logits=rows, uniform=st.floats(0, 1, exclude_max=True), top_k=st.integers(1, 50))
def test_draw_inverts_the_cumulative_distribution(logits, uniform, top_k):
    p = probabilities(logits, top_k=top_k)
    for row, token in zip(p.double(), draw(p, torch.full((3,), uniform, dtype=torch.float64)).tolist(), strict=True):
        assert row[token] > 0
        total = row.sum()
        assert row[:token].sum() / total <= uniform + 1e-12
        assert uniform < row[: token + 1].sum() / total + 1e-12


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_draw_never_gives_a_token_of_probability_zero(uniform):
    p = torch.tensor([[0.0, 0.1, 0.2, 0.7, 0.0, 0.0]])
    assert draw(p, torch.tensor([uniform], dtype=torch.float64)).tolist() == [1 if uniform == 0 else 3]


def test_even_draws_give_each_token_its_share():
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    n = 4096
    drawn = draw(p.expand(n, 4), (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    assert drawn.bincount(minlength=4).tolist() == [n // 2, n // 4, n // 8, n // 8]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_logits_are_an_error(bad, temperature):
    with pytest.raises(GroundupError, match="not finite"):
        probabilities(torch.tensor([[0.0, bad, 1.0]]), temperature=temperature)


@pytest.mark.parametrize("wrong", [(-1.0, None, None), (math.nan, None, None), (1.0, 0, None), (1.0, None, 0.0), (1.0, None, 1.5)])
def test_settings_that_make_no_sense_are_named(wrong):
    with pytest.raises(UsageError, match=r"temperature|top_k|top_p"):
        check_settings(*wrong)
