"""Elman and LSTM against PyTorch's own, outputs and every gradient; attention by hand."""

import pytest
import torch
from torch import nn

from groundup.history.recurrent import LSTM, AttentiveLSTM, Elman, attend, elman, lstm

T, B, D = 7, 3, 5


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same_with_gradients(ours, theirs, leaves: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Equal outputs, and equal gradients of the same random projection of them, by pairs of leaves."""
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for outs in (ours, theirs):
        sum((out * randn(*out.shape, seed=7 + i)).sum() for i, out in enumerate(outs)).backward()
    for name, (a, b) in leaves.items():
        torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_elman_is_torch_rnn():
    theirs = nn.RNN(D, D)
    x, h = randn(T, B, D).requires_grad_(), randn(1, B, D, seed=1).requires_grad_()
    x2, h2, u = (t.detach().clone().requires_grad_() for t in (x, h[0], theirs.weight_hh_l0))
    bias = (theirs.bias_ih_l0 + theirs.bias_hh_l0).detach()
    ours = elman(x2 @ theirs.weight_ih_l0.detach().T + bias, u, h2)
    expected, _ = theirs(x, h)
    same_with_gradients((ours,), (expected,), {"x": (x2, x), "U": (u, theirs.weight_hh_l0)})
    torch.testing.assert_close(h2.grad, h.grad[0], atol=1e-5, rtol=1e-5)


def reordered(weight: torch.Tensor) -> torch.Tensor:
    """PyTorch's gates i, f, g, o in our order o, i, f, g."""
    i, f, g, o = weight.chunk(4)
    return torch.cat((o, i, f, g))


def test_lstm_is_torch_lstm():
    theirs = nn.LSTM(D, D)
    x, h, c = randn(T, B, D).requires_grad_(), randn(1, B, D, seed=1).requires_grad_(), randn(1, B, D, seed=2).requires_grad_()
    x2, h2, c2 = (t.detach().clone().requires_grad_() for t in (x, h[0], c[0]))
    u = reordered(theirs.weight_hh_l0.detach()).clone().requires_grad_()
    bias = reordered((theirs.bias_ih_l0 + theirs.bias_hh_l0).detach())
    states, cell = lstm(x2 @ reordered(theirs.weight_ih_l0.detach()).T + bias, u, h2, c2)
    expected, (_, cells) = theirs(x, (h, c))
    same_with_gradients((states, cell), (expected, cells[0]), {"x": (x2, x)})
    torch.testing.assert_close(u.grad, reordered(theirs.weight_hh_l0.grad), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(h2.grad, h.grad[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(c2.grad, c.grad[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Elman, LSTM, lambda width: AttentiveLSTM(width, reach=4)], ids=["elman", "lstm", "attentive"])
def test_a_text_may_be_read_in_pieces(kind):
    network = kind(6)
    symbols = torch.randint(257, (2, 11), generator=torch.Generator().manual_seed(0))
    whole, _ = network.read(symbols, network.begin(2))
    first, state = network.read(symbols[:, :4], network.begin(2))
    parts = [first]
    for t in range(4, 11):
        hidden, state = network.read(symbols[:, t : t + 1], state)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


def test_attention_sees_the_last_states_before_it():
    states, past, queries = randn(1, 3, D), randn(1, 4, D, seed=1), randn(1, 3, D, seed=2)
    found = attend(states, past, queries, 2, 3)
    memory = torch.cat((past, states), 1)[0]
    for t, seen in enumerate([[2, 3], [2, 3, 4], [3, 4, 5]]):  # two of the past are real; three back are in reach
        weights = torch.softmax(memory[seen] @ queries[0, t] / D**0.5, 0)
        torch.testing.assert_close(found[0, t], weights @ memory[seen])
    assert attend(states, past[:, :0], queries, 0, 3)[0, 0].abs().max() == 0


def test_parameters_and_flops_by_hand():
    d = 6
    assert sum(p.numel() for p in LSTM(d).parameters()) == 257 * 4 * d + 4 * d * d + 4 * d + 256 * d + 256
    assert sum(p.numel() for p in Elman(d).parameters()) == 257 * d + d * d + d + 256 * d + 256
    assert LSTM(d).forward_flops(2, 5) == 10 * (2 * 4 * d * d + 2 * 256 * d)
    assert AttentiveLSTM(d, reach=3).forward_flops(1, 1) == LSTM(d).forward_flops(1, 1) + 2 * d * d + 2 * 2 * d * d + 3 * 4 * d
