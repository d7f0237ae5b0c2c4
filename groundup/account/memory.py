"""Bytes of a training step, predicted by category over the step's moments; the peak is the largest moment.

What the decoder keeps between forward and backward is a table here, ``SAVED``, one line a tensor; what backward needs on top of it
while it is in a layer is ``WORKING``. Both mirror ``model`` and ``kernels`` line by line, so a change there is a line here. What backward
computes again (``Execution.recompute``) is there while it is in that part, and not before.

Symbols: N tokens of one micro-batch (batch_size x seq_len), D d_model, H heads, K kv heads, E head_dim, F d_ff, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

from groundup.account.attention_work import key_blocks
from groundup.account.component import Component, Weight
from groundup.account.cost import Cost, cost
from groundup.account.execution import CPU as CPU
from groundup.account.execution import GPU as GPU
from groundup.account.execution import Execution as Execution
from groundup.account.kinds import check_predicted
from groundup.account.tree import executed_pairs
from groundup.account.workload import Training
from groundup.config import PRIOR_GATE_WIDTH, SOAP_SIDE, Layer, ModelConfig, Norm
from groundup.errors import UsageError

MOMENTS: dict[str, int] = {"sgd": 1, "adamw": 2, "muon": 1, "soap": 2}
"""Moments of each parameter, in fp32, by method (sgd with momentum)."""


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
    def probabilities(self) -> int:
        """Numbers in the attention probabilities that are kept."""
        block = self.run.attention_block
        return 0 if block is None else self.batch * self.layer.mixer.n_heads * executed_pairs(self.seq_len, self.layer.mixer.window, block)

    @property
    def scores_at_once(self) -> int:
        """Numbers of scores that backward holds: a block's gradients of probabilities and of scores, and the latter of the block before."""
        if self.run.attention_block is None:
            return 0
        blocks = [n * s for n, s in key_blocks(self.seq_len, self.layer.mixer.window, self.run.attention_block)]
        return self.batch * self.layer.mixer.n_heads * max(before + 2 * block for before, block in pairwise([0, *blocks]))


class Line(NamedTuple):
    """One entry of a table of tensors."""

    part: Literal["mixer", "mlp"]
    """Which branch of the layer it belongs to: backward frees the MLP's before it comes to the mixer's."""
    name: str
    """Which tensor."""
    n_bytes: Callable[[Sizes], int]
    """Its bytes."""


def norm_bytes(norm: Norm, rows: int, dim: int, run: Execution, *, feeds_product: bool = True) -> int:
    """Bytes that one norm over [rows, dim] keeps, its output included where a product will keep it.

    Fused RMSNorm keeps its output before the gain and one fp32 number a row. The plain form keeps its fp32 input (LayerNorm: centred),
    one number a row, and its output before the gain if there is a gain. The output after the gain is kept by the product it feeds.
    """
    c = run.number_bytes
    output = rows * dim * c
    gain = norm.weight or norm.bias
    if run.fused_norm and norm.kind == "rms":
        return output + rows * 4 + (output if gain and feeds_product else 0)
    return rows * (dim + 1) * 4 + (output if norm.weight else 0) + (output if feeds_product else 0)


def _branch_norm(s: Sizes) -> int:
    return norm_bytes(s.layer.norm, s.n, s.d, s.run)


def _out_norm(s: Sizes) -> int:
    return norm_bytes(s.layer.norm, s.n, s.d, s.run, feeds_product=False) if s.layer.placement == "sandwich" else 0


def _qk_norm(s: Sizes) -> int:
    norm, a = s.layer.mixer.qk_norm, s.layer.mixer
    if norm is None:
        return 0
    if s.run.fused_norm and norm.kind == "rms" and not norm.weight and a.rotary is not None:  # one function keeps the whole joint product
        return s.c * s.n * (s.q + 2 * s.kv + a.n_heads + a.n_kv_heads)
    return norm_bytes(norm, s.n * (a.n_heads + a.n_kv_heads), a.head_dim, s.run, feeds_product=False)


def _inner(s: Sizes) -> int:
    return s.c * s.n * s.layer.mlp.d_ff


def _cast(s: Sizes, numbers: int) -> int:
    return 0 if s.c == 4 else s.c * numbers


NORM, OUT_NORM = "norm of the branch", "norm of what the branch gave"
"""They stand outside of mixer and MLP: only with the whole layer are they computed again."""

