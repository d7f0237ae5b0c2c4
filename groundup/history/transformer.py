"""Two transformers, side by side so that the difference is what one reads: the decoder of 2017, without what reads a source, and GPT-2.

2017 (Vaswani et al.): norms after each sum, sinusoidal positions added to embeddings scaled by the root of the width, ReLU in the MLP.
GPT-2 (Radford et al. 2019): norms before each branch and one at the end, learned positions, GELU, biases everywhere, outputs of branches
that begin smaller the deeper the network. Both use one matrix for embedding and head. Dropout and label smoothing are left out: they
fight the learning by heart of many epochs, and here is less than one.
Shapes: B batch, T query length, S key length, D width, H heads, E = D / H, L layers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.history.network import SYMBOLS, State, spread_
from groundup.kernels.attention import blocked_attention
from groundup.kernels.embedding import lookup
from groundup.model.functional import attention_reference, gelu, layer_norm, linear

Past = tuple[Tensor, Tensor] | None
"""Keys and values of the positions before, or none."""


def sinusoids(start: int, stop: int, width: int) -> Float[Tensor, "t d"]:
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D)) (Vaswani et al. 2017, section 3.5)."""
    angles = torch.arange(start, stop)[:, None] * 10_000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class _Layer(nn.Module):
    """Weights of attention, of an MLP four times as wide, and of two norms."""

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

    def attend(self, joint: Float[Tensor, "b t d3"], past: Past) -> tuple[Float[Tensor, "b t d"], Tensor, Tensor]:
        """Causal attention of all heads, of queries, keys and values side by side; and the keys and values of all positions so far."""
        q, k, v = joint.unflatten(-1, (3 * self.n_heads, -1)).chunk(3, dim=2)
        if past is None:
            attended = blocked_attention(q, k, v)
        else:
            k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
            attended = attention_reference(q, k, v)
        return attended.flatten(2), k, v


class PostNormLayer(_Layer):
    """LayerNorm(x + attention(x)), then LayerNorm(x + W_2 max(0, W_1 x + b_1) + b_2) (sections 3.1 to 3.3)."""

    def forward(self, x: Float[Tensor, "b t d"], past: Past = None) -> tuple[Float[Tensor, "b t d"], Tensor, Tensor]:
        """The layer's output, and the keys and values of all positions up to the last."""
        attended, k, v = self.attend(linear(x, self.joint), past)
        x = layer_norm(x + linear(attended, self.output), self.gains[0], self.biases[0])
        inner = torch.relu(linear(x, self.up, self.up_bias))
        return layer_norm(x + linear(inner, self.down, self.down_bias), self.gains[1], self.biases[1]), k, v


class PreNormLayer(_Layer):
    """x + attention(LayerNorm(x)), then x + W_2 gelu(W_1 LayerNorm(x) + b_1) + b_2 (Radford et al. 2019, section 2.3)."""

    def __init__(self, width: int, n_heads: int, generator: torch.Generator):
        super().__init__(width, n_heads, generator)
        self.joint_bias, self.output_bias = nn.Parameter(torch.zeros(3 * width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b t d"], past: Past = None) -> tuple[Float[Tensor, "b t d"], Tensor, Tensor]:
        """The layer's output, and the keys and values of all positions up to the last."""
        normed = layer_norm(x, self.gains[0], self.biases[0])
        attended, k, v = self.attend(linear(normed, self.joint, self.joint_bias), past)
        x = x + linear(attended, self.output, self.output_bias)
        normed = layer_norm(x, self.gains[1], self.biases[1])
        return x + linear(gelu(linear(normed, self.up, self.up_bias)), self.down, self.down_bias), k, v


class _Transformer(nn.Module, ABC):
    """Embedding, layers, and the embedding once more as the head."""

    carries = False
    layer: type[PostNormLayer] | type[PreNormLayer]

    def __init__(self, width: int, n_layers: int, context_length: int, embedding_std: float, seed: int):
        super().__init__()
        self.width, self.context_length = width, context_length
        self.head = nn.Parameter(torch.empty(SYMBOLS, width))
        self.start = nn.Parameter(torch.empty(1, width))
        self.head_bias: Tensor | None = None
        generator = torch.Generator().manual_seed(seed)
        for table in (self.head, self.start):
            spread_(table, embedding_std, generator)
        self.layers = nn.ModuleList(self.layer(width, max(2, width // 64), generator) for _ in range(n_layers))

    def begin(self, n_rows: int) -> State:
        """No keys and values yet."""
        return ()

    @abstractmethod
    def embed(self, symbols: Int[Tensor, "b t"], first: int) -> Float[Tensor, "b t d"]:
        """Vectors of symbols at the positions from ``first`` on."""

    def read(self, symbols: Int[Tensor, "b t"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        """The last layer's output at every position, and every layer's keys and values."""
        x = self.embed(symbols, state[0].shape[1] if state else 0)
        after: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, (state[2 * i], state[2 * i + 1]) if state else None)
            after += (k, v)
        return x, tuple(after)

    def forward_flops(self, n_rows: int, n_steps: int) -> int:
        """Matrix products: 24 L D^2 + 2 * 256 D a symbol, and 4 L D for each pair of a position and one that it sees."""
        symbols, pairs = n_rows * n_steps, n_rows * n_steps * (n_steps + 1) // 2
        products = len(self.layers) * 24 * self.width**2 + 2 * SYMBOLS * self.width
        return products * symbols + 4 * len(self.layers) * self.width * pairs


class Transformer2017(_Transformer):
    """p = softmax(E x_L), x_0 = sqrt(D) E[s] + PE, x_l by ``PostNormLayer``."""

    layer = PostNormLayer

    def __init__(self, width: int, seed: int = 0, *, n_layers: int = 2, context_length: int = 128):
        super().__init__(width, n_layers, context_length, width**-0.5, seed)

    def embed(self, symbols: Int[Tensor, "b t"], first: int) -> Float[Tensor, "b t d"]:
        """sqrt(D) E[s] + PE."""
        vectors = lookup(torch.cat((self.head, self.start)), symbols)
        return vectors * math.sqrt(self.width) + sinusoids(first, first + symbols.shape[1], self.width)


class GPT2(_Transformer):
    """p = softmax(E LayerNorm(x_L)), x_0 = E[s] + P[position], x_l by ``PreNormLayer``."""

    layer = PreNormLayer

    def __init__(self, width: int, seed: int = 0, *, n_layers: int = 2, context_length: int = 128):
        super().__init__(width, n_layers, context_length, 0.02, seed)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.final_gain, self.final_bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        spread_(self.positions, 0.01, torch.Generator().manual_seed(seed + 1))
        with torch.no_grad():
            for layer in self.layers:
                for weight in (layer.output, layer.down):
                    weight /= math.sqrt(2 * n_layers)

    def embed(self, symbols: Int[Tensor, "b t"], first: int) -> Float[Tensor, "b t d"]:
        """E[s] + P[position]."""
        return lookup(torch.cat((self.head, self.start)), symbols) + self.positions[first : first + symbols.shape[1]]

    def read(self, symbols: Int[Tensor, "b t"], state: State) -> tuple[Float[Tensor, "b t d"], State]:
        """The normed output at every position, and every layer's keys and values."""
        x, after = super().read(symbols, state)
        return layer_norm(x, self.final_gain, self.final_bias), after
