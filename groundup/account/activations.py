"""What a trainer with 16-bit weights and fused kernels keeps of each kind of layer for its backward, line by line and a token at a time.

Symbols: B sequences of a micro-batch, T tokens of a sequence, D d_model, H heads, K kv heads, E head_dim, F d_ff, X experts; of latent
attention C and R, the widths of the latents and of the rotary part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from groundup.account.execution import Execution, Recompute
from groundup.config import DELTA_CHUNK, GATED, Activation, Attention, Dense, Experts, LatentAttention, Layer, LinearMixer

Policy = Recompute | Literal["selective"]
"""What is computed again: as ``Execution`` says it, or attention's probabilities alone (Korthikanti et al. 2022, section 5)."""
CORE = "attention's probabilities"
"""The line that selective recomputation drops."""


class Graph(NamedTuple):
    """What of a layer's forward pass an implementation keeps."""

    fused_attention: bool = True
    """A kernel that keeps no probabilities (Dao et al. 2022), or all T x T of them."""
    dropout: bool = False
    """Masks of dropout after attention's probabilities, attention and MLP, a byte each."""
    number_bytes: int = 2
    """Bytes of an activation."""


MODERN = Graph()
"""Fused attention, no dropout: what today's trainers do. The one in this house, which casts fp32 weights, is in ``saved``."""


def graph_of(run: Execution) -> Graph:
    """What a way of computing keeps."""
    return Graph(run.attention_block is None, number_bytes=run.number_bytes)


class Line(NamedTuple):
    """A tensor that is kept."""

    name: str
    """What it is."""
    n_bytes: float
    """Bytes of a token."""
    split: bool
    """Whether tensor parallelism splits it even without sequence parallelism."""
    again: Literal["attention", "mlp", "layers"]
    """The narrowest policy that computes it again."""


def layer_activation_lines(layer: Layer, d_model: int, seq_len: int, graph: Graph) -> Iterator[Line]:
    """What a layer keeps for each token.

    With LayerNorm, GELU, F = 4 D, as many kv heads as heads, dropout and plain attention: 34 D + 5 H T bytes (Korthikanti et al. 2022,
    equation 1, with its h = D, a = H, s = T).
    """
    c = graph.number_bytes
    norms = 4 if layer.placement == "sandwich" else 2
    yield Line("inputs of norms", c * norms * d_model, False, "layers")
    yield Line("input of the mixer", c * d_model, False, "layers")
    match layer.mixer:
        case Attention():
            yield from _attention(layer.mixer, seq_len, graph)
        case LatentAttention():
            yield from _latent(layer.mixer, seq_len, graph)
        case LinearMixer():
            yield from _linear(layer.mixer, graph)
    yield Line("input of the MLP", c * d_model, False, "layers")
    match layer.mlp:
        case Dense():
            yield Line("inner tensors of the MLP", c * inner(layer.mlp.activation) * layer.mlp.d_ff, True, "mlp")
        case Experts():
            yield from _experts(layer.mlp, d_model, graph)
    if graph.dropout:
        yield Line("masks of dropout", 2 * d_model, False, "layers")


def inner(activation: Activation) -> int:
    """Tensors of width F that an MLP keeps: before and after its activation; a gated one also the gate."""
    return 3 if activation in GATED else 2


def _core(heads: int, seq_len: int, graph: Graph) -> Line:
    if graph.fused_attention:
        return Line("attention's log-sum-exp", 4 * heads, True, "attention")
    c = graph.number_bytes
    return Line(CORE, heads * seq_len * (c + ((1 + c) if graph.dropout else 0)), True, "attention")


def _attention(a: Attention, seq_len: int, graph: Graph) -> Iterator[Line]:
    c, q, kv = graph.number_bytes, a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim
    yield Line("queries, keys and values", c * (q + 2 * kv), True, "attention")
    if a.qk_norm is not None:
        yield Line("queries and keys before their norm", c * (q + kv), True, "attention")
    if a.value_embedding:
        yield Line("value embeddings and their gates", c * (kv + a.n_kv_heads), True, "attention")
    yield _core(a.n_heads, seq_len, graph)
    yield Line("attention's output", c * q, True, "attention")
    if a.output_gate:
        yield Line("the output's gate, and what it lets through", 2 * c * q, True, "attention")


def _latent(a: LatentAttention, seq_len: int, graph: Graph) -> Iterator[Line]:
    c, latents = graph.number_bytes, (a.q_rank or 0) + a.kv_rank
    yield Line("latents, before and after their norm", 2 * c * latents, False, "attention")
    yield Line("queries and keys", 2 * c * a.n_heads * (a.head_dim + a.rotary_dim), True, "attention")
    yield Line("values", c * a.n_heads * a.value_dim, True, "attention")
    yield _core(a.n_heads, seq_len, graph)
    yield Line("attention's output", c * a.n_heads * a.value_dim, True, "attention")


def _linear(a: LinearMixer, graph: Graph) -> Iterator[Line]:
    """As the chunked kernels of flash-linear-attention keep it: the states between chunks are computed again."""
    c, values, again = graph.number_bytes, a.n_heads * a.value_dim, "attention"
    mixed = 2 * a.n_key_heads * a.key_dim + values
    yield Line("queries, keys and values, before and after the convolution", 2 * c * mixed, True, again)
    yield Line("decays and rates of writing, fp32 and before", (8 + 2 * c) * a.n_heads, True, again)
    yield Line("solved triangles of the chunks", c * a.n_heads * DELTA_CHUNK, True, again)
    yield Line("the rule's output, its gate, and what that lets through", 3 * c * values, True, again)


def _experts(mlp: Experts, d_model: int, graph: Graph) -> Iterator[Line]:
    c, k = graph.number_bytes, mlp.n_active
    yield Line("scores of the router, fp32, and the choice", 4 * mlp.n_experts + 12 * k, False, "mlp")
    yield Line("rows sent to the experts", c * k * d_model, False, "mlp")
    yield Line("inner tensors of the experts", c * inner(mlp.activation) * k * mlp.d_ff, True, "mlp")
    yield Line("rows that come back, for the gradient of their weights", c * k * d_model, False, "mlp")
    if mlp.shared is not None:
        yield Line("inner tensors of the shared expert", c * inner(mlp.shared.activation) * mlp.shared.d_ff, True, "mlp")
    if mlp.shared_gate:
        yield Line("output of the shared expert and its gate", c * (d_model + 1), False, "mlp")


def layer_activation_bytes(
    layer: Layer,
    d_model: int,
    *,
    seq_len: int,
    micro_batch: int = 1,
    tensor: int = 1,
    sequence_parallel: bool = True,
    recompute: Policy = "none",
    graph: Graph = MODERN,
) -> float:
    """Bytes that a device keeps of one layer and one micro-batch (Korthikanti et al. 2022, equations 1, 2, 4, 6 and section 5).

    Without sequence parallelism only what lies between two matrices that are split is split. Selective recomputation drops attention's
    probabilities, that of the mixer or the MLP all but its input, that of layers all but the layer's input, 2 B T D. Experts get as many
    rows on every device as are sent from it: the router is taken to be balanced.
    """
    if recompute == "layers":
        return micro_batch * seq_len * graph.number_bytes * d_model / (tensor if sequence_parallel else 1)
    total = 0.0
    for line in layer_activation_lines(layer, d_model, seq_len, graph):
        if line.again != recompute and not (recompute == "selective" and line.name == CORE):
            total += line.n_bytes / (tensor if line.split or sequence_parallel else 1)
    return micro_batch * seq_len * total
