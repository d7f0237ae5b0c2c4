"""The gated delta rule: chunks equal steps, documents and states stand apart, and the account knows its sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as torch_f

from groundup.model.linear_mixer import causal_convolution, delta_rule, delta_rule_recurrent, unit


def inputs(t: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Queries, keys, values, log decays and betas of 2 rows and 3 heads."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, t, 3, width, generator=generator, dtype=dtype) for width in (5, 5, 4))
    decay, beta = (torch.randn(2, t, 3, generator=generator, dtype=dtype) for _ in range(2))
    return [unit(q), unit(k), v, -torch_f.softplus(decay), beta.sigmoid()]


def owners(lengths: list[int]) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None].expand(2, -1).int()


@settings(max_examples=12)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5), chunk=st.integers(1, 40), seed=st.integers(0, 99))
def test_chunks_are_the_recurrence(lengths, chunk, seed):
    parts, documents = inputs(sum(lengths), seed), owners(lengths)
    o, state = delta_rule(*parts, documents, keep=True, chunk=chunk)
    expected, last = delta_rule_recurrent(*parts, documents)
    torch.testing.assert_close(o, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)


def test_documents_in_a_row_are_as_if_alone():
    lengths = [3, 70, 1, 20]
    parts = inputs(sum(lengths))
    alone = [delta_rule_recurrent(*(x[:, a : a + n] for x in parts))[0] for a, n in zip([0, 3, 73, 74], lengths, strict=True)]
    torch.testing.assert_close(delta_rule(*parts, owners(lengths))[0], torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)


def test_a_text_in_pieces_is_the_whole_text():
    parts = inputs(100)
    whole, last = delta_rule(*parts, keep=True)
    first, state = delta_rule(*(x[:, :37] for x in parts), keep=True)
    second, state = delta_rule(*(x[:, 37:] for x in parts), None, state, keep=True)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)


def test_a_state_is_of_the_first_document():
    parts, documents, state = inputs(20), owners([8, 12]), torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    o, _ = delta_rule(*parts, documents, state, chunk=6)
    torch.testing.assert_close(o, delta_rule_recurrent(*parts, documents, state)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(o[:, 8:], delta_rule(*(x[:, 8:] for x in parts))[0], atol=1e-5, rtol=1e-5)


def test_gradients_of_the_chunks_are_true():
    parts = [x.requires_grad_() for x in inputs(9, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *given: delta_rule(*given, owners([4, 5]), chunk=3)[0], parts, fast_mode=True)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_the_convolution_is_torchs(width):
    x, weight = torch.randn(2, 9, 3), torch.randn(3, width)
    expected = torch_f.conv1d(x.transpose(1, 2), weight[:, None], padding=width - 1, groups=3)[..., :9].transpose(1, 2)
    nothing = x.new_zeros(2, width - 1, 3)
    torch.testing.assert_close(causal_convolution(x, weight, nothing), expected)
    packed = causal_convolution(x, weight, nothing, owners([4, 5]))
    torch.testing.assert_close(packed[:, :4], expected[:, :4])
    torch.testing.assert_close(packed[:, 4:], causal_convolution(x[:, 4:], weight, nothing))


def test_gradients_of_the_convolution_are_true():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in ((2, 7, 3), (3, 4), (2, 3, 3))]
    for documents in (None, torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 2, 2, 2]])):
        assert torch.autograd.gradcheck(lambda *given, d=documents: causal_convolution(*given, d), parts)
