"""The neural probabilistic language model (Bengio, Ducharme, Vincent & Jauvin 2003, JMLR 3): words as vectors, learned with the model.

    y = b + W x + U tanh(d + H x),   x = (C(w_{t-1}), ..., C(w_{t-n+1})),   P(w_t | context) = softmax(y)

C is a table of V vectors of m features, h the hidden units, n the order; W, the direct connections, may be left out (W = 0).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.history.network import SYMBOLS, State, spread_
from groundup.kernels.embedding import lookup
from groundup.model.functional import linear


def contexts(symbols: Int[Tensor, "b t"], before: Int[Tensor, "b p"]) -> Int[Tensor, "b t n1"]:
    """The n - 1 symbols that predict what follows each position: itself first, then those before it; ``before`` holds n - 2 of them."""
    seen = torch.cat((before, symbols), dim=1)
    return seen.unfold(1, before.shape[1] + 1, 1).flip(-1)


class Bengio(nn.Module):
    """The equation above. ``read`` gives what the head multiplies: (tanh(d + H x), x) with direct connections, else tanh(d + H x).

    Parameters: V (1 + n m + h) + h (1 + (n - 1) m) with direct connections (section 2 of the paper), and one row of C more for what
    stands before a text; without them V (1 + m + h) + h (1 + (n - 1) m).
    """

    carries = True

    def __init__(self, width: int, seed: int = 0, *, order: int = 8, n_features: int = 24, direct: bool = True, vocab_size: int = SYMBOLS):
        """``width`` is h, ``order`` n, ``n_features`` m."""
        super().__init__()
        self.width, self.order, self.n_features, self.direct, self.vocab_size = width, order, n_features, direct, vocab_size
        n_inputs = (order - 1) * n_features
        self.features = nn.Parameter(torch.empty(vocab_size + 1, n_features))
        self.hidden = nn.Parameter(torch.empty(width, n_inputs))
        self.hidden_bias = nn.Parameter(torch.zeros(width))
        self.head = nn.Parameter(torch.zeros(vocab_size, width + (n_inputs if direct else 0)))
        self.head_bias = nn.Parameter(torch.zeros(vocab_size))
        generator = torch.Generator().manual_seed(seed)
        spread_(self.features, 1.0, generator)
        spread_(self.hidden, 1 / math.sqrt(n_inputs), generator)
        spread_(self.head.data[:, :width], 0.1 / math.sqrt(width), generator)  # W begins at zero: the hidden layer speaks first

    def begin(self, n_rows: int) -> State:
        """Nothing but starts stands before a text."""
        return (torch.full((n_rows, self.order - 2), self.vocab_size),)

    def read(self, symbols: Int[Tensor, "b t"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        """What the head multiplies at every position, and the last n - 2 symbols."""
        x = lookup(self.features, contexts(symbols, state[0])).flatten(2)
        inner = torch.tanh(linear(x, self.hidden, self.hidden_bias))
        after = torch.cat((state[0], symbols), dim=1)[:, -(self.order - 2) :] if self.order > 2 else state[0]
        return torch.cat((inner, x), dim=-1) if self.direct else inner, (after,)

    def forward_flops(self, n_rows: int, n_steps: int) -> int:
        """Matrix products: 2 (h (n - 1) m + V h), and 2 V (n - 1) m for the direct connections, a symbol."""
        return 2 * n_rows * n_steps * (self.hidden.numel() + self.head.numel())
