"""What each kind of layer keeps between forward and backward, and what backward holds on top of it while it is in a layer.

One line of a table is one tensor; the tables mirror ``model`` and ``kernels`` line by line, so a change there is a line here. ``SAVED`` and
``WORKING`` have a table for each kind of mixer and of MLP.

Symbols: N tokens of one micro-batch (batch_size x seq_len), D d_model, H heads, K kv heads, E head_dim, F d_ff, X experts, A of them
active.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from groundup.account.attention_work import key_blocks
from groundup.account.execution import Execution
from groundup.account.tree import executed_pairs
from groundup.config import ATTENTION_BLOCK, DELTA_CHUNK, GATED, Attention, Dense, Experts, LatentAttention, Layer, LinearMixer, Norm


@dataclass(frozen=True)
class Sizes:
    """What a line of ``SAVED`` or ``WORKING`` may read."""

    layer: Layer
    """The layer."""
    d: int
    """D."""
    batch: int
    """Sequences of the micro-batch."""
    seq_len: int
    """Tokens of a sequence."""
    run: Execution
    """How it is computed."""

    @property
    def n(self) -> int:
        """N."""
        return self.batch * self.seq_len

    @property
    def c(self) -> int:
        """Bytes of one activation."""
        return self.run.number_bytes

    @property
    def q(self) -> int:
        """Width of all query heads, H x E."""
        return self.layer.mixer.n_heads * self.layer.mixer.head_dim

    @property
    def kv(self) -> int:
        """Width of all kv heads, K x E."""
        return self.layer.mixer.n_kv_heads * self.layer.mixer.head_dim

    @property
    def joint(self) -> int:
        """Width of the queries, keys and values that attention meets."""
        a = self.layer.mixer
        if isinstance(a, LatentAttention):
            return a.n_heads * (2 * (a.head_dim + a.rotary_dim) + a.value_dim)
        return self.q + 2 * self.kv

    @property
    def attended(self) -> int:
        """Width of attention's output."""
        a = self.layer.mixer
        return a.n_heads * (a.value_dim if isinstance(a, LatentAttention) else a.head_dim)

    @property
    def block(self) -> int | None:
        """Queries a block of attention, or None in a fused kernel, which knows neither caps, sinks and scales nor latent attention."""
        a = self.layer.mixer
        plain = isinstance(a, Attention) and a.softcap is None and a.scale is None and not a.sinks
        return self.run.attention_block if plain else self.run.attention_block or ATTENTION_BLOCK

    @property
    def window(self) -> int | None:
        """Of the mixer, where it has one."""
        return getattr(self.layer.mixer, "window", None)

    @property
    def probabilities(self) -> int:
        """Numbers in the attention probabilities that are kept."""
        return 0 if self.block is None else self.batch * self.layer.mixer.n_heads * executed_pairs(self.seq_len, self.window, self.block)

    @property
    def scores_at_once(self) -> int:
        """Numbers of scores that backward holds: a block's gradients of probabilities and of scores, and the latter of the block before."""
        if self.block is None:
            return 0
        blocks = [n * s for n, s in key_blocks(self.seq_len, self.window, self.block)]
        return self.batch * self.layer.mixer.n_heads * max(before + 2 * block for before, block in pairwise([0, *blocks]))

    @property
    def block_output(self) -> int:
        """Numbers of the gradient of a block's output, laid out by heads."""
        return 0 if self.block is None else self.batch * min(self.block, self.seq_len) * self.attended

    @property
    def in_one_function(self) -> bool:
        """Whether ``kernels.fused.attention`` does all between the joint product and the heads' outputs (``AttentionLayer.fusible``)."""
        a, run = self.layer.mixer, self.run
        norm, rotary = a.qk_norm, a.rotary
        cpu = run.fused_norm and run.precision == "fp32" and run.attention_block is not None
        plain = a.qk_norm_over == "head" and a.softcap is None and a.scale is None and not a.sinks
        turned = rotary is not None and not rotary.interleaved and rotary.dims is None and rotary.scaling is None
        return cpu and plain and turned and norm is not None and norm.kind == "rms" and not norm.weight

    def cast(self, numbers: int) -> int:
        """Bytes of so many weights in the activations' type, where that is not the masters' own."""
        return 0 if self.c == 4 else self.c * numbers


