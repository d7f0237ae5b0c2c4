"""What a model is, as data: a tree of small frozen dataclasses, walked by ``model`` (to build), ``account`` (to count) and ``infer``.

A model is an embedding, a tuple of layers and a head. A layer is a mixer (``Attention``, ``LatentAttention``,
``LinearMixer``) and an MLP (``Dense``, ``Experts``) with their norms. Nothing here imports torch, and nothing here has a method that
computes: counting is ``account``'s work, building is ``model``'s.
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
    plus_one: bool = False
    """Whether the gain is 1 + weight, so that a weight of zero leaves things as they are (Gemma, 2024)."""
    wide_gain: bool = False
    """Whether the gain multiplies in fp32, before the result is cast to the activations' type (Gemma, OLMo, gpt-oss), or after."""


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by a factor (Chen et al. 2023)."""

    factor: float
    """How many times as long the context becomes."""


@dataclass(frozen=True)
class Llama3Scaling:
    """Long wavelengths slowed by a factor, short ones kept, those between interpolated (Llama 3.1, 2024)."""

    factor: float
    """How many times as long the context becomes."""
    low_frequency_factor: float = 1.0
    """Wavelengths of more than original_context_length over this are slowed in full."""
    high_frequency_factor: float = 4.0
    """Wavelengths of less than original_context_length over this are kept."""
    original_context_length: int = 8192
    """Context before the extension, in tokens."""


@dataclass(frozen=True)
class YarnScaling:
    """Frequencies between interpolated and kept by how often they turn within the original context (Peng et al. 2023)."""

    factor: float
    """How many times as long the context becomes."""
    original_context_length: int
    """Context before the extension, in tokens."""
    beta_fast: float = 32.0
    """Frequencies that turn more often than this are kept."""
    beta_slow: float = 1.0
    """Frequencies that turn less often than this are interpolated in full."""
    truncate: bool = True
    """Whether the ends of the ramp between them are rounded outward to whole dims."""
    attention_factor: float | None = None
    """What cos and sin are multiplied by; None is m(mscale) / m(mscale_all_dim), or m(1) where one of them is 0, with
    m(x) = 0.1 x ln factor + 1."""
    mscale: float = 0.0
    """See attention_factor."""
    mscale_all_dim: float = 0.0
    """See attention_factor; latent attention also multiplies its softmax scale by m(mscale_all_dim)^2 (DeepSeek-V2, 2024)."""


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding (Su et al. 2021): pairs (i, i + head_dim/2) turn by position * theta^(-2i/head_dim)."""

    theta: float = 10_000.0
    """Base of the wavelengths."""
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None
    """How frequencies change for a context longer than that of training, or not at all."""
    interleaved: bool = False
    """Whether the pairs are (2i, 2i + 1), as in the paper, and not the halves."""
    dims: int | None = None
    """How many dims of a head turn, the first ones; None turns all."""


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
    """Norm of queries and keys before the rotation (Henry et al. 2020), or none."""
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
    qk_norm_over: Literal["head", "projection"] = "head"
    """Whether qk_norm is taken over each head, or over all heads together (OLMo 2, 2024)."""
    softcap: float | None = None
    """Scores are c * tanh(scores / c) (Gemma 2, 2024), or none."""
    sinks: bool = False
    """Whether each head has a learned logit that takes part in the softmax and has no value (gpt-oss, 2025)."""
    scale: float | None = None
    """What products of queries and keys are multiplied by; None is head_dim^-1/2."""
    output_gate: bool = False
    """Whether the heads' outputs are multiplied by a sigmoid of a projection of the stream (Qwen3-Next, 2025)."""


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, 2024, section 2.1): keys and values of all heads from one latent vector a token.

    The softmax scale is (head_dim + rotary_dim)^-1/2, under YaRN times m(mscale_all_dim)^2.
    """

    n_heads: int
    """Heads of queries, keys and values."""
    head_dim: int
    """Width of a head's part without positions, of queries and keys."""
    rotary_dim: int
    """Width of a head's part that turns; all heads share that of the key."""
    value_dim: int
    """Width of a head's values."""
    kv_rank: int
    """Width of the latent that keys and values are made of: what a cache holds, beside the rotary key."""
    q_rank: int | None = None
    """Width of the latent that queries are made of; None makes them of the stream."""
    rotary: Rotary = Rotary(interleaved=True)
    """Position encoding of the rotary parts."""
    latent_norm: Norm = Norm()
    """Norm of the latents."""
    bias: bool = False
    """Biases on the projections of the stream and on the output."""