SAVED: tuple[Line, ...] = (
    Line("mixer", NORM, _branch_norm),
    Line("mixer", OUT_NORM, _out_norm),
    Line("mixer", "query, key and value weights joined for one product", lambda s: s.c * s.d * (s.q + 2 * s.kv)),
    Line("mixer", "queries and keys as their norm keeps them", _qk_norm),
    Line(
        "mixer",
        "value embedding: sigmoid, gate, rows looked up",
        lambda s: s.c * s.n * (2 * s.layer.mixer.n_kv_heads + s.kv) if s.layer.mixer.value_embedding else 0,
    ),
    Line("mixer", "queries, keys and values of attention", lambda s: s.c * s.n * (s.q + 2 * s.kv)),
    Line("mixer", "attention probabilities", lambda s: s.c * s.probabilities),
    Line("mixer", "attention's log-sum-exp", lambda s: 4 * s.n * s.layer.mixer.n_heads if s.run.attention_block is None else 0),
    Line("mixer", "attention's output", lambda s: s.c * s.n * s.q),
    Line("mixer", "output weights, cast to the activations' type", lambda s: _cast(s, s.d * s.q)),
    Line("mlp", NORM, _branch_norm),
    Line("mlp", OUT_NORM, _out_norm),
    Line("mlp", "inner tensors", lambda s: _inner(s) * {"swiglu": 3, "relu2": 2, "gelu": 5}[s.layer.mlp.activation]),
    Line(
        "mlp",
        "weights, cast to the activations' type",
        lambda s: _cast(s, s.d * s.layer.mlp.d_ff * (3 if s.layer.mlp.activation == "swiglu" else 2)),
    ),
)
"""What one layer keeps for its backward where nothing is computed again."""

WORKING: tuple[Line, ...] = (
    Line("mlp", "gradients of the inner tensors", lambda s: _inner(s) * {"swiglu": 4, "relu2": 1, "gelu": 2}[s.layer.mlp.activation]),
    Line("mixer", "gradients of queries, keys and values, and of the output in its place", lambda s: s.c * s.n * (s.q + 2 * s.kv)),
    Line("mixer", "scores, or the gradient of the joint product", lambda s: s.c * max(s.scores_at_once, s.n * (s.q + 2 * s.kv))),
    Line("mixer", "gradient of the output's matrix", lambda s: 4 * s.d * s.q),
)
"""What backward holds at most in a branch, beyond the saved tensors and the gradient of the stream."""


class Moment(NamedTuple):
    """A point of the step."""

    name: str
    """Which."""
    categories: dict[str, int]
    """Bytes by category."""

    @property
    def n_bytes(self) -> int:
        """All categories together."""
        return sum(self.categories.values())


class MemoryRow(NamedTuple):
    """One line of a memory table."""

    category: str
    """What the bytes are for."""
    n_bytes: int
    """How many at the peak."""
    share: float
    """Part of the peak, 0 to 1."""


@dataclass(frozen=True)
class Memory:
    """The predicted bytes of a training step."""

    timeline: tuple[Moment, ...]
    """Its moments, in order."""

    @property
    def peak(self) -> Moment:
        """The moment that needs most."""
        return max(self.timeline, key=lambda moment: moment.n_bytes)

    @property
    def peak_bytes(self) -> int:
        """Bytes at the peak, everything that was given included."""
        return self.peak.n_bytes

    def rows(self) -> list[MemoryRow]:
        """Categories at the peak, in order, those that are zero left out; they sum to ``peak_bytes``."""
        peak = self.peak
        return [MemoryRow(name, n, n / peak.n_bytes) for name, n in peak.categories.items() if n]


def optimizer_numbers(weights: tuple[Weight, ...], matrices: str, others: str) -> int:
    """Numbers of optimizer state: one method for the layers' matrices, one for everything else. UsageError for a method not known."""
    for method in (matrices, others):
        if method not in MOMENTS:
            raise UsageError(f"optimizer {method!r} has no known state; choose one of {', '.join(MOMENTS)}")
    moments = sum(w.numbers * MOMENTS[matrices if w.kind == "matrix" else others] for w in weights)
    if matrices != "soap":
        return moments
    # of each side that is not too long, a Gram matrix and its eigenbasis
    return moments + sum(2 * side**2 for w in weights if w.kind == "matrix" for side in w.shape if side <= SOAP_SIDE)


def saved_bytes(config: ModelConfig, workload: Training) -> list[dict[str, dict[str, int]]]:
    """Bytes that each layer's backward needs, computed again or not: for each layer, part -> name of the line in ``SAVED`` -> bytes."""
    check_predicted(config, "the memory of training")
    sizes = config.d_model, workload.batch_size, workload.seq_len, workload.run or CPU
    return [_evaluate(SAVED, Sizes(layer, *sizes)) for layer in config.layers]


