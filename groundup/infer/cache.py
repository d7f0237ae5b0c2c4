"""The key-value cache: what mixers computed once, kept, so that a new token costs one position and not the whole context."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundup.config import Attention, LatentAttention, LinearMixer, ModelConfig

FIRST_CAPACITY = 64  # positions held at first; then it doubles, so that n tokens cost O(n) copying in all


class KVCache:
    """Keys and values of every layer: B * S * sum over layers of 2 K E numbers for S positions.

    Latent attention keeps a latent and a rotary key, C + R numbers, and a layer with a sliding window no more than twice its window, or
    what the last pass read: what has left it is dropped once that fills the memory, so that n tokens still cost O(n) copying.

    A linear mixer keeps its state, of the same size whatever the length.

    One forward pass calls ``append`` (or ``keep_state``) once a layer; the caller then calls ``advance`` with the tokens of that pass.

    Args:
        config: the model whose keys and values these are.
        batch_size: rows; all are equally long.
        dtype: of the keys and values: the model's compute_dtype.
        device: where the model runs.
    """

    length: int
    """Positions read, the same in every row."""
    recent: Int[Tensor, "b p"]
    """The last tokens read, as many as hashed n-grams look back on."""

    def __init__(self, config: ModelConfig, batch_size: int, dtype: torch.dtype, device: torch.device) -> None:
        shapes = [_shapes(layer.mixer) for layer in config.layers]
        self._keys = [torch.empty((batch_size, 0, *of_key), dtype=dtype, device=device) for of_key, _ in shapes]
        self._values = [torch.empty((batch_size, 0, *of_value), dtype=dtype, device=device) for _, of_value in shapes]
        self._look_back = max(config.hash_embedding.orders, default=1) - 1 if config.hash_embedding else 0
        self._no_tokens = torch.empty(batch_size, 0, dtype=torch.int64, device=device)
        self._seen = [_seen(layer.mixer) for layer in config.layers]
        self.clear()

    def clear(self) -> None:
        """Forgets every position and keeps the memory."""
        self.length, self.recent = 0, self._no_tokens
        self._first = [0] * len(self._keys)  # position of each layer's first column
        self._states: dict[int, tuple[Tensor, ...]] = {}

    def append(
        self, layer: int, k: Float[Tensor, "b t k e"], v: Float[Tensor, "b t k f"]
    ) -> tuple[Float[Tensor, "b s k e"], Float[Tensor, "b s k f"]]:
        """Stores a layer's new keys and values after those held, and gives views of the last s that its t queries see, all s = length + t
        without a window."""
        seen, new = self._seen[layer], k.shape[1]
        held = self.length - self._first[layer]
        needed = held if seen is None else min(held, seen)
        if held + new > self._keys[layer].shape[1]:
            self._keep(layer, held, needed, needed + new)
            held = needed
        for store, values in ((self._keys[layer], k), (self._values[layer], v)):
            store[:, held : held + new] = values
        columns = slice(held - needed, held + new)
        return self._keys[layer][:, columns], self._values[layer][:, columns]

    def state(self, layer: int) -> tuple[Tensor, ...] | None:
        """What a linear mixer kept after the ``length`` positions read; None before the first."""
        return self._states.get(layer)

    def keep_state(self, layer: int, state: tuple[Tensor, ...]) -> None:
        """Replaces a linear mixer's state by that after this pass."""
        self._states[layer] = state

    def advance(self, tokens: Int[Tensor, "b t"]) -> None:
        """Counts the tokens whose keys and values every layer has appended."""
        self.length += tokens.shape[1]
        if self._look_back:
            self.recent = torch.cat((self.recent, tokens), dim=1)[:, -self._look_back :]

    def _keep(self, layer: int, held: int, needed: int, least: int) -> None:
        """Moves the last ``needed`` of the columns held to the front, into as much memory as ``least`` columns and the next ones need."""
        for stores in (self._keys, self._values):
            old = stores[layer]
            capacity = old.shape[1]
            if least > capacity or needed > capacity // 2:
                capacity = max(least, 2 * capacity, FIRST_CAPACITY)
            else:  # a long pass may have left more memory than a window asks for
                capacity = max(least, 2 * needed, FIRST_CAPACITY)
            new = old.new_empty(old.shape[0], capacity, *old.shape[2:])
            new[:, :needed] = old[:, held - needed : held]
            stores[layer] = new
        self._first[layer] += held - needed


def _shapes(mixer: Attention | LatentAttention | LinearMixer) -> tuple[tuple[int, int], tuple[int, int]]:
    """Heads and width of what a position leaves as key and as value."""
    if isinstance(mixer, LatentAttention):
        return (1, mixer.kv_rank), (1, mixer.rotary_dim)
    if isinstance(mixer, LinearMixer):
        return (0, 0), (0, 0)
    return ((mixer.n_kv_heads, mixer.head_dim),) * 2


def _seen(mixer: Attention | LatentAttention | LinearMixer) -> int | None:
    """Earlier positions that a query sees, and with offset keys the one before them; None for all."""
    if not isinstance(mixer, Attention) or mixer.window is None:
        return None
    return mixer.window - 1 + mixer.key_offset
