"""The transformer of 2017 as a language model: the decoder of "Attention Is All You Need" (Vaswani et al.) without what reads a source.

Norms after each sum, sinusoidal positions added to embeddings scaled by the root of the width, ReLU in the MLP, one matrix for embedding
and head. Dropout and label smoothing are left out: they fight the learning by heart of many epochs, and here is less than one.
Shapes: B batch, T query length, S key length, D width, H heads, E = D / H.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.history.network import SYMBOLS, State, spread_
from groundup.kernels.attention import blocked_attention
from groundup.kernels.embedding import lookup
from groundup.model.functional import attention_reference, layer_norm, linear


def sinusoids(start: int, stop: int, width: int) -> Float[Tensor, "t d"]:
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D)) (section 3.5)."""
    angles = torch.arange(start, stop)[:, None] * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class PostNormLayer(nn.Module):
    """LayerNorm(x + attention(x)), then LayerNorm(x + W_2 max(0, W_1 x + b_1) + b_2) (sections 3.1 to 3.3)."""

    def __init__(self, width: int, n_heads: int, generator: torch.Generator):
        super().__init__()
        self.n_heads = n_heads
        self.joint = nn.Parameter(torch.empty(3 * width, width))
        self.output = nn.Parameter(torch.empty(width, width))
        self.up, self.up_bias = nn.Parameter(torch.empty(4 * width, width)), nn.Parameter(torch.zeros(4 * width))
        self.down, self.down_bias = nn.Parameter(torch.empty(width, 4 * width)), nn.Parameter(torch.zeros(width))
        self.gains, self.biases = nn.Parameter(torch.ones(2, width)), nn.Parameter(torch.zeros(2, width))
        for weight in (self.joint, self.output, self.up, self.down):
            spread_(weight, math.sqrt(2 / sum(weight.shape)), generator)  # Glorot & Bengio 2010

    def forward(
        self, x: Float[Tensor, "b t d"], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b s h e"], Float[Tensor, "b s h e"]]:
        """The layer's output, and the keys and values of all positions up to the last."""
        q, k, v = linear(x, self.joint).unflatten(-1, (3 * self.n_heads, -1)).chunk(3, dim=2)
        if past is None:
            attended = blocked_attention(q, k, v)
        else:
            k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
            attended = attention_reference(q, k, v)
        x = layer_norm(x + linear(attended.flatten(2), self.output), self.gains[0], self.biases[0])
        inner = torch.relu(linear(x, self.up, self.up_bias))
        return layer_norm(x + linear(inner, self.down, self.down_bias), self.gains[1], self.biases[1]), k, v


class Transformer2017(nn.Module):
    """p = softmax(E x_L + b), x_0 = sqrt(D) E[s] + PE, x_l the layers' (see the module); head_dim 64, or two heads below that width."""

    carries = False

    def __init__(self, width: int, seed: int = 0, *, n_layers: int = 2, context_length: int = 128):
        super().__init__()
        self.width, self.context_length = width, context_length
        self.head = nn.Parameter(torch.empty(SYMBOLS, width))
        self.start = nn.Parameter(torch.empty(1, width))
        self.head_bias = nn.Parameter(torch.zeros(SYMBOLS))
        generator = torch.Generator().manual_seed(seed)
        for table in (self.head, self.start):
            spread_(table, width**-0.5, generator)
        self.layers = nn.ModuleList(PostNormLayer(width, max(2, width // 64), generator) for _ in range(n_layers))

    def begin(self, n_rows: int) -> State:
        """No keys and values yet."""
        return ()

    def read(self, symbols: Int[Tensor, "b t"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        """The last layer's output at every position, and every layer's keys and values."""
        first = state[0].shape[1] if state else 0
        table = torch.cat((self.head, self.start))
        x = lookup(table, symbols) * math.sqrt(self.width) + sinusoids(first, first + symbols.shape[1], self.width)
        after: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, (state[2 * i], state[2 * i + 1]) if state else None)
            after += (k, v)
        return x, tuple(after)

    def forward_flops(self, n_rows: int, n_steps: int) -> int:
        """Matrix products: L (24 D^2) + 2 * 256 D a symbol, and 4 L D for each pair of a position and one that it sees."""
        symbols, pairs = n_rows * n_steps, n_rows * n_steps * (n_steps + 1) // 2
        products = len(self.layers) * 24 * self.width**2 + 2 * SYMBOLS * self.width
        return products * symbols + 4 * len(self.layers) * self.width * pairs