def kept_bytes(config: ModelConfig, workload: Training) -> dict[str, int]:
    """Bytes that each branch of each layer keeps for backward, by its component's name, such as ``layers.0.mlp``.

    Of a layer that is computed again its input is kept, and counts as the mixer's.
    """
    layers, run = saved_bytes(config, workload), workload.run or CPU
    stream = run.number_bytes * workload.batch_size * workload.seq_len * config.d_model
    if run.recompute == "layers":
        return {f"layers.{i}.{part}": stream * (part == "mixer") for i, layer in enumerate(layers) for part in layer}
    again = {"attention": "mixer", "mlp": "mlp"}.get(run.recompute)
    return {
        f"layers.{i}.{part}": lines[NORM] + lines[OUT_NORM] if part == again else sum(lines.values())
        for i, layer in enumerate(layers)
        for part, lines in layer.items()
    }


def state_bytes(component: Component, *, matrices: str = "muon", others: str = "adamw") -> int:
    """Bytes of fp32 masters, gradients and moments of a component's parameters; UsageError for a method that is not known."""
    return 4 * (2 * component.parameters + optimizer_numbers(component.all_weights, matrices, others))


def _evaluate(table: tuple[Line, ...], sizes: Sizes) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {"mixer": {}, "mlp": {}}
    for line in table:
        found[line.part][line.name] = line.n_bytes(sizes)
    return found


def training_memory(
    config: ModelConfig,
    workload: Training,
    *,
    given: Mapping[str, int] | None = None,
) -> Memory:
    """Predicts the memory of a training step, by default as a processor takes it.

    With more than one micro-batch gradients of the whole model stand beside the activations of the later ones. ``given`` are bytes that
    live through the whole step and are known or measured: the process before training, a token store, the prior's tables.
    Raises UsageError for sizes or methods that make no sense.
    """
    workload.check_one_device("the memory of training")
    counted = cost(config, workload)
    run, others, matrices = workload.run or CPU, workload.others, workload.matrices
    step = _Step(config, counted, replace(workload, run=run))
    given = dict(given or {})
    standing = {
        "weights": 4 * counted.parameters,
        "optimizer moments": 4 * optimizer_numbers(counted.weights, matrices, others),
    }
    moments = [*step.moments(), Moment("optimizer step", step.categories(step.all_gradients(), 0, _update_bytes(counted, matrices, run)))]
    timeline = []
    for moment in moments:
        live = standing | moment.categories
        timeline.append(Moment(moment.name, given | live | {"allocator": round(run.allocator_overhead * sum(live.values()))}))
    return Memory(tuple(timeline))


