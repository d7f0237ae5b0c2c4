"""A rehearsal: what a run will do, done for a moment on its own model and text, so that the plan knows what it costs here."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

from groundup.evaluate.writing import prompts, write
from groundup.train.feed import Feed
from groundup.train.step import StepConfig, TrainState, train_step
from groundup.workbench import Workbench

STEPS, SHARE = 6, 0.02  # so many steps or this share of the budget, whichever takes longer, after two that warm up
SCORED_TOKENS, WRITTEN_TOKENS = 10_000, 12


@dataclass(frozen=True)
class Rehearsal:
    """Seconds that were measured."""

    step: float
    """A training step of one rank: the mean, because what comes now and then comes in training too."""
    scored_token: float
    """A token of held-out text scored, its share of context and of the counts included."""
    written_token: float
    """A token written."""


def rehearse(bench: Workbench, state: TrainState, feed: Feed, config: StepConfig) -> Rehearsal:
    """Trains, scores and writes a little. The state and the bench's model are changed: begin training with fresh ones."""
    config = replace(config, n_steps=1 << 30)  # the rehearsal may be longer than the run
    times: list[float] = []
    while len(times) < STEPS + 2 or sum(times) < SHARE * bench.plan["seconds"]:
        started = time.perf_counter()
        state, _ = train_step(state, feed(state.step), config)
        times.append(time.perf_counter() - started)
    bench.evaluate("validation", 500)
    started = time.perf_counter()
    score = bench.evaluate("validation", SCORED_TOKENS)
    scored = (time.perf_counter() - started) / max(1, score.n_tokens)
    beginnings = prompts(bench)
    write(bench, beginnings, max_tokens=2)
    started = time.perf_counter()
    write(bench, beginnings, max_tokens=WRITTEN_TOKENS)
    written = (time.perf_counter() - started) / (WRITTEN_TOKENS * len(beginnings))
    return Rehearsal(statistics.fmean(times[2:]), scored, written)
