"""A rehearsal: what a run will do, done for a moment on its own model and text, so that the plan knows what it costs here."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from groundup.evaluate.writing import prompts, write
from groundup.train.feed import Feed
from groundup.train.step import StepConfig, TrainState, train_step
from groundup.workbench import Workbench, compiled_loss

STEPS, SHARE = 6, 0.02  # so many steps or this share of the budget, whichever takes longer, after two that warm up
MOST_S = 20.0  # of that share, for what a longer rehearsal would show is what the agenda finds out in training
SCORED_TOKENS, WRITTEN_TOKENS = 10_000, 12
COMPILE_FROM_S = 600.0  # of a GPU's budget: torch.compile takes about a minute, which a shorter run cannot win back


@dataclass(frozen=True)
class Rehearsal:
    """Seconds that were measured."""

    step: float
    """A training step of one rank: the mean, because what comes now and then comes in training too."""
    scored_token: float
    """A token of held-out text scored, its share of context and of the counts included."""
    written_token: float
    """A token written."""
    compiled: bool = False
    """Whether those steps went through torch.compile, because they were faster so; compilation is not in their time."""


def rehearse(bench: Workbench, state: TrainState, feed: Feed, config: StepConfig) -> Rehearsal:
    """Trains, scores and writes a little. The state and the bench's model are changed: begin training with fresh ones."""
    config = replace(config, n_steps=1 << 30)  # the rehearsal may be longer than the run
    step, compiled = _seconds_of_step(bench, state, feed, config), False
    if bench.device.type == "cuda" and bench.plan["seconds"] >= COMPILE_FROM_S:
        from torch._dynamo.exc import TorchDynamoException  # here, for the compiler takes a second to import

        with contextlib.suppress(TorchDynamoException):  # what cannot be compiled here trains as it is
            faster = _seconds_of_step(bench, state, feed, config, compiled_loss(bench.model))
            step, compiled = min((step, False), (faster, True))
    bench.evaluate("validation", 500)
    started = time.perf_counter()
    score = bench.evaluate("validation", SCORED_TOKENS)
    scored = (time.perf_counter() - started) / max(1, score.n_tokens)
    beginnings = prompts(bench)
    write(bench, beginnings, max_tokens=2)
    started = time.perf_counter()
    write(bench, beginnings, max_tokens=WRITTEN_TOKENS)
    written = (time.perf_counter() - started) / (WRITTEN_TOKENS * len(beginnings))
    return Rehearsal(step, scored, written, compiled)


def _seconds_of_step(bench: Workbench, state: TrainState, feed: Feed, config: StepConfig, loss_fn: Callable | None = None) -> float:
    """Mean seconds of a step, the first two not counted: they warm up, or compile."""
    times: list[float] = []
    while len(times) < STEPS + 2 or sum(times[2:]) < min(MOST_S, SHARE * bench.plan["seconds"]):
        started = time.perf_counter()
        state, _ = train_step(state, feed(state.step), config, loss_fn=loss_fn)
        times.append(time.perf_counter() - started)
    return statistics.fmean(times[2:])