@dataclass(frozen=True)
class _Step:
    config: ModelConfig
    cost: Cost
    workload: Training

    @property
    def run(self) -> Execution:
        return self.workload.run or CPU

    @property
    def n(self) -> int:
        return self.workload.batch_size * self.workload.seq_len

    @staticmethod
    def categories(gradients: int, activations: int, working: int) -> dict[str, int]:
        return {"gradients": gradients, "activations": activations, "working buffers": working}

    def gradient(self, weight: Weight) -> int:
        hashed = self.config.hash_embedding
        if weight.name == "hash_embedding.weight" and hashed is not None and hashed.sparse:
            touched = min(hashed.n_rows, self.n * len(hashed.orders))
            return touched * (4 * self.config.d_model + 8)  # values, and an int64 row number each
        return 4 * weight.numbers

    def all_gradients(self) -> int:
        return sum(map(self.gradient, self.cost.weights))

    def before_layers(self) -> int:
        """What lives below the layers: the batch and what the embedding keeps."""
        n, config, c = self.n, self.config, self.run.number_bytes
        total = n * (8 + 8 + 4)  # tokens, targets, documents
        if config.hash_embedding is not None:
            total += 8 * n * len(config.hash_embedding.orders)
        if config.embedding_norm is not None:
            total += norm_bytes(config.embedding_norm, n, config.d_model, self.run, feeds_product=False)
        if not config.layers or (config.layers[0].placement == "post" and self.run.recompute != "layers"):
            total += c * n * config.d_model
        return total

    def after_layers(self) -> int:
        """What lives above them, until backward comes down to them: the final norm's output and the gate's inputs."""
        n, config, c = self.n, self.config, self.run.number_bytes
        total = norm_bytes(config.final_norm, n, config.d_model, self.run) if config.final_norm else c * n * config.d_model
        if config.prior is not None and self.workload.prior_shape is not None:
            experts, features = self.workload.prior_shape
            total += 4 * n * (experts + features + PRIOR_GATE_WIDTH + 2 * (experts + 1))
        return total

    def loss_moments(self, before: int, saved: int) -> list[Moment]:
        """The head: gradients of hidden states and matrix are taken chunk by chunk going forward, and scaled into copies going back."""
        c, n, d, v = self.run.number_bytes, self.n, self.config.d_model, self.config.vocab_size
        head, cast = c * n * d + 4 * v * d, 0 if c == 4 else c * v * d
        rows = min(n, max(32, self.run.loss_chunk_bytes // (4 * v)))
        # of a chunk: logits, with a cap also what tanh gave and its slope, with a bias the gradient scaled for it; and the last chunk's
        # logits live until the next one's are there
        capped, bias = self.config.logit_softcap is not None, self.config.head_bias
        chunks = rows * v * 4 * ((3 if capped else 1 + bias) + (n > rows))
        if c != 4:  # both types side by side; and for the matrix's gradient a processor turns the logits' over
            product = 8 if self.run.fused_norm or bias else 6
            alive = (16 if capped else 12) if n > rows else (12 if capped else product)
            chunks = max(rows * v * alive, rows * v * product + 6 * v * d)
        return [
            Moment("loss, forward", self.categories(before, saved, head + cast + chunks)),
            Moment("loss, backward", self.categories(before, saved, 2 * head + cast)),
        ]

    def moments(self) -> list[Moment]:
        """Loss, then back through the layers: what they saved goes as the gradients come, unless those stand already."""
        config, stream = self.config, self.run.number_bytes * self.n * self.config.d_model
        layers, kept = saved_bytes(config, self.workload), kept_bytes(config, self.workload)
        below, above = self.before_layers(), self.after_layers()
        saved = below + sum(kept.values())
        standing = self.all_gradients() if self.workload.micro_batches > 1 else 0
        new: dict[str, int] = {}  # bytes of gradients by branch, such as layers.0.mlp
        for weight in self.cost.weights:
            branch = ".".join(weight.name.split(".")[:3])
            new[branch] = new.get(branch, 0) + self.gradient(weight)
        found = self.loss_moments(standing, saved + above)
        gradients = standing or 4 * config.vocab_size * config.d_model
        for i in reversed(range(len(layers))):
            working = _evaluate(WORKING, Sizes(config.layers[i], config.d_model, self.workload.batch_size, self.workload.seq_len, self.run))
            ended = {"pre": None, "post": NORM, "sandwich": OUT_NORM}[config.layers[i].placement]  # gone before the branch itself
            needs = {part: sum(lines.values()) for part, lines in layers[i].items()}
            whole = self.run.recompute == "layers"
            if whole:  # its input stays until all of it is gone
                saved += sum(needs.values())
            for part in ("mlp", "mixer"):
                if not whole:
                    saved += needs[part] - kept[f"layers.{i}.{part}"]
                held, gone = stream + sum(working[part].values()), layers[i][part].get(ended, 0)
                found.append(Moment(f"backward, layer {i}, {part}", self.categories(gradients, saved - gone, held)))
                gradients += 0 if standing else new[f"layers.{i}.{part}"]
                saved -= needs[part]
            if whole:
                saved -= kept[f"layers.{i}.mixer"]
        tables = sum(self.gradient(w) for w in self.cost.weights if w.kind == "table")
        twice = tables if standing else 4 * config.vocab_size * config.d_model if config.tied else 0
        found.append(Moment("backward, embedding", self.categories(self.all_gradients(), below, stream + twice)))
        return found


def _update_bytes(counted: Cost, matrices: str, run: Execution) -> int:
    """What a step of the matrices' method holds at most, beyond its state.

    Muon: the updates of all matrices, and for the largest stack of one shape [r, c], r <= c: the stack, the same divided by its norm, one
    or two iterates; and of [r, r] the first Gram matrix and two or three products. A GPU has less, in bf16. SOAP, one stack at a time:
    gradient, the same turned, scales, moment turned, update; or the four of [c, c] that renew an eigenbasis.
    """
    if matrices not in ("muon", "soap"):
        return 0
    stacks: dict[tuple[int, ...], int] = {}
    for weight in counted.weights:
        if weight.kind == "matrix":
            shape = tuple(sorted(weight.shape))
            stacks[shape] = stacks.get(shape, 0) + 1
    if matrices == "soap":
        return 4 * max((count * max(5 * r * c, r * c + 4 * c * c) for (r, c), count in stacks.items()), default=0)
    iteration = before = 0
    for (r, c), count in stacks.items():
        wide, square = (3, 3) if not run.fused_norm else (3, 4) if c >= 2 * r else (4, 3)  # see ``optim.orthogonal``
        iteration = max(iteration, before + count * r * (wide * c + square * r))
        before = count * r * c  # a stack's result lives until the next one's is there
    return 4 * (sum(count * r * c for (r, c), count in stacks.items()) + iteration)
