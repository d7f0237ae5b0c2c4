"""The key-value cache: what attention computed once, kept, so that a new token costs one position and not the whole context."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.config import ModelConfig

FIRST_CAPACITY = 64  # positions held at first; then it doubles, so that n tokens cost O(n) copying in all


class KVCache:
    """Keys and values of every layer: 2 * B * S * sum over layers of (K * E) numbers for S positions.

    One forward pass calls ``append`` once a layer; the caller then calls ``advance`` with the tokens of that pass. A layer with a
    sliding window keeps everything too: its mask hides what is out of sight.

    Args:
        config: the model whose keys and values these are.
        batch_size: rows; all are equally long.
        dtype: of the keys and values: the model's compute_dtype.
        device: where the model runs.
    """

    length: int
    """Positions held, the same in every row."""
    recent: Int[Tensor, "b p"]
    """The last tokens held, as many as hashed n-grams look back on."""

    def __init__(self, config: ModelConfig, batch_size: int, dtype: torch.dtype, device: torch.device) -> None:
        shapes = [(batch_size, 0, layer.mixer.n_kv_heads, layer.mixer.head_dim) for layer in config.layers]
        self._keys = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self._values = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self._look_back = max(config.hash_embedding.orders, default=1) - 1 if config.hash_embedding else 0
        self._no_tokens = torch.empty(batch_size, 0, dtype=torch.int64, device=device)
        self.clear()

    def clear(self) -> None:
        """Forgets every position and keeps the memory."""
        self.length, self.recent = 0, self._no_tokens

    def append(
        self, layer: int, k: Float[Tensor, "b t k e"], v: Float[Tensor, "b t k e"]
    ) -> tuple[Float[Tensor, "b s k e"], Float[Tensor, "b s k e"]]:
        """Stores a layer's new keys and values after the ``length`` positions held, and gives all s = length + t of them, as views."""
        end = self.length + k.shape[1]
        if end > self._keys[layer].shape[1]:
            self._keys[layer] = self._grown(self._keys[layer], end)
            self._values[layer] = self._grown(self._values[layer], end)
        self._keys[layer][:, self.length : end] = k
        self._values[layer][:, self.length : end] = v
        return self._keys[layer][:, :end], self._values[layer][:, :end]

    def advance(self, tokens: Int[Tensor, "b t"]) -> None:
        """Counts the tokens whose keys and values every layer has appended."""
        self.length += tokens.shape[1]
        if self._look_back:
            self.recent = torch.cat((self.recent, tokens), dim=1)[:, -self._look_back :]

    def _grown(self, old: Tensor, least: int) -> Tensor:
        batch, capacity, heads, dim = old.shape
        new = old.new_empty(batch, max(least, 2 * capacity, FIRST_CAPACITY), heads, dim)
        new[:, : self.length] = old[:, : self.length]
        return new
