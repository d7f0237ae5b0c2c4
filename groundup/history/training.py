"""The one training loop of the road: any network over bytes, for so many seconds, its width chosen by what they hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Int16
from torch import Tensor, nn

from groundup.errors import UsageError
from groundup.history.network import START, Network
from groundup.kernels.cross_entropy import head_loss
from groundup.optim import AdamW, Optimizer, Schedule, clip_by_global_norm
from groundup.optim.groups import Group
from groundup.optim.schedules import scale
from groundup.parallel.threads import MOST_WORKERS, run_together

LEAST_STEPS = 400
"""Steps that the seconds should hold at least: where they are few, each step takes fewer rows."""
STEP_SYMBOLS = (512, 8192)
"""Fewest and most symbols of a step."""
WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
SYMBOLS_PER_WEIGHT = 10.0
"""Bytes that training should see for each weight in a product, at least; a wider network would see too few to use its width."""
CALIBRATION_SHARE = 0.1
"""Of the seconds: what choosing the width may take."""
MOST_SCORING = 0.6
"""Of the seconds: what is left for scoring at most."""
CLIP_NORM = 1.0


class SymbolStream:
    """The training text as one ring of symbols, read by rows that begin at even distances: the same symbols in the same order for all."""

    def __init__(self, symbols: Int16[np.ndarray, " n"], n_rows: int, seq_len: int, start: int = START):
        if len(symbols) < 2:
            raise UsageError("there is no text to train on: give more")
        self.symbols, self.seq_len, self.start = symbols, seq_len, start
        self.starts = np.arange(n_rows) * len(symbols) // n_rows

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Symbols and what follows them, [B, T] each; -1 where a document begins, for its start symbol is not predicted."""
        places = self.starts[:, None] + step * self.seq_len + np.arange(self.seq_len + 1)
        window = torch.from_numpy(self.symbols.take(places, mode="wrap").astype(np.int64))
        targets = window[:, 1:]
        return window[:, :-1], torch.where(targets == self.start, -1, targets)


@dataclass(frozen=True)
class Recipe:
    """How a network is made and moved."""

    make: Callable[[int], Any]
    """The network of a width."""
    seq_len: int = 128
    """Symbols of a window: how far back the gradient of a network that carries its state goes, and what a transformer sees at most."""
    lr: float = 3e-3
    """Peak rate of AdamW at width 128; it falls with the root of the width."""
    optimizer: Callable[[Any], Optimizer] | None = None
    """Another optimizer than AdamW for all."""
    warmup_steps: int = 10
    """Steps over which the rate rises."""
    widths: Sequence[int] = WIDTHS
    """Widths to choose from."""


@dataclass
class Trained:
    """A network and what it cost."""

    network: Any
    """The network."""
    steps: int = 0
    """Steps taken."""
    symbols: int = 0
    """Symbols read, those of calibration not counted."""
    flops: int = 0
    """FLOPs of matrix products: three times forward's, since each product has two in the backward pass."""
    seconds: float = 0.0
    """Wall-clock time, calibration included."""
    nats: float = float("nan")
    """Mean nats a byte over the last steps."""


