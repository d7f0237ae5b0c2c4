"""Recurrent networks: Elman's (1990), the LSTM, and attention over an LSTM's own past, as functions of tensors.

What does not wait for the step before is one product over all steps; a step is one product and a few operations in place; and the
backward pass is written by hand, because autograd would keep and visit every one of those operations.
Shapes: T steps, B rows, D hidden units, S remembered states. Time comes first, so that a step is one contiguous block.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.history.network import START, SYMBOLS, State, spread_
from groundup.kernels.embedding import lookup
from groundup.model.functional import linear


class _Elman(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, h):
        first, transposed = h, weight.T
        states = torch.empty_like(inputs)
        for t, x in enumerate(inputs):
            torch.addmm(x, h, transposed, out=states[t])
            h = states[t].tanh_()
        ctx.save_for_backward(states, weight, first)
        return states

    @staticmethod
    def backward(ctx, d_states):
        states, weight, first = ctx.saved_tensors
        d_inputs = 1 - states.square()  # the slopes, each multiplied by what reaches it
        d_h = d_states[-1].contiguous()
        for t in range(len(states) - 1, -1, -1):
            d_inputs[t].mul_(d_h)
            d_h = torch.addmm(d_states[t - 1], d_inputs[t], weight) if t else d_inputs[0] @ weight
        before = torch.cat((first[None], states[:-1]))
        return d_inputs, d_inputs.flatten(0, 1).T @ before.flatten(0, 1), d_h


def elman(inputs: Float[Tensor, "t b d"], weight: Float[Tensor, "d d"], h: Float[Tensor, "b d"]) -> Float[Tensor, "t b d"]:
    """h_t = tanh(inputs_t + U h_{t-1}), the states of all steps (Elman 1990); ``inputs`` hold W x_t + b, ``h`` is the state before."""
    return _Elman.apply(inputs, weight, h)


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, weight, h, c):
        n_steps, n_rows, width = inputs.shape[0], inputs.shape[1], h.shape[1]
        transposed = weight.T
        gates = torch.empty_like(inputs)
        cells = torch.empty(n_steps + 1, n_rows, width)
        states = torch.empty(n_steps + 1, n_rows, width)
        tanh_cells = torch.empty(n_steps, n_rows, width)
        states[0], cells[0] = h, c
        for t, x in enumerate(inputs):
            gate = torch.addmm(x, states[t], transposed, out=gates[t])
            gate[:, : 3 * width].sigmoid_()
            gate[:, 3 * width :].tanh_()
            o, i, f, g = gate.split(width, dim=1)
            torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
            torch.mul(o, torch.tanh(cells[t + 1], out=tanh_cells[t]), out=states[t + 1])
        ctx.save_for_backward(gates, cells, states, tanh_cells, weight)
        return states[1:], cells[-1]

    @staticmethod
    def backward(ctx, d_states, d_cell):
        gates, cells, states, tanh_cells, weight = ctx.saved_tensors
        n_steps, _, width = tanh_cells.shape
        o, i, f, g = gates.split(width, dim=2)
        # all that does not depend on what comes back: the slope of the state by its cell, and of each gate's input by state or cell
        by_cell = o * (1 - tanh_cells.square())
        d_gates = torch.empty_like(gates)
        slopes = d_gates.unflatten(2, (4, width))
        slopes[:, :, 0] = tanh_cells * o * (1 - o)
        slopes[:, :, 1] = g * i * (1 - i)
        slopes[:, :, 2] = cells[:-1] * f * (1 - f)
        slopes[:, :, 3] = i * (1 - g.square())
        d_h = d_states[-1].contiguous()
        d_c = d_cell.clone()
        for t in range(n_steps - 1, -1, -1):
            d_c.addcmul_(d_h, by_cell[t])
            slopes[t, :, 0].mul_(d_h)
            slopes[t, :, 1:].mul_(d_c[:, None])
            d_c.mul_(f[t])
            d_h = torch.addmm(d_states[t - 1], d_gates[t], weight) if t else d_gates[0] @ weight
        return d_gates, d_gates.flatten(0, 1).T @ states[:-1].flatten(0, 1), d_h, d_c


def lstm(
    inputs: Float[Tensor, "t b d4"], weight: Float[Tensor, "d4 d"], h: Float[Tensor, "b d"], c: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "t b d"], Float[Tensor, "b d"]]:
    """States of all steps and the last cell (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    (o, i, f, g)_t = inputs_t + U h_{t-1}, side by side in this order;  c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g);
    h_t = sigmoid(o) tanh(c_t). ``inputs`` hold W x_t + b of all four; ``h`` and ``c`` are those before the first step.
    """
    return _LSTM.apply(inputs, weight, h, c)


def attend(
    states: Float[Tensor, "b t d"], past: Float[Tensor, "b s d"], queries: Float[Tensor, "b t d"], n_past: int, reach: int
) -> Float[Tensor, "b t d"]:
    """sum_s softmax_s(q_t . h_s / sqrt(D)) h_s over the ``reach`` states strictly before each position; zero where there are none.

    ``past`` are the states before these, of which only the last ``n_past`` are real. The form is "general" of Luong et al. (2015,
    section 3.1), over the network's own past instead of a source sentence, with the root of Vaswani et al. (2017).
    """
    memory = torch.cat((past, states), dim=1)
    t, s = states.shape[1], past.shape[1]
    scores = queries @ memory.transpose(1, 2) / math.sqrt(states.shape[2])
    places, now = torch.arange(s + t)[None, :], torch.arange(s, s + t)[:, None]
    seen = (places < now) & (places >= now - reach) & (places >= s - n_past)
    weights = torch.softmax(scores.masked_fill(~seen, -1e30), dim=-1)
    return torch.where(seen.any(1)[:, None], weights, 0.0) @ memory


class _Recurrent(nn.Module, ABC):
    """Input table, recurrence, head: what the three networks here share.

    The symbols are one-hot vectors, as in Elman (1990), so W x_t is a row of a table and takes no product.
    """

    carries = True

    def __init__(self, width: int, n_gates: int, seed: int):
        super().__init__()
        self.width = width
        self.inputs = nn.Parameter(torch.empty(START + 1, n_gates * width))
        self.recurrent = nn.Parameter(torch.empty(n_gates * width, width))
        self.bias = nn.Parameter(torch.zeros(n_gates * width))
        self.head = nn.Parameter(torch.empty(SYMBOLS, width))
        self.head_bias = nn.Parameter(torch.zeros(SYMBOLS))
        generator = torch.Generator().manual_seed(seed)
        spread_(self.inputs, 0.5, generator)
        spread_(self.recurrent, 1 / math.sqrt(width), generator)
        spread_(self.head, 1 / math.sqrt(width), generator)

    def read(self, symbols: Int[Tensor, "b t"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        """Hidden states of every position, and what is carried to the next symbols."""
        return self._recur(lookup(self.inputs, symbols.T.contiguous()) + self.bias, state)

    @abstractmethod
    def _recur(self, inputs: Float[Tensor, "t b g"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        """Hidden states and state after inputs of every gate."""


class Elman(_Recurrent):
    """h_t = tanh(W s_t + U h_{t-1} + b); p = softmax(V h_t + d) (Elman 1990)."""

    def __init__(self, width: int, seed: int = 0):
        super().__init__(width, 1, seed)

    def begin(self, n_rows: int) -> State:
        """No state yet."""
        return (torch.zeros(n_rows, self.width),)

    def _recur(self, inputs: Float[Tensor, "t b g"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        states = elman(inputs, self.recurrent, state[0])
        return states.transpose(0, 1), (states[-1],)

    def forward_flops(self, n_rows: int, n_steps: int) -> int:
        """Matrix products of ``read`` and the head: 2 D^2 + 2 * 256 D a symbol."""
        return _forward_flops(self.width, 1, n_rows * n_steps)


class LSTM(_Recurrent):
    """An LSTM with forget gates, and a softmax (see ``lstm``); forget gates begin open (Jozefowicz 2015)."""

    def __init__(self, width: int, seed: int = 0):
        super().__init__(width, 4, seed)
        self.bias.data[2 * width : 3 * width] = 1.0

    def begin(self, n_rows: int) -> State:
        """Neither state nor cell yet."""
        return torch.zeros(n_rows, self.width), torch.zeros(n_rows, self.width)

    def _recur(self, inputs: Float[Tensor, "t b g"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        states, cell = lstm(inputs, self.recurrent, *state[:2])
        return states.transpose(0, 1), (states[-1], cell)

    def forward_flops(self, n_rows: int, n_steps: int) -> int:
        """Matrix products of ``read`` and the head: 8 D^2 + 2 * 256 D a symbol."""
        return _forward_flops(self.width, 4, n_rows * n_steps)


class AttentiveLSTM(LSTM):
    """An LSTM that looks back: tanh(W_c [context; h_t]), the context being ``attend`` over its own last states.

    After Bahdanau et al. (2015) and Luong et al. (2015), who looked at a source sentence; over a language model's own past: Cheng et
    al. (2016), Daniluk et al. (2017).
    """

    def __init__(self, width: int, seed: int = 0, reach: int = 128):
        super().__init__(width, seed)
        self.reach = reach
        self.query = nn.Parameter(torch.empty(width, width))
        self.combine = nn.Parameter(torch.empty(width, 2 * width))
        generator = torch.Generator().manual_seed(seed + 1)
        spread_(self.query, 1 / math.sqrt(width), generator)
        spread_(self.combine, 1 / math.sqrt(2 * width), generator)

    def begin(self, n_rows: int) -> State:
        """Neither state nor cell, and nothing to look back at."""
        return *super().begin(n_rows), torch.zeros(n_rows, 0, self.width)

    def _recur(self, inputs: Float[Tensor, "t b g"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        states, after = super()._recur(inputs, state)
        past = state[2]
        context = attend(states, past, linear(states, self.query), past.shape[1], self.reach)
        out = torch.tanh(linear(torch.cat((context, states), dim=-1), self.combine))
        return out, (*after, torch.cat((past, states), dim=1)[:, -self.reach :])

    def forward_flops(self, n_rows: int, n_steps: int) -> int:
        """The LSTM's, 2 D^2 + 4 D^2 a symbol for query and combination, and 4 D for each pair of a position and a state it sees."""
        symbols, pairs = n_rows * n_steps, n_rows * n_steps * self.reach
        return super().forward_flops(n_rows, n_steps) + 6 * self.width**2 * symbols + 4 * self.width * pairs


def _forward_flops(width: int, n_gates: int, symbols: int) -> int:
    return (2 * n_gates * width**2 + 2 * SYMBOLS * width) * symbols
