"""What it costs to answer: FLOPs, bytes and seconds of prefill and decoding, and the key-value cache between them.

Decoding reads every weight once a step, whatever the batch, and each sequence's cache; so a step's time is, for the weights and for the
caches apart, the larger of FLOPs / peak and bytes / bandwidth (the roofline of Williams et al. 2009; Pope et al. 2022, section 3).

Symbols: B sequences, T prompt tokens, S keys that a query meets, H heads, K kv heads, E head_dim, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from groundup.account.cost import cost
from groundup.account.devices import Device
from groundup.config import Attention, LatentAttention, LinearMixer, ModelConfig
from groundup.errors import UsageError


@dataclass(frozen=True)
class Requests:
    """A batch of requests of one size."""

    prompt_tokens: int = 1000
    """T, tokens of each prompt."""
    new_tokens: int = 200
    """Tokens written for each; the first follows from prefill, each further one from a decoding step."""
    batch_size: int = 1
    """B, sequences side by side."""
    weight_bytes: float = 2.0
    """Bytes a number of the weights is held in."""
    cache_bytes: float = 2.0
    """Bytes a number of the cache is held in."""

    def check(self, config: ModelConfig) -> None:
        """UsageError for sizes that cannot be, or that the model's context does not hold."""
        for name in ("prompt_tokens", "new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.weight_bytes <= 0 or self.cache_bytes <= 0:
            raise UsageError("weight_bytes and cache_bytes must be above 0")
        if self.length > config.context_length:
            raise UsageError(
                f"prompt and answer take {self.length:,} tokens, more than the context's {config.context_length:,}: shorten one"
            )

    @property
    def length(self) -> int:
        """Tokens of a sequence that has ended: T + new tokens."""
        return self.prompt_tokens + self.new_tokens


Mixer = Attention | LatentAttention | LinearMixer

_OF_KEYS = (".scores", ".weighted_values", ".triangular_solve", ".within_chunks", ".across_chunks")
"""Components whose FLOPs are no products with weights."""


def _seen(mixer: Mixer, n_keys: int) -> int:
    """Keys that a query meets; a linear mixer's state counts as one."""
    if isinstance(mixer, LinearMixer):
        return 1
    window = mixer.window if isinstance(mixer, Attention) else None
    return n_keys if window is None else min(n_keys, window)


def _cached(mixer: Mixer) -> int:
    """Numbers that a position leaves in a layer's cache: 2 K E, C + R of latent attention; or the state of a linear mixer, for all."""
    match mixer:
        case LatentAttention():
            return mixer.kv_rank + mixer.rotary_dim
        case LinearMixer():
            mixed = 2 * mixer.n_key_heads * mixer.key_dim + mixer.n_heads * mixer.value_dim
            return mixer.n_heads * mixer.key_dim * mixer.value_dim + (mixer.conv_width - 1) * mixed
        case Attention():
            return 2 * mixer.n_kv_heads * mixer.head_dim


def _pair_flops(mixer: Mixer) -> int:
    """FLOPs of a query and a key, all heads: 4 H E; of latent attention in its absorbed form 2 H (C + R) + 2 H C.

    Of a token and a linear mixer's state, read for key and query and written once: 6 H E V.
    """
    match mixer:
        case LatentAttention():
            return 2 * mixer.n_heads * (2 * mixer.kv_rank + mixer.rotary_dim)
        case LinearMixer():
            return 6 * mixer.n_heads * mixer.key_dim * mixer.value_dim
        case Attention():
            return 4 * mixer.n_heads * mixer.head_dim


def cache_bytes(config: ModelConfig, tokens: int, number_bytes: float = 2.0) -> float:
    """Bytes of one sequence's cache: 2 K E number_bytes for each layer and token, C + R of latent attention, of no more than a window.

    A linear mixer's state has its size whatever the tokens.
    """
    return sum(_cached(layer.mixer) * _seen(layer.mixer, tokens) for layer in config.layers) * number_bytes


def prefill_flops(config: ModelConfig, prompt_tokens: int) -> int:
    """Model FLOPs of reading a prompt: a forward pass, with logits of the last position only."""
    tree = cost(config, seq_len=prompt_tokens).tree
    head = next(part for part in tree.parts if part.name == "head")
    return tree.forward_flops - head.forward_flops * (prompt_tokens - 1) // prompt_tokens


def decode_flops(config: ModelConfig, n_keys: int) -> int:
    """Model FLOPs of one more token that attends to n_keys keys, itself included: weights' products, plus 4 H E S in each layer."""
    return weight_flops(config) + attention_flops(config, n_keys)


def weight_flops(config: ModelConfig) -> int:
    """FLOPs a token in products with weights, 2 for each number of a matrix, of experts those of the chosen.

    In latent attention's absorbed form W_k meets the query and W_v the weighted latents: as many FLOPs as making one key and one value.
    """
    tree = cost(config, seq_len=1).tree
    return tree.forward_flops - sum(part.forward_flops for _, part in tree.walk() if part.name.endswith(_OF_KEYS))


def attention_flops(config: ModelConfig, n_keys: int) -> int:
    """FLOPs of one query's scores and weighted values over n_keys keys, all layers."""
    return sum(_pair_flops(layer.mixer) * _seen(layer.mixer, n_keys) for layer in config.layers)


@dataclass(frozen=True)
class Serving:
    """Requests on a device: memory, and the roofline's seconds, which no kernel beats and good ones come near."""

    config: ModelConfig
    requests: Requests
    device: Device
    precision: str = "bf16"

    @cached_property
    def weights_bytes(self) -> float:
        """Bytes of all weights."""
        return cost(self.config, seq_len=1).parameters * self.requests.weight_bytes

    @cached_property
    def read_bytes(self) -> float:
        """Bytes of weights that a decoding step reads: all but lookup tables, of which it takes a row a sequence."""
        weights = cost(self.config, seq_len=1).weights
        tied = self.config.vocab_size * self.config.d_model if self.config.tied else 0  # the embedding is the head's matrix too
        return (sum(w.numbers for w in weights if w.kind != "table") + tied) * self.requests.weight_bytes

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
        """B from which on products with weights take longer to compute than their weights to read: peak x bytes / (bandwidth x FLOPs)."""
        return self._peak * self.read_bytes / (self._bandwidth * weight_flops(self.config))

    @property
    def seconds_to_first_token(self) -> float:
        """Prefill of the batch: compute against one reading of the weights."""
        return self._roofline(self.requests.batch_size * prefill_flops(self.config, self.requests.prompt_tokens), self.read_bytes)

    def seconds_per_token(self, n_keys: int) -> float:
        """A decoding step of the batch in which each query meets n_keys keys."""
        n, r = self.requests.batch_size, self.requests
        weights = self._roofline(n * weight_flops(self.config), self.read_bytes)
        return weights + self._roofline(n * attention_flops(self.config, n_keys), n * cache_bytes(self.config, n_keys, r.cache_bytes))

    @property
    def seconds_per_output_token(self) -> float:
        """Mean over the decoding steps of a request: that of the middle one, for a step's time is linear in the keys."""
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
