"""How a training step is spread over devices, and what each then holds and sends: data, tensor and pipeline parallelism, ZeRO.

A layout is data x tensor x pipeline devices. Tensor parallelism splits every matrix (Shoeybi et al. 2019) and, as sequence parallelism,
everything between them (Korthikanti et al. 2022); the pipeline splits the layers, one micro-batch forward, one backward (Narayanan et
al. 2021); ZeRO splits what data parallel devices would otherwise all hold (Rajbhandari et al. 2020).

Symbols: P parameters, B sequences of a micro-batch, T tokens of a sequence, D d_model, H heads, K kv heads, E head_dim, F d_ff,
V vocabulary, d, t and p devices of each kind, m micro-batches of a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from groundup.account.cost import Cost, cost
from groundup.account.kinds import check_predicted
from groundup.account.workload import Training
from groundup.config import Layer, ModelConfig
from groundup.errors import UsageError

Policy = Literal["none", "selective", "layers"]
"""What is computed again: nothing, attention's probabilities, or all but each layer's input."""
INNER = {"gelu": 2, "relu2": 2, "swiglu": 3}
"""Tensors of width F that an MLP keeps: before and after its activation; SwiGLU also the gate."""


CORE = "attention's probabilities"
"""The line that selective recomputation drops."""


class StateBytes(NamedTuple):
    """Bytes of state a parameter."""

    weights: float
    """Of the weights that are multiplied."""
    gradients: float
    """Of their gradients."""
    master: float
    """Of an fp32 copy beside them."""
    moments: float
    """Of the optimizer's moments."""


MIXED_ADAMW = StateBytes(2, 2, 4, 8)
"""16-bit weights and gradients, fp32 master copy and two moments: 16 bytes (Rajbhandari et al. 2020, section 3.1)."""
FP32_ADAMW = StateBytes(4, 4, 0, 8)
"""All in fp32, the weights being their own master, as groundup's trainer holds them: 16 bytes too."""


class Graph(NamedTuple):
    """What of a layer's forward pass an implementation keeps."""

    fused_attention: bool = True
    """A kernel that keeps no probabilities (Dao et al. 2022), or all T x T of them."""
    dropout: bool = False
    """Masks of dropout after attention's probabilities, attention and MLP, a byte each."""
    number_bytes: int = 2
    """Bytes of an activation, and of a weight or gradient that is sent."""
    loss_chunk_bytes: int | None = 256 << 20
    """fp32 logits that exist at a time; None: all of a micro-batch."""


MODERN = Graph()
"""Fused attention, no dropout, chunked loss: what groundup and today's trainers do."""


