"""Bytes of a training step, predicted by category over the step's moments; the peak is the largest moment.

What each kind of layer keeps between forward and backward, and needs on top of it, stands in the tables of ``saved``; here is the order in
which it comes and goes. What backward computes again (``Execution.recompute``) is there while it is in that part, and not before. Experts
are predicted with as many tokens for each as for any other.

Symbols: N tokens of one micro-batch (batch_size x seq_len), D d_model, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from groundup.account.component import Weight
from groundup.account.cost import Cost, cost
from groundup.account.execution import CPU, Execution
from groundup.account.saved import NORM, NORMS, OUT_NORM, SAVED, WORKING, Sizes, lines, norm_bytes, norm_working
from groundup.account.workload import Training
from groundup.config import PRIOR_GATE_WIDTH, SOAP_SIDE, Attention, LatentAttention, ModelConfig
from groundup.errors import UsageError

MOMENTS: dict[str, int] = {"sgd": 1, "adamw": 2, "muon": 1, "soap": 2}
"""Moments of each parameter, in fp32, by method (sgd with momentum)."""


PACKED_ROWS = 256
"""Rows of a transposed factor in 16 bits that a processor's matrix product lays out anew at a time: 192 to 304 were seen."""


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
    """Numbers of optimizer state: one method for the layers' matrices, one for everything else.

    Raises UsageError for a method that is not known, and for SOAP on experts, whose matrices stand in one tensor of three dims.
    """
    for method in (matrices, others):
        if method not in MOMENTS:
            raise UsageError(f"optimizer {method!r} has no known state; choose one of {', '.join(MOMENTS)}")
    stacked = [w.name for w in weights if w.kind == "matrix" and len(w.shape) > 2]
    if matrices == "soap" and stacked:
        raise UsageError(f"optimizer soap moves single matrices, and {stacked[0]} is a stack of experts' ones: choose muon, adamw or sgd")
    moments = sum(w.numbers * MOMENTS[matrices if w.kind == "matrix" else others] for w in weights)
    if matrices != "soap":
        return moments
    # of each side that is not too long, a Gram matrix and its eigenbasis
    return moments + sum(2 * side**2 for w in weights if w.kind == "matrix" for side in w.shape if side <= SOAP_SIDE)


def saved_bytes(config: ModelConfig, workload: Training) -> list[dict[str, dict[str, int]]]:
    """Bytes that each layer's backward needs, computed again or not: for each layer, part -> name of the line in ``SAVED`` -> bytes."""
    sizes = config.d_model, workload.batch_size, workload.seq_len, workload.run or CPU
    return [lines(SAVED, Sizes(layer, *sizes), NORMS) for layer in config.layers]


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
        f"layers.{i}.{part}": held[NORM] + held[OUT_NORM] if part == again else sum(held.values())
        for i, layer in enumerate(layers)
        for part, held in layer.items()
    }


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


