"""One training step, as a function of the state and the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import pairwise

import torch
from torch import Tensor

from groundup.model.decoder import Decoder
from groundup.optim import Optimizer, Schedule, clip_by_global_norm, schedule
from groundup.parallel.data import ALONE, World, sum_gradients, sum_over_ranks
from groundup.parallel.threads import n_workers, run_together


@dataclass(frozen=True)
class StepConfig:
    """What a step needs besides state and batch."""

    n_steps: int
    """Steps in the whole run: what the schedule stretches over."""
    micro_batch_size: int
    """Rows that go through the model at a time; gradients of the rest accumulate."""
    schedule: Schedule = field(default_factory=Schedule)
    """Learning-rate scale over the run."""
    clip_norm: float | None = 1.0
    """Most that the gradient's global norm may be, or none."""
    network_share: float = 0.3
    """With a prior: the share of the loss that is the network's own nats, so that it learns the text and not only the counts' mistakes."""


@dataclass
class TrainState:
    """All that a step changes."""

    model: Decoder
    """The fp32 parameters."""
    optimizer: Optimizer
    """Its moments."""
    step: int = 0
    """Steps tried so far: also the loader's position."""
    skipped: int = 0
    """Steps in a row whose loss or gradient was not finite."""


@dataclass(frozen=True)
class TrainBatch:
    """One rank's rows of a global batch, as tensors on the model's device."""

    tokens: Tensor
    """[B, T] ids."""
    targets: Tensor
    """[B, T] next ids, -1 where not scored."""
    documents: Tensor
    """[B, T] document of each input within its row."""
    expert_log_p: Tensor | None = None
    """[B, T, K] log-probability of each target under the counts' experts."""
    features: Tensor | None = None
    """[B, T, C] what the counts know of each context."""

    def rows(self, start: int, stop: int) -> TrainBatch:
        """Rows [start, stop)."""
        return TrainBatch(
            *(None if t is None else t[start:stop] for t in (self.tokens, self.targets, self.documents, self.expert_log_p, self.features))
        )


@dataclass(frozen=True)
class StepMetrics:
    """What one step measured, over all ranks."""

    loss: float
    """Nats a scored token: the mixture's where there is a prior."""
    network_loss: float
    """Nats a scored token under the network alone."""
    grad_norm: float
    """Global gradient norm before clipping."""
    lr_scale: float
    """The schedule's value."""
    tokens: int
    """Input tokens of the global batch."""
    finite: bool
    """Whether loss and gradient were finite; if not, nothing moved."""


def train_step(
    state: TrainState, batch: TrainBatch, config: StepConfig, world: World = ALONE, loss_fn: Callable | None = None
) -> tuple[TrainState, StepMetrics]:
    """Forward, backward and update: the new state depends on the old one, the batch and the config, and on nothing else.

    The loss is sum(nats of valid targets) / (valid targets over all ranks), divided before backward, so that any split of the batch into
    micro-batches, documents, threads or ranks gives the same gradient. The state is consumed: its tensors are updated in place and
    returned.
    A step whose loss or gradient is not finite changes no weight; it is counted in ``skipped``.
    """
    model, optimizer = state.model, state.optimizer
    loss_fn = loss_fn or model.loss
    valid = sum_over_ranks(torch.tensor(float((batch.targets >= 0).sum())), world)
    inverse = 1.0 / max(1.0, float(valid))
    optimizer.zero_grad()
    nats = _backward(batch, config, optimizer, loss_fn, inverse)
    sum_gradients(optimizer.parameters.values(), world)
    nats = sum_over_ranks(nats.cpu(), world)
    norm = float(clip_by_global_norm(optimizer.parameters.values(), config.clip_norm or math.inf))
    scale = schedule(config.schedule, state.step, config.n_steps)
    network, mixed = (nats * inverse).tolist()
    finite = math.isfinite(norm) and math.isfinite(mixed)
    if finite:
        optimizer.step(scale)
    state.skipped = 0 if finite else state.skipped + 1
    state.step += 1
    return state, StepMetrics(mixed, network, norm, scale, batch.tokens.numel() * world.size, finite)


def _backward(batch: TrainBatch, config: StepConfig, optimizer: Optimizer, loss_fn: Callable, inverse: float) -> Tensor:
    """Leaves the gradient of the batch in the parameters; returns the summed nats, [2]. On a CPU threads share the rows."""
    n_rows, parameters = batch.tokens.shape[0], list(optimizer.parameters.values())
    n = n_workers(batch.tokens.device, *batch.tokens.shape)
    if n == 1:
        return _accumulate(batch, config, loss_fn, inverse, lambda loss: loss.backward())
    sums: list[list[Tensor | None]] = [[None] * len(parameters) for _ in range(n)]

    def add_to(mine: list[Tensor | None], loss: Tensor) -> None:  # not backward: threads would add to the same tensors in any order
        for i, gradient in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
            mine[i] = _plus(mine[i], gradient)

    edges = [n_rows * i // n for i in range(n + 1)]
    shares = [batch.rows(start, stop) for start, stop in pairwise(edges)]
    nats = run_together(
        [partial(_accumulate, rows, config, loss_fn, inverse, partial(add_to, mine)) for rows, mine in zip(shares, sums, strict=True)]
    )
    for parameter, gradients in zip(parameters, zip(*sums, strict=True), strict=True):
        parameter.grad = reduce(_plus, gradients)  # in the order of the rows, so that the same batch gives the same bits
    return torch.stack(nats).sum(0)


def _accumulate(batch: TrainBatch, config: StepConfig, loss_fn: Callable, inverse: float, backward: Callable[[Tensor], None]) -> Tensor:
    """Forward and backward of micro-batches one after another; returns the summed nats, [2]."""
    nats = torch.zeros(2, dtype=torch.float64, device=batch.tokens.device)
    for start in range(0, batch.tokens.shape[0], config.micro_batch_size):
        part = batch.rows(start, min(start + config.micro_batch_size, batch.tokens.shape[0]))
        loss, each = loss_fn(
            part.tokens,
            part.targets,
            part.documents,
            expert_log_p=part.expert_log_p,
            features=part.features,
            scale=inverse,
            network_share=config.network_share,
        )
        backward(loss)
        nats += each.detach().double().sum((1, 2))
    return nats


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