class Line(NamedTuple):
    """One entry of a table of tensors."""

    name: str
    """Which tensor."""
    n_bytes: Callable[[Sizes], int]
    """Its bytes."""


def norm_bytes(norm: Norm, rows: int, dim: int, run: Execution, *, feeds_product: bool = True) -> int:
    """Bytes that one norm over [rows, dim] keeps, its output included where a product will keep it.

    Fused RMSNorm keeps its output before the gain and one fp32 number a row. The plain form keeps its fp32 input (LayerNorm: centred),
    one number a row, and its output before the gain if there is a gain: in fp32 where the gain multiplies before the cast. The output
    after the gain is kept by the product it feeds.
    """
    c = run.number_bytes
    output = rows * dim * c
    gain = norm.weight or norm.bias
    wide = norm.kind == "rms" and norm.wide_gain and c != 4
    if run.fused_norm and norm.kind == "rms" and not wide:
        return output + rows * 4 + (output if gain and feeds_product else 0)
    before_gain = (rows * dim * 4 if wide else output) if norm.weight else 0
    return rows * (dim + 1) * 4 + before_gain + (output if feeds_product else 0)


def norm_working(layer: Layer, rows: int, dim: int, run: Execution) -> int:
    """Bytes that backward through a norm at the branch's end holds beyond what is kept, where it is a chain of operations and not fused.

    Five numbers of fp32: the gradient by way of the mean square, that of the product, and three of the square's own; the output before the
    gain goes meanwhile. After a "post" norm neither the stream's gradient nor the output is there.
    """
    norm, c = layer.norm, run.number_bytes
    wide = norm.kind == "rms" and norm.wide_gain and c != 4
    if layer.placement == "pre" or (run.fused_norm and norm.kind == "rms" and not wide):
        return 0
    gone = (4 if wide else c) * norm.weight + 2 * c * (layer.placement == "post")
    return rows * dim * (5 * 4 - gone)


NORM, OUT_NORM = "norm of the branch", "norm of what the branch gave"
"""They stand outside of mixer and MLP: only with the whole layer are they computed again."""


def _branch_norm(s: Sizes) -> int:
    if s.layer.placement == "after":  # the stream itself, which the branch reads
        return s.c * s.n * s.d
    return norm_bytes(s.layer.norm, s.n, s.d, s.run)


def _out_norm(s: Sizes) -> int:
    return norm_bytes(s.layer.norm, s.n, s.d, s.run, feeds_product=False) if s.layer.placement in ("sandwich", "after") else 0


NORMS: tuple[Line, ...] = (Line(NORM, _branch_norm), Line(OUT_NORM, _out_norm))
"""What the layer itself keeps around either branch."""


def _qk_norm(s: Sizes) -> int:
    norm, a = s.layer.mixer.qk_norm, s.layer.mixer
    if norm is None:
        return 0
    if s.in_one_function:  # which keeps the whole joint product
        return s.c * s.n * (s.q + 2 * s.kv + a.n_heads + a.n_kv_heads)
    if a.qk_norm_over == "projection":
        return sum(norm_bytes(norm, s.n, width, s.run, feeds_product=False) for width in (s.q, s.kv))
    return norm_bytes(norm, s.n * (a.n_heads + a.n_kv_heads), a.head_dim, s.run, feeds_product=False)


_AROUND_ATTENTION: tuple[Line, ...] = (
    Line("queries, keys and values of attention", lambda s: s.c * s.n * s.joint),
    Line("attention probabilities", lambda s: s.c * s.probabilities),
    Line("attention's log-sum-exp", lambda s: 4 * s.n * s.layer.mixer.n_heads if s.block is None else 0),
    Line("attention's output", lambda s: s.c * s.n * s.attended),
    Line("output weights, cast to the activations' type", lambda s: s.cast(s.d * s.attended)),
)

