"""A training step spread over devices in a layout: what each of them holds, and what it sends.

Symbols: P parameters, B sequences of a micro-batch, T tokens of a sequence, D d_model, V vocabulary, d, t, p and e devices of each kind of
parallelism, m micro-batches of a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from groundup.account.activations import Graph, Policy, graph_of, layer_activation_bytes
from groundup.account.component import Component
from groundup.account.cost import Cost, cost
from groundup.account.execution import GPU, Execution, Recompute
from groundup.account.layout import Layout, crossings, runs
from groundup.account.traffic import NO_TRAFFIC, Sent, Traffic, sent, total
from groundup.account.tree import copied_head, training_pass
from groundup.account.workload import Training
from groundup.config import Experts, Layer, ModelConfig


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


def state_bytes(parameters: float, *, zero: int = 0, data: int = 1, state: StateBytes = MIXED_ADAMW) -> dict[str, float]:
    """Bytes of state on each of d data parallel devices (Rajbhandari et al. 2020, figure 1), w, g and s being weights, gradients, the rest.

    ZeRO-0 (w + g + s) P; 1 (w + g + s/d) P; 2 (w + (g + s)/d) P; 3 (w + g + s) P / d.
    """
    split = {"weights": zero >= 3, "gradients": zero >= 2, "master": zero >= 1, "moments": zero >= 1}
    names = {"master": "master copies", "moments": "optimizer moments"}
    return {names.get(part, part): getattr(state, part) * parameters / (data if split[part] else 1) for part in StateBytes._fields}


class Stage(NamedTuple):
    """What of the model the devices of one stage of the pipeline hold."""

    index: int
    """Which stage."""
    layers: tuple[int, ...]
    """Indices of its layers."""
    kinds: tuple[tuple[int, int], ...]
    """Kinds of layers, as ``Counted.kinds`` numbers them, and how many it has of each."""
    traffic: Traffic
    """Parameters, and rows of one sequence that it sends."""
    largest_layer: Traffic
    """The same of its layer with the most parameters."""
    flops: int
    """FLOPs of training on one sequence, what is computed again included."""
    embedding: bool
    """Whether it has the embedding."""
    head: bool
    """Whether it has the head."""


class Part(NamedTuple):
    """A part of the model, for one sequence."""

    traffic: Traffic
    """Parameters, and rows that it sends."""
    flops: int
    """FLOPs of training, what is computed again included."""


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
    def kinds(self) -> tuple[tuple[Layer, ...], tuple[int, ...]]:
        """Its different layers, and which of them each layer is."""
        different = tuple(dict.fromkeys(self.config.layers))
        return different, tuple(map(different.index, self.config.layers))

    @cached_property
    def router(self) -> tuple[int, int, int]:
        """(n_active, n_groups, n_active_groups) of the layer that sends a token furthest; (1, 1, 1) where there are no experts."""
        found = [(x.mlp.n_active, x.mlp.router.n_groups, x.mlp.router.n_active_groups) for x in self.kinds[0] if isinstance(x.mlp, Experts)]
        return max(found, default=(1, 1, 1))

    def tree(self, recompute: Recompute) -> Component:
        """The tree of the model with one layer of each kind, where backward computes this again."""
        config = replace(self.config, layers=self.kinds[0])
        workload = Training(self.seq_len, run=replace(GPU, recompute=recompute))
        return self.once("tree", recompute, lambda: training_pass(config, workload))

    def stages(self, layout: Layout, recompute: Recompute) -> tuple[Stage, ...]:
        """What each stage of the layout's pipeline holds."""
        key = layout.pipeline, layout.interleave, recompute
        return self.once("stages", key, lambda: tuple(self._stage(i, *key) for i in range(layout.pipeline)))

    def different_stages(self, layout: Layout, recompute: Recompute) -> tuple[Stage, ...]:
        """Of stages that are alike the first, which keeps the activations of most micro-batches."""
        key = layout.pipeline, layout.interleave, recompute
        return self.once("different", key, lambda: _first_of_each(self.stages(layout, recompute)))

    def kept(self, tensor: int, recompute: Policy, graph: Graph) -> tuple[float, ...]:
        """Bytes that one of t devices keeps of a token in a layer of each kind."""
        key = tensor, recompute, graph
        return self.once("kept", key, lambda: tuple(self._kept(layer, *key) for layer in self.kinds[0]))

    def _kept(self, layer: Layer, tensor: int, recompute: Policy, graph: Graph) -> float:
        sizes = {"seq_len": self.seq_len, "tensor": tensor, "recompute": recompute, "graph": graph}
        return layer_activation_bytes(layer, self.config.d_model, **sizes) / self.seq_len

    def once(self, what: str, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` makes, the first time that it is asked for; a model is asked the same of many layouts."""
        table = self._tables.setdefault(what, {})
        if key not in table:
            table[key] = make()
        return table[key]

    @cached_property
    def _tables(self) -> dict[str, dict[Hashable, Any]]:
        return {}

    def _stage(self, index: int, pipeline: int, interleave: int, recompute: Recompute) -> Stage:
        n, d = len(self.config.layers), self.config.d_model
        layers = tuple(i for run in runs(n, pipeline, interleave)[index::pipeline] for i in run)
        kinds, before, after = self.once("parts", recompute, lambda: self._parts(recompute))
        of = sorted(Counter(self.kinds[1][i] for i in layers).items())
        first, last = index == 0, index == pipeline - 1
        held = [kinds[kind] for kind, count in of for _ in range(count)] + [before] * first + [after] * last
        times = crossings(n, pipeline, interleave)
        handed = Traffic(handed=sum(times[i] for i in layers) * self.seq_len * d, split=copied_head(self.config, pipeline) if last else 0)
        largest = max((kinds[kind].traffic for kind, _ in of), key=lambda t: sum(t[:4]), default=NO_TRAFFIC)
        traffic, flops = total([handed, *(part.traffic for part in held)]), sum(part.flops for part in held)
        return Stage(index, layers, tuple(of), traffic, largest, flops, first, last)

    def _parts(self, recompute: Recompute) -> tuple[tuple[Part, ...], Part, Part]:
        """One layer of each kind, what comes before the layers, and what comes after."""
        parts, plain = self.tree(recompute).parts, {part.name: part for _, part in self.tree("none").walk()}
        layers = next((part.parts for part in parts if part.name == "layers"), ())
        below = [part for part in parts if part.name.startswith(("embedding", "hash_embedding", "position_embedding"))]
        above = [part for part in parts if part not in below and part.name != "layers"]
        return tuple(_together([layer], plain) for layer in layers), _together(below, plain), _together(above, plain)


def _together(found: Sequence[Component], plain: dict[str, Component]) -> Part:
    again = sum(part.recomputed_flops - plain[part.name].recomputed_flops for part in found)
    return Part(total(part.traffic for part in found), sum(part.training_flops for part in found) + again)


def _first_of_each(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    first: dict[Hashable, Stage] = {}
    for stage in stages:
        first.setdefault((stage.kinds, stage.traffic, stage.embedding, stage.head), stage)
    return tuple(first.values())


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


@dataclass(frozen=True)
class Spread:
    """A model's training step, as its workload lays it out, with AdamW."""

    counted: Counted
    """The model, on sequences of one length."""
    workload: Training
    """Batch, precision, what is computed again, and the layout."""

    @cached_property
    def layout(self) -> Layout:
        """Who does what."""
        return self.workload.layout or Layout()

    @cached_property
    def run(self) -> Execution:
        """How it is computed."""
        return self.workload.run or GPU

    @property
    def state(self) -> StateBytes:
        """Bytes of state a parameter: 16-bit weights with fp32 masters, or all fp32 where that is what is multiplied."""
        return FP32_ADAMW if self.run.precision == "fp32" else MIXED_ADAMW

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What each stage holds; of those that are alike the first."""
        return self.counted.different_stages(self.layout, self.run.recompute)

    @cached_property
    def held(self) -> Held:
        """The stage that needs most memory: stage i keeps the activations of min(m, p - i) micro-batches."""
        return max((Held(stage.index, self.stage_bytes(stage)) for stage in self.stages), key=lambda held: held.n_bytes)

    def stage_bytes(self, stage: Stage) -> dict[str, float]:
        """Bytes of a device of one stage, by what they are for."""
        o, c, graph = self.layout, self.run.number_bytes, graph_of(self.run)
        tokens, d_model = self.workload.batch_size * self.counted.seq_len, self.counted.config.d_model
        of = self.counted.kept(o.tensor, self.run.recompute, graph)
        kept = tokens * sum(n * of[kind] for kind, n in stage.kinds)
        again = 0.0
        if self.run.recompute != "none":
            whole = self.counted.kept(o.tensor, "none", graph)
            again = tokens * max((whole[kind] - of[kind] for kind, _ in stage.kinds), default=0.0)
        logits = min(4 * tokens * self.counted.config.vocab_size / o.tensor, self.run.loss_chunk_bytes) if stage.head else 0.0
        edges = c * tokens * d_model / o.tensor * (stage.embedding + 2 * stage.head)  # embedding's rows; final norm, head's input
        at_work = 2 * c * sum(stage.largest_layer.held(o)) if o.zero == 3 and o.data > 1 else 0.0  # the layer at work and the next
        found = self._state_bytes(stage.traffic) | {
            "activations": kept * o.in_flight(stage.index, self.workload.micro_batches) + edges,
            "layer computed again": again,
            "logits and their gradient": 2 * logits,
            "weights gathered": at_work,
        }
        return {name: n for name, n in found.items() if n}

    def _state_bytes(self, traffic: Traffic) -> dict[str, float]:
        """Experts are held alike by d / e devices, all else by d."""
        o = self.layout
        experts, others = traffic.held(o)
        found = state_bytes(others, zero=o.zero, data=o.data, state=self.state)
        if not experts:
            return found
        of_experts = state_bytes(experts, zero=o.zero, data=o.data // o.expert, state=self.state)
        return {name: n + of_experts[name] for name, n in found.items()}

    def sent_by(self, stage: Stage) -> Sent:
        """Bytes that a device of a stage sends in a step: those of the components that it holds."""
        return sent(stage.traffic, self.workload)

    @cached_property
    def sent(self) -> Sent:
        """Bytes of the device that sends most."""
        return max((self.sent_by(stage) for stage in self.stages), key=lambda found: found.n_bytes)
