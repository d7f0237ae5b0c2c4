"""The tree of a model's cost: components with parameters, FLOPs and bytes of their own, and sums over what they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from groundup.account.traffic import NO_TRAFFIC, Sent, Traffic, sent, total
from groundup.account.work import NOTHING, StepWork, again, moved_bytes
from groundup.account.workload import Training

Kind = Literal["matrix", "table", "head", "gate", "vector"]
HeldBy = Literal["tensor", "each", "expert"]


class Weight(NamedTuple):
    """One parameter tensor, named as in the decoder's ``named_parameters()``."""

    name: str
    """Dotted name, such as ``layers.0.mixer.query.weight``."""
    shape: tuple[int, ...]
    """Its dims; a matrix is [out, in], those of X experts are [X, out, in]."""
    kind: Kind
    """matrix: in a layer's products. table: rows are looked up. head: makes logits. gate: value gates, the prior's. vector: gain, bias."""

    @property
    def numbers(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Component:
    """A part of the model with what is its own, and its parts; every property is the sum over both, for one sequence."""

    name: str
    """Dotted path from the root, such as ``layers.0.mixer.scores``."""
    weights: tuple[Weight, ...] = ()
    """Its own parameter tensors."""
    own_forward_flops: int = 0
    """Model FLOPs of its own products."""
    own_executed_flops: int | None = None
    """FLOPs its own products really take, forward; None where that is the same number."""
    backward_factor: int = 2
    """Backward products for each forward one."""
    own_recomputed: int = 0
    """Forward products that backward executes once more, for each forward one."""
    own_active: tuple[int, int] = (1, 1)
    """The part of its own weights that works on a token: (2, 8) where 2 experts of 8 do."""
    own_work: StepWork = NOTHING
    """What its own operations execute, for one sequence: the products with their sizes, and the passes over memory."""
    mixes: bool = False
    """Whether its products are between tokens (queries and keys, or a token and a state), and not with weights."""
    own_cached: int = 0
    """Numbers that a cache holds for it when the sequence has been read: keys and values, latents, or a state."""
    held_by: HeldBy = "tensor"
    """Who holds its own matrices: tensor parallel devices share them, each has them whole, or those that share the experts do. Of its
    vectors each has all, but of experts those of its own."""
    own_rows: Traffic = NO_TRAFFIC
    """Numbers of rows that devices send each other for it in one forward pass over the sequence, or hand to other stages in a step; and
    parameters of others that are held once more for it."""
    parts: tuple[Component, ...] = ()
    """What it is made of."""

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Component]]:
        """This component and all below it, parents first, each with its depth."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)

    @property
    def all_weights(self) -> tuple[Weight, ...]:
        """Its own parameter tensors and those of its parts, in order."""
        return tuple(w for _, component in self.walk() for w in component.weights)

    @cached_property
    def parameters(self) -> int:
        """Numbers in its parameter tensors; a tied head has none of its own."""
        return sum(w.numbers for w in self.weights) + sum(p.parameters for p in self.parts)

    @cached_property
    def active_parameters(self) -> int:
        """Numbers in its parameter tensors that work on a token: all but those of experts that are not chosen."""
        some, of = self.own_active
        return sum(w.numbers for w in self.weights) * some // of + sum(p.active_parameters for p in self.parts)

    @cached_property
    def forward_flops(self) -> int:
        """Model FLOPs of one forward pass."""
        return self.own_forward_flops + sum(p.forward_flops for p in self.parts)

    @cached_property
    def mixing_flops(self) -> int:
        """Of the forward model FLOPs those between tokens; the others are of products with weights."""
        return int(self.mixes) * self.own_forward_flops + sum(p.mixing_flops for p in self.parts)

    @cached_property
    def cached_numbers(self) -> int:
        """Numbers that a cache holds when the sequence has been read."""
        return self.own_cached + sum(p.cached_numbers for p in self.parts)

    @cached_property
    def own_traffic(self) -> Traffic:
        """Of ``traffic`` what is its own."""
        vectors = sum(w.numbers for w in self.weights if w.kind == "vector")
        matrices = sum(w.numbers for w in self.weights) - vectors
        match self.held_by:
            case "tensor":
                held = Traffic(matrices, vectors)
            case "each":
                held = Traffic(whole=matrices + vectors)
            case "expert":
                held = Traffic(expert_split=matrices, expert_whole=vectors)
        return total([held, self.own_rows.times(2 + self.own_recomputed)])

    @cached_property
    def traffic(self) -> Traffic:
        """Numbers that devices send each other for it in a training step, whatever the layout: forward, backward, and where it is computed
        again."""
        return total([self.own_traffic, *(p.traffic for p in self.parts)])

    def sent(self, workload: Training) -> Sent:
        """Bytes that a device which holds it sends for it in a step of the workload, by the devices that it sends them to."""
        return sent(self.traffic, workload)

    @cached_property
    def backward_flops(self) -> int:
        """Model FLOPs of one backward pass."""
        return self.backward_factor * self.own_forward_flops + sum(p.backward_flops for p in self.parts)

    @property
    def training_flops(self) -> int:
        """Model FLOPs of forward and backward."""
        return self.forward_flops + self.backward_flops

    @cached_property
    def executed_forward_flops(self) -> int:
        """FLOPs of the products that one forward pass executes, masked pairs included."""
        own = self.own_forward_flops if self.own_executed_flops is None else self.own_executed_flops
        return own + sum(p.executed_forward_flops for p in self.parts)

    @cached_property
    def recomputed_flops(self) -> int:
        """FLOPs of the forward products that backward executes once more, masked pairs included."""
        own = self.own_forward_flops if self.own_executed_flops is None else self.own_executed_flops
        return own * self.own_recomputed + sum(p.recomputed_flops for p in self.parts)

    @cached_property
    def executed_training_flops(self) -> int:
        """FLOPs of the products that forward and backward execute, masked pairs and recomputed products included."""
        own = self.own_forward_flops if self.own_executed_flops is None else self.own_executed_flops
        return own * (1 + self.backward_factor + self.own_recomputed) + sum(p.executed_training_flops for p in self.parts)

    def recomputed(self, last: str | None) -> Component:
        """The same where backward computes it again, but for the product called ``last``, whose result backward does not need."""
        if self.name == last:
            return self
        parts = tuple(part.recomputed(last) for part in self.parts)
        return replace(self, own_recomputed=self.own_recomputed + 1, own_work=again(self.own_work), parts=parts)

    def forward_bytes(self, batch_size: int = 1, number_bytes: float = 2) -> float:
        """Bytes that a forward pass over ``batch_size`` sequences reads and writes, at ``number_bytes`` an activation."""
        own = moved_bytes(self.own_work.forward, batch_size, number_bytes)
        return own + sum(p.forward_bytes(batch_size, number_bytes) for p in self.parts)

    def backward_bytes(self, batch_size: int = 1, number_bytes: float = 2) -> float:
        """Bytes that the backward pass reads and writes: of a product with a weight twice the forward ones."""
        own = moved_bytes(self.own_work.backward, batch_size, number_bytes)
        return own + sum(p.backward_bytes(batch_size, number_bytes) for p in self.parts)

    def intensity(self, batch_size: int = 1, number_bytes: float = 2) -> float:
        """Executed FLOPs of training for each byte that it moves (Williams et al. 2009); 0 where there is neither."""
        moved = self.forward_bytes(batch_size, number_bytes) + self.backward_bytes(batch_size, number_bytes)
        return batch_size * self.executed_training_flops / moved if moved else 0.0