@dataclass(frozen=True)
class Layout:
    """Who does what."""

    data: int = 1
    """d, replicas that see different sequences."""
    tensor: int = 1
    """t, devices that share every matrix, and the sequence between the matrices."""
    pipeline: int = 1
    """p, stages of consecutive layers."""
    zero: int = 0
    """ZeRO stage: over data parallel devices are split 1 the optimizer's state, 2 gradients as well, 3 weights as well."""
    micro_batch: int = 1
    """B, sequences of a replica that go through at a time."""
    recompute: Policy = "none"
    """What backward computes again: nothing, attention's core, or all of a layer from its input."""
    interleave: int = 1
    """v, runs of consecutive layers that each stage has, so that its turn comes v times as often."""

    @property
    def devices(self) -> int:
        """d x t x p."""
        return self.data * self.tensor * self.pipeline

    def __str__(self) -> str:
        """For people: data 4 (ZeRO-1) x tensor 2."""
        zero = f" (ZeRO-{self.zero})" if self.zero else ""
        parts = [f"data {self.data}{zero}"] if self.data > 1 else []
        parts += [f"{name} {n}" for name, n in (("tensor", self.tensor), ("pipeline", self.pipeline)) if n > 1]
        if self.interleave > 1:
            parts[-1] += f" (interleaved {self.interleave})"
        return " x ".join(parts) or "one device"

    def check(self, config: ModelConfig) -> None:
        """UsageError for a layout that cannot be, or into which the model does not divide."""
        for name in ("data", "tensor", "pipeline", "micro_batch", "interleave"):
            if getattr(self, name) < 1:
                raise UsageError(f"a layout's {name} must be at least 1, not {getattr(self, name)}")
        if self.zero not in (0, 1, 2, 3):
            raise UsageError(f"ZeRO has stages 0 to 3, not {self.zero}")
        runs = self.pipeline * self.interleave
        if runs > max(1, len(config.layers)) or (self.interleave > 1 and (self.pipeline == 1 or len(config.layers) % runs)):
            what = f"{self.pipeline} pipeline stages" + (f" of {self.interleave} runs of layers each" if self.interleave > 1 else "")
            raise UsageError(f"{what} do not go with a model of {len(config.layers)} layers")
        check_predicted(config, "a layout")
        for layer in config.layers:
            kv = layer.mixer.n_kv_heads
            for name, n in (("query heads", layer.mixer.n_heads), ("d_ff", layer.mlp.d_ff), ("kv heads", max(kv, self.tensor))):
                if n % self.tensor or (name == "kv heads" and n % kv):  # fewer kv heads than devices are copied
                    raise UsageError(f"tensor parallelism over {self.tensor} devices does not divide the {name} {n}; choose a divisor")

    def bubble(self, micro_batches: int) -> float:
        """(p - 1) / (v m): idle time of a step over its working time (Narayanan et al. 2021, section 2.2)."""
        return (self.pipeline - 1) / (self.interleave * micro_batches)

    def in_flight(self, stage: int, micro_batches: int) -> float:
        """Micro-batches whose activations stage i keeps: at most m, and p - i, or with v > 1 runs p + (p - 1 - 2i) / v.

        Of the first stage that is p (1 + (p - 1) / (p v)), Korthikanti et al. 2022, section 4.2.3.
        """
        p, v = self.pipeline, self.interleave
        return min(micro_batches, p - stage if v == 1 else p + (p - 1 - 2 * stage) / v)


def state_bytes(parameters: float, *, zero: int = 0, data: int = 1, state: StateBytes = MIXED_ADAMW) -> dict[str, float]:
    """Bytes of state on each of d data parallel devices (Rajbhandari et al. 2020, figure 1), w, g and s being weights, gradients, the rest.

    ZeRO-0 (w + g + s) P; 1 (w + g + s/d) P; 2 (w + (g + s)/d) P; 3 (w + g + s) P / d.
    """
    split = {"weights": zero >= 3, "gradients": zero >= 2, "master": zero >= 1, "moments": zero >= 1}
    names = {"master": "master copies", "moments": "optimizer moments"}
    return {names.get(part, part): getattr(state, part) * parameters / (data if split[part] else 1) for part in StateBytes._fields}