_ATTENTION: tuple[Line, ...] = (
    Line("query, key and value weights joined for one product", lambda s: s.c * s.d * s.joint),
    Line("queries and keys as their norm keeps them", _qk_norm),
    Line(
        "value embedding: sigmoid, gate, rows looked up",
        lambda s: s.c * s.n * (2 * s.layer.mixer.n_kv_heads + s.kv) if s.layer.mixer.value_embedding else 0,
    ),
    *_AROUND_ATTENTION,
    Line("what tanh gave of the scores", lambda s: s.c * s.probabilities if s.layer.mixer.softcap is not None else 0),
    Line("gate of the output, and the gated output", lambda s: 2 * s.c * s.n * s.q if s.layer.mixer.output_gate else 0),
    Line("weights of that gate, cast", lambda s: s.cast(s.d * s.q) if s.layer.mixer.output_gate else 0),
)


def _latents(s: Sizes) -> int:
    a = s.layer.mixer
    return sum(norm_bytes(a.latent_norm, s.n, rank, s.run) for rank in (a.q_rank, a.kv_rank) if rank is not None)


def _latent_weights(s: Sizes) -> int:
    a = s.layer.mixer
    queries = a.n_heads * (a.head_dim + a.rotary_dim)
    numbers = queries * s.d if a.q_rank is None else a.q_rank * (s.d + queries)
    return s.cast(numbers + s.d * (a.kv_rank + a.rotary_dim) + a.kv_rank * a.n_heads * (a.head_dim + a.value_dim))


_LATENT: tuple[Line, ...] = (
    Line("latents, as their norms keep them", _latents),
    Line("projections' weights, cast to the activations' type", _latent_weights),
    *_AROUND_ATTENTION,
)


def _mixed(s: Sizes) -> int:
    """Width of a linear mixer's queries, keys and values before they are given to heads."""
    a = s.layer.mixer
    return 2 * a.n_key_heads * a.key_dim + a.n_heads * a.value_dim


def _values(s: Sizes) -> int:
    return s.layer.mixer.n_heads * s.layer.mixer.value_dim


def _chunk_numbers(s: Sizes) -> int:
    """Numbers that all chunks of c tokens keep, of every head.

    [c, c]: decays, k k^T, the system, q k^T, and that times the decays. [c, E]: keys weighted, with what they carry in, queries with what
    they carry in, keys as kept. [c, V]: the solution for values, and the new values once the state is taken off. The state itself.
    """
    a = s.layer.mixer
    e, v = a.key_dim, a.value_dim
    chunks = [min(DELTA_CHUNK, s.seq_len - start) for start in range(0, s.seq_len, DELTA_CHUNK)]
    total = 0
    for i, c in enumerate(chunks):
        met, left = i > 0, i < len(chunks) - 1
        total += 5 * c * c + c * (e + v + met * (2 * e + v) + left * e) + left * e * v
    return s.batch * a.n_heads * total


_LINEAR: tuple[Line, ...] = (
    Line("queries, keys and values before and after the convolution, and its sigmoid", lambda s: 3 * s.c * s.n * _mixed(s)),
    Line("what the convolution gave to heads", lambda s: 4 * s.n * _mixed(s)),
    Line("queries and keys of every head", lambda s: 4 * s.n * 2 * s.layer.mixer.n_heads * s.layer.mixer.key_dim),
    Line("roots of queries and keys, decays and betas", lambda s: 4 * s.n * (2 * s.layer.mixer.n_key_heads + 9 * s.layer.mixer.n_heads)),
    Line("matrices of chunks, and states between them", lambda s: 4 * _chunk_numbers(s)),
    Line("masks of chunks", lambda s: s.n * min(DELTA_CHUNK, s.seq_len)),
    Line(
        "norm of the output",
        lambda s: norm_bytes(s.layer.mixer.norm, s.n * s.layer.mixer.n_heads, s.layer.mixer.value_dim, s.run, feeds_product=False),
    ),
    Line("that norm's result", lambda s: 4 * s.n * _values(s) if s.c != 4 or s.layer.mixer.norm.weight or not s.run.fused_norm else 0),
    Line("gate of the output", lambda s: 4 * s.n * _values(s)),
    Line("the gated output", lambda s: s.c * s.n * _values(s)),
    Line("weights, cast to the activations' type", lambda s: s.cast(s.d * (_mixed(s) + 2 * _values(s) + 2 * s.layer.mixer.n_heads))),
)

