"""The equation of Bengio et al. (2003) by hand, and its closed forms."""

import pytest
import torch

from groundup.history.bengio import Bengio, contexts


@pytest.mark.parametrize("direct", [True, False])
def test_the_equation_by_hand(direct):
    order, m, h, vocab = 4, 3, 5, 7
    network = Bengio(h, order=order, n_features=m, direct=direct, vocab_size=vocab)
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.data.copy_(torch.randn(p.shape, generator=generator))
    symbols = torch.tensor([[2, 0, 6, 1]])
    hidden, _ = network.read(symbols, network.begin(1))
    logits = hidden @ network.head.T + network.head_bias
    text = [vocab] * (order - 2) + symbols[0].tolist()
    for t in range(4):
        x = torch.cat([network.features[text[order - 2 + t - k]] for k in range(order - 1)])
        u, w = network.head[:, :h], network.head[:, h:]
        expected = network.head_bias + u @ torch.tanh(network.hidden_bias + network.hidden @ x)
        expected = expected + w @ x if direct else expected
        torch.testing.assert_close(logits[0, t], expected)


def test_parameters_and_flops_are_the_papers():
    """|V| (1 + n m + h) + h (1 + (n - 1) m) free parameters (section 2), and one row of C for what is before a text."""
    n, m, h, vocab = 6, 30, 50, 256
    network = Bengio(h, order=n, n_features=m)
    assert sum(p.numel() for p in network.parameters()) == vocab * (1 + n * m + h) + h * (1 + (n - 1) * m) + m
    assert network.forward_flops(2, 3) == 2 * 6 * (vocab * ((n - 1) * m + h) + h * (n - 1) * m)
    without = Bengio(h, order=n, n_features=m, direct=False)
    assert sum(p.numel() for p in without.parameters()) == vocab * (1 + m + h) + h * (1 + (n - 1) * m) + m


def test_contexts_reach_back_and_into_what_was_before():
    found = contexts(torch.tensor([[1, 2, 3]]), torch.tensor([[8, 9]]))
    assert found.tolist() == [[[1, 9, 8], [2, 1, 9], [3, 2, 1]]]


def test_a_text_may_be_read_in_pieces():
    network = Bengio(8, order=5, n_features=4)
    symbols = torch.arange(10)[None]
    whole, _ = network.read(symbols, network.begin(1))
    first, state = network.read(symbols[:, :2], network.begin(1))
    second, _ = network.read(symbols[:, 2:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