def layer_activation_lines(layer: Layer, d_model: int, seq_len: int, graph: Graph) -> Iterator[tuple[str, float, bool]]:
    """What a layer keeps for each token: name, bytes, and whether tensor parallelism splits it even without sequence parallelism.

    With LayerNorm, GELU, F = 4 D, as many kv heads as heads, dropout and plain attention: 34 D + 5 H T bytes (Korthikanti et al. 2022,
    equation 1, with its h = D, a = H, s = T).
    """
    a, c = layer.mixer, graph.number_bytes
    q, kv = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim
    norms = 4 if layer.placement == "sandwich" else 2
    yield "inputs of norms", c * norms * d_model, False
    yield "input of query, key and value", c * d_model, False
    yield "queries, keys and values", c * (q + 2 * kv), True
    if a.qk_norm is not None:
        yield "queries and keys before their norm", c * (q + kv), True
    if graph.fused_attention:
        yield "attention's log-sum-exp", 4 * a.n_heads, True
    else:
        yield CORE, a.n_heads * seq_len * (c + ((1 + c) if graph.dropout else 0)), True
    yield "attention's output", c * q, True
    yield "input of the MLP", c * d_model, False
    yield "inner tensors of the MLP", c * INNER[layer.mlp.activation] * layer.mlp.d_ff, True
    if graph.dropout:
        yield "masks of dropout", 2 * d_model, False


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
    probabilities, recomputation of layers all but the layer's input, 2 B T D.
    """
    if recompute == "layers":
        return micro_batch * seq_len * graph.number_bytes * d_model / (tensor if sequence_parallel else 1)
    total = 0.0
    for name, n_bytes, split in layer_activation_lines(layer, d_model, seq_len, graph):
        if not (recompute == "selective" and name == CORE):
            total += n_bytes / (tensor if split or sequence_parallel else 1)
    return micro_batch * seq_len * total


@dataclass(frozen=True, eq=False)
class Counted:
    """A model counted once, for the many layouts that are tried of it."""

    config: ModelConfig
    """The model."""
    seq_len: int
    """T."""

    @cached_property
    def cost(self) -> Cost:
        """Its cost tree."""
        return cost(self.config, Training(self.seq_len))

    @cached_property
    def layers_forward_flops(self) -> int:
        """Of all layers, for one sequence."""
        return sum(part.forward_flops for part in self.cost.tree.parts if part.name == "layers")

    def exchanges(self, share: Share) -> tuple[int, int]:
        """Times that tensor parallel devices gather and scatter a micro-batch's rows forward: of a share's embedding and head, and of its
        layers."""
        parts = {part.name: part for part in self.cost.tree.parts}
        edges = share.embedding * parts["embedding"].exchanges + share.head * parts["head"].exchanges
        return edges, sum(parts["layers"].parts[i].exchanges for i in share.layers)

    @cached_property
    def kinds(self) -> tuple[tuple[Layer, ...], tuple[int, ...]]:
        """Its different layers, and which of them each layer is."""
        different = tuple(dict.fromkeys(self.config.layers))
        return different, tuple(map(different.index, self.config.layers))

    def parameters(self, tensor: int) -> tuple[float, float, tuple[float, ...]]:
        """Parameters on one of t devices: embedding tables, head with final norm, each layer; matrices split, vectors whole."""
        if tensor not in self._by_tensor:
            split, whole = self._numbers
            embedding, head, *layers = (m / tensor + v for m, v in zip(split, whole, strict=True))
            self._by_tensor[tensor] = (embedding, head, tuple(layers))
        return self._by_tensor[tensor]

    @cached_property
    def _by_tensor(self) -> dict[int, tuple[float, float, tuple[float, ...]]]:
        return {}

    @cached_property
    def _numbers(self) -> tuple[list[int], list[int]]:
        """Numbers in what is split and in vectors: of embedding, head, and each layer."""
        split, whole = [0] * (2 + len(self.config.layers)), [0] * (2 + len(self.config.layers))
        for weight in self.cost.weights:
            path = weight.name.split(".")
            at = 2 + int(path[1]) if path[0] == "layers" else int(path[0].startswith(("head", "final_norm", "gate")))
            (whole if weight.kind == "vector" else split)[at] += weight.numbers
        return split, whole


class Share(NamedTuple):
    """What of the model one device holds."""

    layers: range
    """Indices of its stage's layers."""
    parameters: float
    """P of this device."""
    largest_layer: float
    """Parameters of its largest layer, on this device."""
    embedding: bool
    """Whether it has the embedding."""
    head: bool
    """Whether it has the head."""


class Held(NamedTuple):
    """Bytes of a device at the peak of a step."""

    stage: int
    """The pipeline stage that needs most."""
    categories: dict[str, float]
    """Bytes by what they are for; those that are zero left out."""

    @property
    def n_bytes(self) -> float:
        """All of them."""
        return sum(self.categories.values())


class Sent(NamedTuple):
    """What a device sends in a step."""

    name: str
    """What is sent."""
    n_bytes: float
    """Bytes that this device sends, and receives."""
    group: Literal["data", "tensor", "pipeline"]
    """To whom."""