DELTA_CHUNK = 64
"""Tokens that a linear mixer takes at a time."""
ATTENTION_BLOCK = 128
"""Queries that attention takes at a time where it is not one kernel."""


@dataclass(frozen=True)
class LinearMixer:
    """The gated delta rule (Yang, Kautz & Hatamizadeh 2025), as in Qwen3-Next: time linear in the text, and a state of fixed size."""

    n_heads: int
    """Heads, each with values and a state [key_dim, value_dim]."""
    n_key_heads: int
    """Heads of queries and keys; divides n_heads."""
    key_dim: int
    """Width of a head's queries and keys."""
    value_dim: int
    """Width of a head's values."""
    conv_width: int = 4
    """Tokens that the convolution before the rule sees, the position itself counted."""
    norm: Norm = Norm()
    """Norm of each head's output, before its gate."""


Activation = Literal["swiglu", "geglu", "clamped_swiglu", "gelu", "relu2"]
"""SwiGLU and GEGLU, the latter with tanh (Shazeer 2020); (min(max(u, -7), 7) + 1) * g sigmoid(1.702 g) with g at most 7, which is gpt-oss'
(2025); GELU with tanh (Hendrycks & Gimpel 2016); ReLU squared (So et al. 2021)."""

GATED: tuple[str, ...] = ("swiglu", "geglu", "clamped_swiglu")
"""Activations of two projections."""


@dataclass(frozen=True)
class Dense:
    """A dense MLP."""

    d_ff: int
    """Inner width."""
    activation: Activation = "swiglu"
    """The function between the projections."""
    bias: bool = False
    """Biases on every projection."""


@dataclass(frozen=True)
class Router:
    """Who works on a token: the experts with the largest scores, each weighted by its score."""

    score: Literal["softmax", "softmax_of_chosen", "sigmoid"] = "softmax"
    """Of the logits: softmax over all experts; softmax over those chosen; sigmoid of each (DeepSeek-V3, 2024)."""
    renormalize: bool = False
    """Whether the weights of a token's experts are divided by their sum."""
    scale: float = 1.0
    """What the weights are multiplied by at the end."""
    bias: bool = False
    """Bias on the logits."""
    selection_bias: bool = False
    """Whether a bias, balanced from outside and without gradient, is added to the scores for the choice only (Wang et al. 2024)."""
    n_groups: int = 1
    """Groups of experts next to each other."""
    n_active_groups: int = 1
    """Groups that a token's experts may come from: those with the best group_score."""
    group_score: Literal["max", "top2"] = "max"
    """Of a group: its best score (DeepSeek-V2), or the sum of its two best (DeepSeek-V3)."""


@dataclass(frozen=True)
class Experts:
    """A mixture of experts (Shazeer et al. 2017): a router chooses a few MLPs for each token; shared ones work on every token."""

    n_experts: int
    """MLPs to choose from."""
    n_active: int
    """MLPs chosen for a token."""
    d_ff: int
    """Inner width of each."""
    router: Router = Router()
    """Who is chosen."""
    activation: Activation = "swiglu"
    """The function between the projections."""
    bias: bool = False
    """Biases on every expert's projections."""
    shared: Dense | None = None
    """An MLP for every token beside them (DeepSeekMoE, Dai et al. 2024), or none."""
    shared_gate: bool = False
    """Whether the shared MLP's result is multiplied by a learned sigmoid gate (Qwen2-MoE, 2024)."""