_INNER = {"swiglu": 3, "relu2": 2, "gelu": 5, "geglu": 7, "clamped_swiglu": 7}
"""Tensors [N, F] that an MLP keeps: its projections' results, what stands between, and what goes into the last product."""
_INNER_BACK = {"swiglu": 4, "relu2": 1, "gelu": 2, "geglu": 2, "clamped_swiglu": 2}
"""The same that backward holds at once beyond them."""


def _matrices(activation: str) -> int:
    return 3 if activation in GATED else 2


_DENSE: tuple[Line, ...] = (
    Line("inner tensors", lambda s: s.c * s.n * s.layer.mlp.d_ff * _INNER[s.layer.mlp.activation]),
    Line(
        "weights, cast to the activations' type",
        lambda s: s.cast(s.d * s.layer.mlp.d_ff * _matrices(s.layer.mlp.activation)),
    ),
)


def _rows(s: Sizes) -> int:
    """Tokens that experts work on, each A times."""
    return s.n * s.layer.mlp.n_active


def _router_input(s: Sizes) -> int:
    if s.c == 4:
        return 0
    norm, given = s.layer.norm, s.c * s.n * s.d
    if s.layer.placement != "after":
        given = norm_bytes(norm, s.n, s.d, s.run) - norm_bytes(norm, s.n, s.d, s.run, feeds_product=False)
    return 4 * s.n * s.d - (given if s.layer.mlp.shared is None else 0)


def _routing(s: Sizes) -> int:
    """Scores, and of each row which expert, which token (8 bytes each, and the order once more) and which weight."""
    mlp = s.layer.mlp
    scored = mlp.n_active if mlp.router.score == "softmax_of_chosen" else mlp.n_experts
    shares = 4 * (_rows(s) + 3 * s.n) if mlp.router.renormalize else 0  # weights, their sums, and these once clamped
    return 4 * s.n * scored + (3 * 8 + s.c) * _rows(s) + shares


def _shared_bytes(s: Sizes) -> int:
    mlp = s.layer.mlp
    return 0 if mlp.shared is None else s.c * s.n * (mlp.shared.d_ff * _INNER[mlp.shared.activation] + mlp.shared_gate * (s.d + 1))


def _expert_weights(s: Sizes) -> int:
    """Numbers of the experts' matrices of one kind, X x D x F."""
    return s.layer.mlp.n_experts * s.d * s.layer.mlp.d_ff


_EXPERTS: tuple[Line, ...] = (
    Line("the router's input in fp32, and without a shared MLP not in the activations' type", _router_input),
    Line("scores and choice", _routing),
    Line("rows that go to experts, and what they gave", lambda s: 2 * s.c * _rows(s) * s.d),
    Line("inner tensors of experts", lambda s: s.c * _rows(s) * s.layer.mlp.d_ff * _INNER[s.layer.mlp.activation]),
    Line("experts' weights, cast to the activations' type", lambda s: s.cast(_expert_weights(s) * _matrices(s.layer.mlp.activation))),
    Line("the shared MLP", _shared_bytes),
    Line("its weights, cast", lambda s: s.cast(_shared_numbers(s))),
)
"""Where every expert has as many tokens as any other."""


def _shared_numbers(s: Sizes) -> int:
    shared = s.layer.mlp.shared
    return 0 if shared is None else s.d * (shared.d_ff * _matrices(shared.activation) + s.layer.mlp.shared_gate)


SAVED: dict[type, tuple[Line, ...]] = {
    Attention: _ATTENTION,
    LatentAttention: _LATENT,
    LinearMixer: _LINEAR,
    Dense: _DENSE,
    Experts: _EXPERTS,
}
"""What a mixer or an MLP keeps for its backward where nothing is computed again, beside ``NORMS``."""


def _gated_attention(s: Sizes) -> int:
    """Gone by then: the output, its gate and their product but for a gradient in place of one; there: a gradient of the input."""
    return s.c * s.n * (s.d - 2 * s.q) + 4 * s.d * s.q if s.layer.mixer.output_gate else 0