def rotary_dims(config: ModelConfig) -> list[int]:
    """Of each table of cosines and sines that the layers share: how many dims of a head it turns."""
    tables = {}
    for layer in config.layers:
        a = layer.mixer
        if isinstance(a, Attention | LatentAttention) and a.rotary is not None:
            width = a.rotary_dim if isinstance(a, LatentAttention) else a.head_dim
            tables[width, a.rotary] = a.rotary.dims or width
    return list(tables.values())


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
        if config.learned_positions:
            total += 8 * n
        total += c * self.workload.seq_len * sum(rotary_dims(config))
        stream, whole = c * n * config.d_model, self.run.recompute == "layers"
        first = config.layers[0].placement if config.layers else "post"
        total += stream * (first == "post" and not (whole and config.layers))
        if config.embedding_norm is not None:
            alone, read = (norm_bytes(config.embedding_norm, n, config.d_model, self.run, feeds_product=feeds) for feeds in (False, True))
            total += alone - stream * (alone == read and (whole or first in ("post", "after")))  # what it keeps is the stream itself
        return total

    def after_layers(self) -> int:
        """What lives above them, until backward comes down to them: the final norm's output and the gate's inputs."""
        n, config, c = self.n, self.config, self.run.number_bytes
        total = norm_bytes(config.final_norm, n, config.d_model, self.run) if config.final_norm else c * n * config.d_model
        if config.prior is not None and self.workload.prior_shape is not None:
            experts, features = self.workload.prior_shape
            total += 4 * n * (experts + features + PRIOR_GATE_WIDTH + 2 * (experts + 1))
        return total

    def unread(self) -> int:
        """What no product reads of the last layer's closing norm where the final norm keeps what it needs itself."""
        config, run = self.config, self.run
        if not config.layers or config.layers[-1].placement != "post" or config.final_norm is None or run.recompute == "layers":
            return 0
        kept, alone = (norm_bytes(config.layers[-1].norm, self.n, config.d_model, run, feeds_product=feeds) for feeds in (True, False))
        return kept - alone

    def loss_moments(self, before: int, saved: int) -> list[Moment]:
        """The head: gradients of hidden states and matrix are taken chunk by chunk going forward, and scaled into copies going back."""
        c, n, d, v = self.run.number_bytes, self.n, self.config.d_model, self.config.vocab_size
        head, cast = c * n * d + 4 * v * d, 0 if c == 4 else c * v * d
        rows = min(n, max(32, self.run.loss_chunk_bytes // (4 * v)))
        # of a chunk: logits, with a cap also what tanh gave and its slope, with a bias the gradient scaled for it; and the last chunk's
        # logits live until the next one's are there
        capped, bias = self.config.logit_softcap is not None, self.config.head_bias
        one, factors = rows * v * 4, rows * d * c  # hidden states times their factors, for the matrix's gradient
        chunks = one * (3 if capped else 1 + bias) + max(one * (n > rows), 0 if capped or bias else factors)
        if c != 4:  # both types side by side; the matrix's gradient comes in the activations' type, and a processor packs its factors
            held, packed = 6 + 4 * capped, 2 * rows * (d + min(v, PACKED_ROWS)) if self.run.fused_norm else 0
            alive = (16 if capped else 12) if n > rows else 12 if capped else 8 if bias else 6
            chunks = max(rows * v * alive, rows * v * held + factors + packed + 2 * v * d, rows * v * held + 6 * v * d)
        return [
            Moment("loss, forward", self.categories(before, saved, head + cast + chunks)),
            Moment("loss, backward", self.categories(before, saved, 2 * head + cast)),
        ]

    def moments(self) -> list[Moment]:
        """Loss, then back through the layers: what they saved goes as the gradients come, unless those stand already."""
        config, stream = self.config, self.run.number_bytes * self.n * self.config.d_model
        layers, kept = saved_bytes(config, self.workload), kept_bytes(config, self.workload)
        below, above = self.before_layers(), self.after_layers() - self.unread()
        saved = below + sum(kept.values())
        standing = self.all_gradients() if self.workload.micro_batches > 1 else 0
        new: dict[str, int] = {}  # bytes of gradients by branch, such as layers.0.mlp
        for weight in self.cost.weights:
            branch = ".".join(weight.name.split(".")[:3])
            new[branch] = new.get(branch, 0) + self.gradient(weight)
        found = self.loss_moments(standing, saved + above)
        gradients = standing or 4 * config.vocab_size * config.d_model
        for i in reversed(range(len(layers))):
            placement = config.layers[i].placement
            working = lines(WORKING, Sizes(config.layers[i], config.d_model, self.workload.batch_size, self.workload.seq_len, self.run))
            ended = {"pre": None, "post": NORM}.get(placement, OUT_NORM)  # gone before the branch itself
            needs = {part: sum(found.values()) for part, found in layers[i].items()}
            whole = self.run.recompute == "layers"
            if whole:  # its input stays until all of it is gone; where no norm stands before it, it is what the mixer keeps
                needs["mixer"] -= stream * (placement == "after")
                saved += sum(needs.values())
            for part in ("mlp", "mixer"):
                if outer := norm_working(config.layers[i], self.n, config.d_model, self.run):
                    found.append(Moment(f"backward, layer {i}, norm of {part}", self.categories(gradients, saved, stream + outer)))
                if not whole:
                    saved += needs[part] - kept[f"layers.{i}.{part}"]
                gone = layers[i][part].get(ended, 0)
                held = stream + sum(working[part].values())
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
        if weight.kind == "matrix":  # of experts, each one's matrix
            shape = tuple(sorted(weight.shape[-2:]))
            stacks[shape] = stacks.get(shape, 0) + math.prod(weight.shape[:-2])
    if matrices == "soap":
        return 4 * max((count * max(5 * r * c, r * c + 4 * c * c) for (r, c), count in stacks.items()), default=0)
    iteration = before = 0
    for (r, c), count in stacks.items():
        wide, square = (3, 3) if not run.fused_norm else (3, 4) if c >= 2 * r else (4, 3)  # see ``optim.orthogonal``
        iteration = max(iteration, before + count * r * (wide * c + square * r))
        before = count * r * c  # a stack's result lives until the next one's is there
    return 4 * (sum(count * r * c for (r, c), count in stacks.items()) + iteration)