@dataclass(frozen=True)
class Layer:
    """One layer: x + mixer(norm(x)), then x + mlp(norm(x)), with the norms where ``placement`` puts them."""

    mixer: Attention | LatentAttention | LinearMixer
    mlp: Dense | Experts
    norm: Norm = Norm()
    placement: Literal["pre", "post", "sandwich", "after"] = "pre"
    """pre: x + f(norm(x)). post: norm(x + f(x)). sandwich: x + norm(f(norm(x))). after: x + norm(f(x))."""


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
    learned_positions: bool = False
    """Whether a learned vector of each position in its document is added to the embedding (GPT-2, 2019)."""
    embedding_scale: float = 1.0
    """What token vectors are multiplied by (sqrt(d_model): Vaswani et al. 2017, Gemma)."""


def check(config: ModelConfig) -> ModelConfig:
    """Returns the config unchanged, or raises UsageError naming the field that makes no sense."""
    if config.vocab_size < 2 or config.d_model < 1 or config.context_length < 1:
        raise UsageError("vocab_size must be at least 2, d_model and context_length at least 1")
    if config.embedding_scale <= 0:
        raise UsageError(f"embedding_scale must be above 0, not {config.embedding_scale}")
    for norm in (config.final_norm, config.embedding_norm):
        _check_norm(norm)
    for i, layer in enumerate(config.layers):
        where = f"layer {i}"
        _check_norm(layer.norm)
        if isinstance(layer.mixer, Attention):
            _check_attention(layer.mixer, where)
        elif isinstance(layer.mixer, LatentAttention):
            _check_latent(layer.mixer, where)
        else:
            _check_linear(layer.mixer, where)
        if isinstance(layer.mlp, Experts):
            _check_experts(layer.mlp, where)
        else:
            _at_least_one(layer.mlp, ("d_ff",), where)
    return config


def _at_least_one(part: Any, fields: tuple[str, ...], where: str) -> None:
    for field in fields:
        if getattr(part, field) < 1:
            raise UsageError(f"{where}: {field} must be at least 1, not {getattr(part, field)}")


def _check_norm(norm: Norm | None) -> None:
    if norm is None:
        return
    if not norm.eps >= 0:
        raise UsageError(f"eps of a norm must be at least 0, not {norm.eps}")
    if norm.kind == "rms" and norm.bias:
        raise UsageError("a norm of kind rms has no bias: leave bias out, or choose kind layer")
    if norm.plus_one and not (norm.kind == "rms" and norm.weight):
        raise UsageError("plus_one is about the gain of a norm of kind rms: give it a weight, or leave plus_one out")


def _check_rotary(rotary: Rotary, head_dim: int, where: str) -> None:
    dims = head_dim if rotary.dims is None else rotary.dims
    if dims % 2 or not 0 < dims <= head_dim:
        what = f"head_dim, not {head_dim}" if rotary.dims is None else f"number of dims, at most head_dim {head_dim}, not {dims}"
        raise UsageError(f"{where}: rotary positions need an even {what}")
    if not rotary.theta > 1:
        raise UsageError(f"{where}: theta, the base of the rotary wavelengths, must be above 1, not {rotary.theta}")
    if rotary.scaling is not None and rotary.scaling.factor < 1:
        raise UsageError(f"{where}: the factor of a rotary scaling is at least 1, not {rotary.scaling.factor}")
    if isinstance(rotary.scaling, YarnScaling) and not rotary.scaling.beta_fast > rotary.scaling.beta_slow > 0:
        raise UsageError(f"{where}: beta_slow must be above 0 and below beta_fast")
    if isinstance(rotary.scaling, Llama3Scaling) and rotary.scaling.low_frequency_factor >= rotary.scaling.high_frequency_factor:
        raise UsageError(f"{where}: low_frequency_factor must be below high_frequency_factor")


