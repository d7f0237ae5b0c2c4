"""The one decoder as a network over bytes: GPT-2, Llama and groundup's own recipe are three configurations of it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.account import cost
from groundup.account.workload import Training
from groundup.config import ModelConfig
from groundup.history.network import SYMBOLS, State
from groundup.infer.cache import KVCache
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize


class ByteDecoder(nn.Module):
    """A ``Decoder`` over the 257 symbols, of whose logits the last, the start's, is left out."""

    carries = False

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config, self.width, self.context_length = config, config.d_model, config.context_length
        self.decoder = initialize(Decoder(config), seed)

    @property
    def head(self) -> Tensor:
        """[256, D]."""
        return self.decoder.head_weight[:SYMBOLS]

    @property
    def head_bias(self) -> Tensor | None:
        """[256], or none."""
        return None if self.decoder.head_bias is None else self.decoder.head_bias[:SYMBOLS]

    def begin(self, n_rows: int) -> KVCache:
        """An empty cache."""
        return KVCache(self.config, n_rows, torch.float32, torch.device("cpu"))

    def read(self, symbols: Int[Tensor, "b t"], state: State | KVCache) -> tuple[Float[Tensor, "b t d"], State | KVCache]:
        """The final hidden states of every position; a cache goes on where it stands and is moved, () begins anew."""
        if not isinstance(state, KVCache):
            return self.decoder.hidden(symbols), state
        hidden = self.decoder.hidden(symbols, cache=state)
        state.advance(symbols)
        return hidden, state

    def forward_flops(self, n_rows: int, n_steps: int) -> int:
        """As ``account.cost`` counts them."""
        return n_rows * cost(self.config, Training(n_steps)).tree.forward_flops