@dataclass(frozen=True)
class Spread:
    """A model's training step in a layout."""

    counted: Counted
    """The model, on sequences of one length."""
    layout: Layout
    """Who does what."""
    micro_batches: int
    """m, micro-batches of a replica in a step."""
    state: StateBytes = MIXED_ADAMW
    """Bytes a parameter."""
    graph: Graph = MODERN
    """What a layer keeps."""

    def shares(self) -> Iterator[Share]:
        """What each stage holds: layers as evenly as can be, the first stages one more."""
        config, p = self.counted.config, self.layout.pipeline
        embedding, head, by_layer = self.counted.parameters(self.layout.tensor)
        each, more = divmod(len(by_layer), p)
        start = 0
        for stage in range(p):
            layers = range(start, start + each + (stage < more))
            first, last = stage == 0, stage == p - 1
            own = by_layer[layers.start : layers.stop]
            tied_copy = embedding if config.tied and last and not first else 0  # the last stage has a copy to make logits with
            parameters = sum(own) + (embedding if first else 0) + (head + tied_copy if last else 0)
            yield Share(layers, parameters, max(own, default=0), first, last)
            start = layers.stop

    @cached_property
    def held(self) -> Held:
        """The stage that needs most memory: stage i keeps the activations of min(m, p - i) micro-batches."""
        found = (Held(stage, self.stage_bytes(stage, share)) for stage, share in enumerate(self.shares()))
        return max(found, key=lambda held: held.n_bytes)

    def stage_bytes(self, stage: int, share: Share) -> dict[str, float]:
        """Bytes of a device of one stage, by what they are for."""
        o, d_model, seq_len = self.layout, self.counted.config.d_model, self.counted.seq_len
        different, which = self.counted.kinds
        alike = Counter(which[share.layers.start : share.layers.stop])
        sizes = {"seq_len": seq_len, "micro_batch": o.micro_batch, "tensor": o.tensor, "graph": self.graph}
        of = {kind: layer_activation_bytes(different[kind], d_model, recompute=o.recompute, **sizes) for kind in alike}
        kept = sum(n * of[kind] for kind, n in alike.items())
        again = 0.0
        if o.recompute != "none":
            again = max((layer_activation_bytes(different[kind], d_model, **sizes) - of[kind] for kind in alike), default=0.0)
        tokens = o.micro_batch * seq_len
        logits = 4 * tokens * self.counted.config.vocab_size / o.tensor if share.head else 0.0
        if self.graph.loss_chunk_bytes is not None:
            logits = min(logits, self.graph.loss_chunk_bytes)
        edges = (
            self.graph.number_bytes * tokens * d_model / o.tensor * (share.embedding + 2 * share.head)
        )  # embedding's rows; final norm, head's input
        gathered = (
            self.graph.number_bytes * 2 * share.largest_layer if o.zero == 3 and o.data > 1 else 0.0
        )  # the layer at work and the next
        found = state_bytes(share.parameters, zero=o.zero, data=o.data, state=self.state) | {
            "activations": kept * o.in_flight(stage, self.micro_batches) + edges,
            "layer computed again": again,
            "logits and their gradient": 2 * logits,
            "weights gathered": gathered,
        }
        return {name: n for name, n in found.items() if n}

    @cached_property
    def sent(self) -> tuple[Sent, ...]:
        """Bytes that a device sends in a step; a ring moves (n - 1)/n of a tensor to gather or to reduce-scatter it, twice that to do both.

        Data: gradients reduced, 2 (d-1)/d g P once; ZeRO-1 and 2 gather weights instead of gradients, the same volume, but ZeRO-2
        reduces after each micro-batch; ZeRO-3 gathers weights before forward and before backward of each micro-batch and reduces its
        gradients, 3 volumes (Rajbhandari et al. 2020, section 7). Tensor: a layer gathers and reduce-scatters B T D twice forward and
        twice backward (Korthikanti et al. 2022, section 4.2.2; as all-reduces, Shoeybi et al. 2019, section 3), again forward if it is
        computed again; embedding and logits once each. Pipeline: B T D to the next stage and its gradient back, v times.
        """
        o, m = self.layout, self.micro_batches
        share = max(self.shares(), key=lambda share: share.parameters)
        ring, volume = (o.data - 1) / o.data, self.graph.number_bytes * share.parameters
        times = {0: 2, 1: 2, 2: m + 1, 3: 3 * m}[o.zero]
        stream = self.graph.number_bytes * o.micro_batch * self.counted.seq_len * self.counted.config.d_model
        edges, layers = self.counted.exchanges(share)
        passes = 2 * edges + (3 if o.recompute == "layers" else 2) * layers
        found = (
            Sent("gradients and weights" if o.zero else "gradients", times * ring * volume, "data"),
            Sent(
                "activations within layers",
                m * passes * 2 * (o.tensor - 1) / o.tensor * stream,
                "tensor",
            ),
            Sent("activations between stages", 2 * o.interleave * m * stream / o.tensor if o.pipeline > 1 else 0.0, "pipeline"),
        )
        return tuple(sent for sent in found if sent.n_bytes)