class Trainer:
    """Takes steps: rows are shared by threads, each with its part of the carried state."""

    def __init__(self, network: Network, optimizer: Optimizer, stream: SymbolStream):
        self.network, self.optimizer, self.stream = network, optimizer, stream
        self.parameters = list(optimizer.parameters.values())
        n_rows = len(stream.starts)
        n = max(1, min(torch.get_num_threads(), MOST_WORKERS, n_rows))
        self.edges = [n_rows * i // n for i in range(n + 1)]
        self.states = [network.begin(stop - start) if network.carries else () for start, stop in pairwise(self.edges)]
        self.n_steps = 0

    def step(self, lr_scale: float) -> float:
        """One update; returns the mean nats of the bytes it read."""
        symbols, targets = self.stream.batch(self.n_steps)
        inverse = 1.0 / max(1, int((targets >= 0).sum()))
        calls = [partial(self._share, i, symbols[a:b], targets[a:b], inverse) for i, (a, b) in enumerate(pairwise(self.edges))]
        losses, gradients = zip(*run_together(calls), strict=True)
        for parameter, parts in zip(self.parameters, zip(*gradients, strict=True), strict=True):
            parameter.grad = reduce(torch.add, parts)
        clip_by_global_norm(self.parameters, CLIP_NORM)
        self.optimizer.step(lr_scale)
        self.n_steps += 1
        return sum(losses)

    def _share(self, worker: int, symbols: Tensor, targets: Tensor, inverse: float) -> tuple[float, tuple[Tensor, ...]]:
        hidden, state = self.network.read(symbols, self.states[worker])
        if self.network.carries:
            self.states[worker] = tuple(part.detach() for part in state)
        loss, _ = head_loss(hidden.flatten(0, 1), self.network.head, targets.flatten(), bias=self.network.head_bias, scale=inverse)
        return loss.item(), torch.autograd.grad(loss, self.parameters)

    def flops(self) -> int:
        """Of all steps so far."""
        return 3 * self.n_steps * self.network.forward_flops(len(self.stream.starts), self.stream.seq_len)


def adamw(network: nn.Module, lr: float) -> Optimizer:
    """One group of all parameters, moved by AdamW without decay."""
    named = list(network.named_parameters())
    names, total = tuple(name for name, _ in named), sum(p.numel() for _, p in named)
    return Optimizer([Group("all", "every parameter", AdamW(beta1=0.9, beta2=0.98), lr, 0.0, names, total)], named)


def choose_size(recipe: Recipe, symbols: Int16[np.ndarray, " n"], seconds: float) -> tuple[int, int]:
    """Width and rows of a step: of the widest network that would see SYMBOLS_PER_WEIGHT bytes a weight in these seconds.

    Each width takes two steps that are timed, narrow ones first, until one would see too few or a tenth of the seconds is used. Weights are
    counted as half the forward FLOPs of a symbol. Rows follow from the symbols that the seconds hold: LEAST_STEPS of them.
    """
    began, size = time.perf_counter(), STEP_SYMBOLS[0] * 4
    stream = SymbolStream(symbols, size // recipe.seq_len, recipe.seq_len)
    chosen, seen = recipe.widths[0], 0.0
    for width in recipe.widths:
        trainer = _trainer(recipe, width, stream)
        times = []
        for _ in range(2):
            started = time.perf_counter()
            trainer.step(0.0)
            times.append(time.perf_counter() - started)
        weights = trainer.network.forward_flops(len(stream.starts), recipe.seq_len) / size / 2
        holds = seconds / min(times) * size
        if seen and holds < SYMBOLS_PER_WEIGHT * weights:
            break
        chosen, seen = width, holds
        if time.perf_counter() - began > CALIBRATION_SHARE * seconds:
            break
    per_step = min(max(seen / LEAST_STEPS, STEP_SYMBOLS[0]), STEP_SYMBOLS[1])
    return chosen, max(1, round(per_step / recipe.seq_len))


def train(
    recipe: Recipe,
    symbols: Int16[np.ndarray, " n"],
    seconds: float,
    *,
    scoring: Callable[[Any], float] = lambda network: 0.0,
    tell: Callable[[Trained, float], None] = lambda trained, progress: None,
) -> Trained:
    """A network trained for so many seconds, the choice of its width included; ``tell`` hears of every step, and how far the time is.

    ``scoring`` says of a network how many seconds are to be left for scoring it, at most MOST_SCORING of all.
    The rate rises, stays, and falls to zero over the second half: by the clock, so that the end is its end.
    """
    began = time.perf_counter()
    width, n_rows = choose_size(recipe, symbols, seconds)
    stream = SymbolStream(symbols, n_rows, recipe.seq_len)
    trainer = _trainer(recipe, width, stream)
    seconds -= min(scoring(trainer.network), MOST_SCORING * seconds)
    plan = Schedule(warmup_steps=recipe.warmup_steps, decay_fraction=0.5)
    done, first = Trained(trainer.network), time.perf_counter() - began
    step_seconds = 0.0
    while True:
        spent = time.perf_counter() - began
        if done.steps and spent + 0.5 * step_seconds >= seconds:
            return replace(done, seconds=spent)
        progress = (spent - first) / max(seconds - first, 1e-9)
        nats = trainer.step(scale(plan, progress, done.steps))
        step_seconds = time.perf_counter() - began - spent
        done.steps += 1
        done.symbols += len(stream.starts) * stream.seq_len
        done.flops = trainer.flops()
        done.nats = nats if done.steps == 1 else done.nats + max(0.05, 1 / done.steps) * (nats - done.nats)
        tell(done, progress)


def _trainer(recipe: Recipe, width: int, stream: SymbolStream) -> Trainer:
    network = recipe.make(width)
    optimizer = recipe.optimizer(network) if recipe.optimizer else adamw(network, recipe.lr * (128 / width) ** 0.5)
    return Trainer(network, optimizer, stream)
