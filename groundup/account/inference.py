"""What it costs to answer: FLOPs, bytes and seconds of prefill and decoding, and the key-value cache between them.

Decoding reads every weight once a step, whatever the batch (of experts, those that some token chose), and each sequence's cache; so a
step's time is, for the weights and for the caches apart, the larger of FLOPs / peak and bytes / bandwidth (the roofline of Williams et al.
2009; Pope et al. 2022, section 3).

Symbols: B sequences, T prompt tokens, S keys that a query meets, H heads, K kv heads, E head_dim, L layers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from groundup.account.component import Component
from groundup.account.cost import Cost, cost
from groundup.account.devices import Device
from groundup.account.tree import forward_pass
from groundup.account.workload import Inference
from groundup.config import Attention, ModelConfig
from groundup.errors import UsageError

HeldAs = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4"]
"""Types that weights and caches are held in; scales that go with the small ones are not counted."""
HELD_BYTES: dict[str, float] = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "int4": 0.5}
"""Bytes of a number in each."""


def cache_bytes(config: ModelConfig, tokens: int, number_bytes: float = 2.0) -> float:
    """Bytes of one sequence's cache: for each layer and token 2 K E numbers, C + R of latent attention, of no more tokens than a window.

    A linear mixer's state has its size whatever the tokens.
    """
    return forward_pass(config, 1, tokens - 1).cached_numbers * number_bytes


def longest_sequence(config: ModelConfig, spare_bytes: float, number_bytes: float = 2.0) -> int | None:
    """Tokens of one sequence whose cache fits into so many bytes; None where the cache stops growing and fits at any length."""
    windows = [layer.mixer.window for layer in config.layers if isinstance(layer.mixer, Attention) and layer.mixer.window is not None]
    straight = max(windows, default=1)  # from here on every token adds as much
    held, grown = (cache_bytes(config, tokens, number_bytes) for tokens in (straight, straight + 1))
    if held > spare_bytes:
        return bisect_right(range(1, straight), spare_bytes, key=lambda tokens: cache_bytes(config, tokens, number_bytes))
    return None if grown == held else straight + int((spare_bytes - held) // (grown - held))


@dataclass(frozen=True)
class Serving:
    """Inference on a device: memory, and the roofline's seconds, which no kernel beats and good ones come near."""

    config: ModelConfig
    """The model."""
    requests: Inference
    """What it answers, and in which types it is held."""
    device: Device
    """One device, or several as one (``Cluster.as_one``)."""
    precision: str = "bf16"
    """In which it multiplies."""

    @cached_property
    def cost(self) -> Cost:
        """The count that all of it is a sum over."""
        return cost(self.config, self.requests)

    @cached_property
    def weights_bytes(self) -> float:
        """Bytes of all weights."""
        return self.cost.parameters * self.requests.weight_bytes

    def read_bytes(self, tokens: float) -> float:
        """Bytes of weights that so many tokens at once read: all but lookup tables, of which each takes a row.

        Of X experts of which each token chooses A, X (1 - (1 - A/X)^tokens) are read on average where all are as likely.
        """
        tied = self.config.vocab_size * self.config.d_model if self.config.tied else 0  # the embedding is the head's matrix too
        read = float(tied)
        for _, part in self.cost.tree.walk():
            some, of = part.own_active
            read += sum(w.numbers for w in part.weights if w.kind != "table") * (1 - (1 - some / of) ** tokens)
        return read * self.requests.weight_bytes

    @property
    def caches_bytes(self) -> float:
        """Bytes of all caches when every sequence has its full length."""
        return self.requests.batch_size * cache_bytes(self.config, self.requests.length, self.requests.cache_bytes)

    @property
    def memory_bytes(self) -> float:
        """Weights and caches; activations of one token are nothing beside them."""
        return self.weights_bytes + self.caches_bytes

    @property
    def largest_batch(self) -> int:
        """Sequences of full length whose caches fit beside the weights; 0 where the weights do not fit."""
        spare = self.device.memory_bytes - self.weights_bytes
        return max(0, int(spare // cache_bytes(self.config, self.requests.length, self.requests.cache_bytes)))

    @property
    def compute_bound_batch(self) -> float:
        """B from which on products with weights take longer to compute than their weights to read: peak x bytes / (bandwidth x FLOPs).

        About all experts are read by then.
        """
        return self._peak * self.read_bytes(math.inf) / (self._bandwidth * _weight_flops(self.cost.decoding(1)))

    @property
    def seconds_to_first_token(self) -> float:
        """Prefill of the batch: compute against one reading of the weights."""
        n = self.requests.batch_size
        return self._roofline(n * self.cost.tree.forward_flops, self.read_bytes(n * self.requests.prompt_tokens))

    def seconds_per_token(self, n_keys: int) -> float:
        """A decoding step of the batch in which each query meets n_keys keys; of the caches what is read counts, not what is written."""
        n, step = self.requests.batch_size, self.cost.decoding(n_keys)
        weights = self._roofline(n * _weight_flops(step), self.read_bytes(n))
        return weights + self._roofline(n * step.mixing_flops, n * step.cached_numbers * self.requests.cache_bytes)

    @property
    def seconds_per_output_token(self) -> float:
        """Mean over the decoding steps of a request: that of the middle one, for without windows a step's time is linear in the keys."""
        return self.seconds_per_token(self.requests.prompt_tokens + max(1, self.requests.new_tokens // 2))

    @property
    def tokens_per_s(self) -> float:
        """Tokens written a second while decoding, all sequences together."""
        return self.requests.batch_size / self.seconds_per_output_token

    @property
    def usd_per_million_tokens(self) -> float:
        """Rent of the device while a million tokens are decoded."""
        return self.device.usd_per_hour / 3600 * 1e6 / self.tokens_per_s

    @cached_property
    def _peak(self) -> float:
        return self.device.peak(self.precision)

    @cached_property
    def _bandwidth(self) -> float:
        if self.device.bandwidth_bytes_per_s is None:
            raise UsageError(f"{self.device.name}: its memory bandwidth is not known, and decoding rests on it; name another device")
        return self.device.bandwidth_bytes_per_s

    def _roofline(self, flops: float, n_bytes: float) -> float:
        return max(flops / self._peak, n_bytes / self._bandwidth)


def _weight_flops(tree: Component) -> int:
    """FLOPs of products with weights, two for each number of a matrix and token."""
    return tree.forward_flops - tree.mixing_flops
