"""Parameters and FLOPs of a decoder on a workload, exactly, from its ModelConfig alone: sums and ratios over ``account.tree``'s tree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from groundup.account.component import Component, Weight
from groundup.account.traffic import Sent, sent, total
from groundup.account.tree import forward_pass, training_pass
from groundup.account.workload import Inference, Training
from groundup.config import ModelConfig, check


class Row(NamedTuple):
    """One line of a cost table: what all components of the same role take together."""

    name: str
    """The role: a dotted path without layer numbers."""
    parameters: int
    """Numbers in parameter tensors."""
    training_flops: int
    """Model FLOPs of forward and backward, for one sequence."""
    share: float
    """Part of the model's training FLOPs, 0 to 1."""
    sent: Sent = Sent()
    """Bytes that a device of each stage sends in a step of the workload, by whom it sends them to; none without a layout."""


@dataclass(frozen=True)
class Cost:
    """What a model costs on a workload; every number is a sum or a ratio over ``tree``."""

    config: ModelConfig
    """The model."""
    workload: Training | Inference
    """What it does."""
    tree: Component
    """The model, for one sequence: of training, or a prompt."""

    @property
    def seq_len(self) -> int:
        """T, tokens in that sequence."""
        return self.workload.seq_len if isinstance(self.workload, Training) else self.workload.prompt_tokens

    def decoding(self, n_keys: int) -> Component:
        """The tree of one more token, which attends to n_keys keys, itself included."""
        return forward_pass(self.config, 1, n_keys - 1)

    @property
    def sent(self) -> Sent:
        """Bytes that a device of each stage of the pipeline sends in a step, all stages together; none without a layout."""
        return self.tree.sent(self.workload) if isinstance(self.workload, Training) else Sent()

    @property
    def parameters(self) -> int:
        """All parameters, a tied head once."""
        return self.tree.parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that work on a token: all but those of experts that are not chosen (lookup tables count whole)."""
        return self.tree.active_parameters

    @cached_property
    def parameters_non_embedding(self) -> int:
        """Parameters without lookup tables and without the head's matrix (the N of Kaplan et al. 2020)."""
        return sum(w.numbers for w in self.weights if w.kind not in ("table", "head"))

    @cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Every parameter tensor, in the order of the tree."""
        return self.tree.all_weights

    @property
    def flops_per_token_training(self) -> float:
        """Model FLOPs of forward and backward over a token, averaged over the sequence."""
        return self.tree.training_flops / self.seq_len

    @property
    def executed_flops_per_token_training(self) -> float:
        """Executed FLOPs (masked pairs included) of forward and backward over a token."""
        return self.tree.executed_training_flops / self.seq_len

    def flops_training(self, tokens: int) -> int:
        """Model FLOPs of training on this many tokens; exact for whole sequences, rounded down otherwise."""
        return tokens * self.tree.training_flops // self.seq_len

    def mfu(self, tokens_per_s: float, peak_flops: float) -> float:
        """Model FLOPs utilization (Chowdhery et al. 2022, but with exact pairs): useful FLOP/s over the dense peak."""
        return self.flops_per_token_training * tokens_per_s / peak_flops

    def hfu(self, tokens_per_s: float, peak_flops: float) -> float:
        """Hardware FLOPs utilization: executed FLOP/s over the dense peak; masked pairs count as work."""
        return self.executed_flops_per_token_training * tokens_per_s / peak_flops

    def rows(self) -> list[Row]:
        """One row a role (all layers' queries together, ...), in the order of the tree; the rows sum to the model."""
        spread = isinstance(self.workload, Training) and self.workload.layout is not None
        roles: dict[str, list[Component]] = {}
        for _, component in self.tree.walk():
            if not component.parts or (spread and any(component.own_traffic)):
                role = ".".join(part for part in component.name.split(".") if not part.isdigit())
                roles.setdefault(role, []).append(replace(component, parts=()))
        return [self._row(name, found, spread) for name, found in roles.items()]

    def _row(self, name: str, found: list[Component], spread: bool) -> Row:
        parameters, flops = sum(c.parameters for c in found), sum(c.training_flops for c in found)
        sends = sent(total(c.traffic for c in found), self.workload) if spread else Sent()
        return Row(name, parameters, flops, flops / self.tree.training_flops, sends)


def cost(config: ModelConfig, workload: Training | Inference) -> Cost:
    """Counts a model on a workload: a training step over one sequence, or the prefill of one prompt (``Cost.decoding`` is what follows it).

    Bytes and executed FLOPs follow the workload's ``run``: where that is None every tensor goes over memory once a component, attention is
    one kernel, and all T x T scores count as executed; else executed are the blocks of its attention, or where that is one kernel the
    scores computed again going back, and what it recomputes.

    Raises UsageError for sizes that make no sense.
    """
    check(config)
    workload.check(config)
    if isinstance(workload, Inference):
        return Cost(config, workload, forward_pass(config, workload.prompt_tokens))
    return Cost(config, workload, training_pass(config, workload))
