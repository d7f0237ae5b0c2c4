"""What a model is, as data: a tree of small frozen dataclasses, walked by ``model`` (to build), ``account`` (to count) and ``infer``.

A model is an embedding, a tuple of layers and a head. A layer is a mixer and an MLP with their norms. Nothing here imports torch,
and nothing here has a method that computes: counting is ``account``'s work, building is ``model``'s.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from groundup.errors import UsageError


@dataclass(frozen=True)
class Norm:
    """A normalization over the last dimension."""

    kind: Literal["rms", "layer"] = "rms"
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016)."""
    eps: float = 1e-6
    """Added to the mean square (or the variance) before the root."""
    weight: bool = True
    """Whether a learned gain multiplies the result."""
    bias: bool = False
    """Whether a learned bias is added (LayerNorm only)."""


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding (Su et al. 2021): pairs (i, i + head_dim/2) turn by position * theta^(-2i/head_dim)."""

    theta: float = 10_000.0
    """Base of the wavelengths."""


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention (Ainslie et al. 2023); causal, never across documents."""

    n_heads: int
    """Query heads."""
    n_kv_heads: int
    """Key and value heads; divides n_heads."""
    head_dim: int
    """Width of one head; n_heads * head_dim need not equal d_model."""
    rotary: Rotary | None = Rotary()
    """Position encoding, or none."""
    qk_norm: Norm | None = None
    """Norm of each query and key head before the rotation (Henry et al. 2020), or none."""
    window: int | None = None
    """Sliding window in tokens, the position itself counted; None sees the whole document."""
    bias: bool = False
    """Biases on q, k and v."""
    output_bias: bool = False
    """Bias on the output projection."""
    value_embedding: bool = False
    """Adds a per-token learned vector, scaled by a learned gate per kv head, to the values (Zhou et al. 2024; modded-nanogpt)."""
    key_offset: bool = False
    """Half of each key comes from the position before: one layer can then look for what followed a token's earlier occurrences,
    which without it takes two (induction heads: Olsson et al. 2022; offset keys: modded-nanogpt)."""


@dataclass(frozen=True)
class Dense:
    """A dense MLP."""

    d_ff: int
    """Inner width."""
    activation: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    """SwiGLU (Shazeer 2020), GELU with tanh (Hendrycks & Gimpel 2016), ReLU squared (So et al. 2021)."""
    bias: bool = False
    """Biases on every projection."""


@dataclass(frozen=True)
class Layer:
    """One layer: x + mixer(norm(x)), then x + mlp(norm(x)), with the norms where ``placement`` puts them."""

    mixer: Attention
    mlp: Dense
    norm: Norm = Norm()
    placement: Literal["pre", "post", "sandwich"] = "pre"
    """pre: x + f(norm(x)). post: norm(x + f(x)). sandwich: x + norm(f(norm(x)))."""


SPARSE_ROWS = 16_384
"""A table of hashed n-grams of at least so many rows gets row-sparse gradients."""


@dataclass(frozen=True)
class HashEmbedding:
    """Learned vectors for hashed n-grams of tokens, added to the token embedding: capacity that costs memory but no matrix product."""

    orders: tuple[int, ...] = (2,)
    """Lengths of the n-grams, in tokens, the current one included."""
    n_rows: int = 65_536
    """Rows of the table that all orders share."""

    @property
    def sparse(self) -> bool:
        """Whether gradients hold only the rows that a step touched: worth it where most are not."""
        return self.n_rows >= SPARSE_ROWS


SOAP_SIDE = 10_000
"""Sides of a matrix longer than this have no eigenbasis under SOAP (Vyas et al. 2024)."""

PRIOR_GATE_WIDTH = 32
"""Hidden units of the prior's gate that read what is known of a context."""


@dataclass(frozen=True)
class Prior:
    """N-gram counts mixed with the network's distribution by a learned gate; see ``model.prior``."""

    max_order: int = 6
    """Longest n-gram counted, in tokens."""


@dataclass(frozen=True)
class ModelConfig:
    """A decoder: embedding, layers, final norm, head."""

    vocab_size: int
    """Tokens the model knows, special ones included."""
    d_model: int
    """Width of the residual stream."""
    context_length: int
    """Most tokens the network attends to."""
    layers: tuple[Layer, ...]
    """The layers, first to last."""
    final_norm: Norm | None = Norm()
    """Norm before the head."""
    embedding_norm: Norm | None = None
    """Norm straight after the embedding."""
    tied: bool = False
    """Whether the head is the embedding's transpose."""
    head_bias: bool = False
    """Bias on the logits."""
    logit_softcap: float | None = None
    """c * tanh(logits / c) (Gemma 2, 2024), or none."""
    hash_embedding: HashEmbedding | None = None
    """Hashed n-gram vectors added to the embedding, or none."""
    prior: Prior | None = None
    """N-gram counts mixed in, or none."""


def check(config: ModelConfig) -> ModelConfig:
    """Returns the config unchanged, or raises UsageError naming the field that makes no sense."""
    if config.vocab_size < 2 or config.d_model < 1 or config.context_length < 1:
        raise UsageError("vocab_size must be at least 2, d_model and context_length at least 1")
    norms = [config.final_norm, config.embedding_norm] + [n for layer in config.layers for n in (layer.norm, layer.mixer.qk_norm)]
    if any(norm is not None and norm.kind == "rms" and norm.bias for norm in norms):
        raise UsageError("a norm of kind rms has no bias: leave bias out, or choose kind layer")
    for i, layer in enumerate(config.layers):
        a = layer.mixer
        if min(a.n_heads, a.n_kv_heads, a.head_dim, layer.mlp.d_ff) < 1:
            raise UsageError(f"layer {i}: n_heads, n_kv_heads, head_dim and d_ff must be at least 1")
        if a.n_heads % a.n_kv_heads:
            raise UsageError(f"layer {i}: n_heads {a.n_heads} is not a multiple of n_kv_heads {a.n_kv_heads}")
        if a.rotary is not None and a.head_dim % 2:
            raise UsageError(f"layer {i}: rotary positions need an even head_dim, not {a.head_dim}")
        if a.key_offset and a.head_dim % 4:
            raise UsageError(f"layer {i}: key_offset needs a head_dim that is a multiple of 4, not {a.head_dim}")
        if a.window is not None and a.window < 1:
            raise UsageError(f"layer {i}: window must be at least 1")
    return config


def to_dict(config: Any) -> Any:
    """A dataclass tree as plain JSON types."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type, values: dict[str, Any], where: str = "config") -> Any:
    """Rebuilds a dataclass tree from ``to_dict``'s output; an unknown or missing key is a UsageError that names it."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"{where}: missing key {name!r}")
    return kind(**{name: _coerce(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _coerce(next(a for a in args if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected an object, got {value!r}")
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple:
        return tuple(_coerce(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is Literal:
        if value not in args:
            raise UsageError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UsageError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value
