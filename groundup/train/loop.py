"""The loop: steps until the plan's last one, with progress, evaluations and checkpoints on the way, and a safe way out at any moment."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from groundup.errors import GroundupError
from groundup.parallel.data import ALONE, World, sum_over_ranks
from groundup.train.agenda import Agenda
from groundup.train.step import StepConfig, StepMetrics, TrainBatch, TrainState, train_step

MOST_SKIPS = 5  # steps in a row that may be dropped for a loss or gradient that is not finite


class Interrupted(GroundupError):
    """The run was asked to stop (Ctrl-C or SIGTERM) and has saved itself."""

    exit_status = 130


class NotFinite(GroundupError):
    """Loss or gradients stayed non-finite."""


class StopSignal:
    """Notes SIGINT and SIGTERM, so that the loop can end between two steps; a second one ends at once."""

    def __init__(self) -> None:
        self.asked: str | None = None

    def __enter__(self) -> StopSignal:
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for s, handler in self._old.items():
            signal.signal(s, handler)

    def _note(self, number: int, _frame: Any) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Lets SIGTERM end what runs inside as Ctrl-C does, so that what is half-made is cleared away; a StopSignal inside stands above it."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


@dataclass
class Callbacks:
    """What the loop calls: each may be left out."""

    on_step: Callable[[TrainState, StepMetrics, float], None] = lambda state, metrics, seconds: None
    """After each step, with the seconds that it took."""
    on_look: Callable[[TrainState], Agenda | None] = lambda state: None
    """At each look: evaluations, samples, and perhaps a new agenda."""
    save: Callable[[TrainState], None] = lambda state: None
    """Writes a checkpoint."""
    on_skip: Callable[[TrainState, StepMetrics], None] = lambda state, metrics: None
    """After a step that was dropped."""


def train(
    state: TrainState,
    feed: Callable[[int], TrainBatch],
    config: StepConfig,
    callbacks: Callbacks,
    *,
    agenda: Agenda | None = None,
    save_every_s: float = 60.0,
    world: World = ALONE,
    stop: StopSignal | None = None,
    loss_fn: Callable | None = None,
) -> TrainState:
    """Runs train_step until the agenda's last step (without one, ``config.n_steps``); resumes wherever the state stands.

    Saves every ``save_every_s`` seconds and at a stop signal, then raises Interrupted. A step that is not finite is dropped; after
    MOST_SKIPS in a row NotFinite is raised, with the last good weights in the state and on disk.
    """
    last_save = time.monotonic()
    agenda = agenda or Agenda(config.n_steps)
    while state.step < agenda.n_steps:
        config = replace(config, n_steps=agenda.n_steps)
        started = time.monotonic()
        state, metrics = train_step(state, feed(state.step), config, world, loss_fn)
        if metrics.finite:
            callbacks.on_step(state, metrics, time.monotonic() - started)
        else:
            callbacks.on_skip(state, metrics)
            if state.skipped >= MOST_SKIPS:
                callbacks.save(state)
                raise NotFinite(
                    f"step {state.step}: loss {metrics.loss}, gradient norm {metrics.grad_norm}, not finite {MOST_SKIPS} steps in a row; "
                    f"the weights of step {state.step - MOST_SKIPS} are kept: lower the learning rate and start again"
                )
        if state.step in agenda.looks:
            agenda = callbacks.on_look(state) or agenda
        due = time.monotonic() - last_save > save_every_s
        asked, due = _agree(stop is not None and stop.asked is not None, due and world.is_main, world)
        if asked:
            callbacks.save(state)
            raise Interrupted(f"stopped by {(stop and stop.asked) or 'another rank'} after step {state.step} and saved")
        if due:
            callbacks.save(state)
            last_save = time.monotonic()
    return state


def _agree(stop: bool, save: bool, world: World) -> tuple[bool, bool]:
    """Whether any rank was asked to stop, and whether the first rank's clock says to save: the same answer on every rank."""
    stop_count, save_count = sum_over_ranks(torch.tensor([float(stop), float(save)]), world).tolist()
    return stop_count > 0, save_count > 0