def _scores_back(s: Sizes) -> int:
    back = s.c * max(s.scores_at_once, s.n * s.joint)
    if s.c == 4 or not getattr(s.layer.mixer, "sinks", False):
        return back
    # a softmax with sinks makes an fp32 copy of a block's scores; going forward once more it stands beside queries and keys as projected
    largest = max(n * keys for n, keys in key_blocks(s.seq_len, s.window, s.block))
    return max(back, (s.c + 4) * s.batch * s.layer.mixer.n_heads * largest + s.c * s.n * (s.q + s.kv))


_ATTENTION_BACK: tuple[Line, ...] = (
    Line("gradients of queries, keys and values, and of the output in its place", lambda s: s.c * s.n * s.joint),
    Line("scores, or the gradient of the joint product", _scores_back),
    Line("gradient of a block's output", lambda s: s.c * s.block_output),
    Line("gradient of the output's matrix", lambda s: 4 * s.d * s.attended),
)


def _experts_back(s: Sizes) -> int:
    """The largest of: the shared MLP's backward; rows or their gradients; one expert's backward; the end, when matrices' are stacked.

    Beyond what is kept, so what is gone by then is taken off.
    """
    mlp = s.layer.mlp
    rows, matrices, one = s.c * _rows(s) * s.d, _matrices(mlp.activation), 4 * _expert_weights(s)
    shared_first = after_shared = without_shared = 0
    if mlp.shared is not None:
        inner = s.c * s.n * mlp.shared.d_ff
        shared_first = inner * _INNER_BACK[mlp.shared.activation] + 4 * s.d * mlp.shared.d_ff
        without_shared = -_shared_bytes(s) - s.cast(_shared_numbers(s))
        after_shared = without_shared + s.c * s.n * s.d + 4 * _shared_numbers(s)
    # going forward once more; a processor adds rows of 16 bits in fp32
    combined = without_shared + rows + s.c * s.n * s.d + (0 if s.c == 4 else 4 * s.n * s.d)
    largest = s.c * (_rows(s) // mlp.n_experts) * mlp.d_ff
    expert = largest * _INNER_BACK[mlp.activation] + 4 * s.d * mlp.d_ff
    gone = 2 * rows + s.c * _rows(s) * mlp.d_ff * _INNER[mlp.activation] + s.cast(_expert_weights(s) * matrices)
    stacking = max((matrices + 1) * one + rows, matrices * one + 2 * rows) - gone
    return max(combined, shared_first, after_shared + max(2 * rows, expert, stacking))


def _inner_back(s: Sizes) -> int:
    """Inside the activation; or before it, at the last product, where the gradient of the branch is not that of the stream."""
    mlp = s.layer.mlp
    before = mlp.d_ff + s.d * (s.layer.placement in ("sandwich", "after"))
    return s.c * s.n * max(mlp.d_ff * _INNER_BACK[mlp.activation], before)


WORKING: dict[type, tuple[Line, ...]] = {
    Attention: (*_ATTENTION_BACK, Line("the gate of the output", _gated_attention)),
    LatentAttention: _ATTENTION_BACK,
    LinearMixer: (
        Line("gradients at the gate of the output", lambda s: (4 * 4 + (4 - s.c)) * s.n * _values(s)),
        Line("gradient of the output's matrix", lambda s: 4 * s.d * _values(s)),
    ),
    Dense: (
        Line("gradients of the inner tensors", _inner_back),
        Line("gradient of the last matrix", lambda s: 4 * s.d * s.layer.mlp.d_ff),
    ),
    Experts: (Line("gradients of rows, inner tensors and experts' matrices", _experts_back),),
}
"""What backward holds at most in a branch, beyond the saved tensors and the gradient of the stream."""


def lines(table: dict[type, tuple[Line, ...]], sizes: Sizes, around: tuple[Line, ...] = ()) -> dict[str, dict[str, int]]:
    """Bytes of a layer by branch and line: "mixer" or "mlp" -> name -> bytes; lines of ``around`` come first in either."""
    branches = {"mixer": sizes.layer.mixer, "mlp": sizes.layer.mlp}
    return {part: {line.name: line.n_bytes(sizes) for line in (*around, *table[type(kind)])} for part, kind in branches.items()}