def _check_attention(a: Attention, where: str) -> None:
    _check_norm(a.qk_norm)
    _at_least_one(a, ("n_heads", "n_kv_heads", "head_dim"), where)
    if a.n_heads % a.n_kv_heads:
        raise UsageError(f"{where}: n_heads {a.n_heads} is not a multiple of n_kv_heads {a.n_kv_heads}")
    if a.rotary is not None:
        _check_rotary(a.rotary, a.head_dim, where)
    if a.key_offset and a.head_dim % 4:
        raise UsageError(f"{where}: key_offset needs a head_dim that is a multiple of 4, not {a.head_dim}")
    if a.window is not None:
        _at_least_one(a, ("window",), where)
    for field in ("softcap", "scale"):
        if getattr(a, field) is not None and getattr(a, field) <= 0:
            raise UsageError(f"{where}: {field} must be above 0")


def _check_latent(a: LatentAttention, where: str) -> None:
    _check_norm(a.latent_norm)
    _at_least_one(a, ("n_heads", "head_dim", "rotary_dim", "value_dim", "kv_rank"), where)
    if a.q_rank is not None:
        _at_least_one(a, ("q_rank",), where)
    _check_rotary(a.rotary, a.rotary_dim, where)


def _check_linear(a: LinearMixer, where: str) -> None:
    _check_norm(a.norm)
    _at_least_one(a, ("n_heads", "n_key_heads", "key_dim", "value_dim", "conv_width"), where)
    if a.n_heads % a.n_key_heads:
        raise UsageError(f"{where}: n_heads {a.n_heads} is not a multiple of n_key_heads {a.n_key_heads}")


def _check_experts(mlp: Experts, where: str) -> None:
    router = mlp.router
    _at_least_one(mlp, ("n_experts", "n_active", "d_ff"), where)
    _at_least_one(router, ("n_groups", "n_active_groups"), where)
    if mlp.n_experts % router.n_groups:
        raise UsageError(f"{where}: n_experts {mlp.n_experts} is not a multiple of n_groups {router.n_groups}")
    if router.n_active_groups > router.n_groups:
        raise UsageError(f"{where}: n_active_groups {router.n_active_groups} is more than n_groups {router.n_groups}")
    group = mlp.n_experts // router.n_groups
    if mlp.n_active > router.n_active_groups * group:
        raise UsageError(
            f"{where}: n_active {mlp.n_active} is more than the {router.n_active_groups * group} experts that it may choose from"
        )
    if router.n_groups > 1 and router.group_score == "top2" and group < 2:
        raise UsageError(f"{where}: group_score top2 needs groups of at least 2 experts, not {group}")
    if router.score == "softmax_of_chosen" and (router.selection_bias or router.n_groups > 1):
        raise UsageError(f"{where}: score softmax_of_chosen goes with neither selection_bias nor n_groups")
    if mlp.shared is not None:
        _at_least_one(mlp.shared, ("d_ff",), where)
    elif mlp.shared_gate:
        raise UsageError(f"{where}: shared_gate needs a shared MLP")


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
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        return _coerce(_best_kind(kinds, value) if len(kinds) > 1 else kinds[0], value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: expected an object, got {value!r}")
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{where}: expected a list, got {value!r}")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(value) != len(kinds):
            raise UsageError(f"{where}: expected {len(kinds)} values, got {value!r}")
        return tuple(_coerce(kind, v, f"{where}[{i}]") for i, (kind, v) in enumerate(zip(kinds, value, strict=True)))
    if origin is Literal:
        if value not in args:
            raise UsageError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UsageError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _best_kind(kinds: list[Any], value: Any) -> Any:
    """Of dataclasses that a value may be, the first that has all its keys and needs no other; else the one that knows most of them."""
    keys = set(value) if isinstance(value, dict) else set()

    def misses(kind: Any) -> tuple[int, int]:
        fields = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(kind)}
        return len(keys - set(fields)), sum(needed and name not in keys for name, needed in fields.items())

    return min(kinds, key=misses)
