"""Learning-rate schedules as pure functions of how far the run is: constant, cosine, and warmup-stable-decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from groundup.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """The learning rate's scale over a run: a linear warm-up times a decay.

    constant: 1. cosine: half a cosine from 1 to ``final_scale`` (Loshchilov & Hutter 2017). wsd: 1, then down to ``final_scale``
    over the last ``decay_fraction`` (Hu et al. 2024).
    """

    kind: Literal["constant", "cosine", "wsd"] = "wsd"
    """Shape of the decay."""
    warmup_steps: int = 0
    """Steps over which the scale rises from 1/warmup_steps to 1."""
    warmup_fraction: float = 0.0
    """Fraction of the run over which the scale rises to 1; with warmup_steps too, the slower of the two holds."""
    decay_fraction: float = 0.2
    """Fraction of the run that decays (wsd only); 0.2 is enough to match a cosine (Hägele et al. 2024)."""
    decay_shape: Literal["linear", "sqrt"] = "linear"
    """wsd only, x from 0 to 1 through the decay. linear: 1 - x. sqrt: 1 - x^0.5 (Hägele et al. 2024)."""
    final_scale: float = 0.0
    """Scale at the very end of the run."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise UsageError(f"schedule.warmup_steps must be at least 0, not {self.warmup_steps}")
        for name in ("warmup_fraction", "decay_fraction", "final_scale"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"schedule.{name} must be in [0, 1], not {getattr(self, name)}")
        if self.kind == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise UsageError("schedule.warmup_fraction and schedule.decay_fraction must not add up to more than 1")


def schedule(config: Schedule, step: int, total_steps: int) -> float:
    """Returns the learning rate's scale, in [0, 1], for one step of a run whose length is known in steps.

    ``step`` counts from 0. No step is wasted on a zero: warm-up over n steps gives 1/n, 2/n, ..., 1, and a linear decay over
    n steps to 0 gives 1, (n-1)/n, ..., 1/n. Raises UsageError unless 0 <= step < total_steps.
    """
    if not 0 <= step < total_steps:
        raise UsageError(f"schedule: step {step} is outside a run of {total_steps} steps")
    warmup_end = max(config.warmup_fraction, min(config.warmup_steps / total_steps, 1.0))
    return _warmup(config, (step + 1) / total_steps, step) * _decay(config, step / total_steps, warmup_end)


def scale(config: Schedule, progress: float, step: int) -> float:
    """Returns the learning rate's scale, in [0, 1], for one step of a run whose length is known in seconds or FLOPs, say.

    ``progress`` is the fraction of the budget spent before this step, held to [0, 1]. A warm-up by fraction alone makes the first
    step 0 where progress is 0; give ``warmup_steps`` to such a run.
    """
    progress = min(max(progress, 0.0), 1.0)
    return _warmup(config, progress, step) * _decay(config, progress, config.warmup_fraction)


def _warmup(config: Schedule, progress: float, step: int) -> float:
    by_steps = (step + 1) / config.warmup_steps if config.warmup_steps else 1.0
    by_fraction = progress / config.warmup_fraction if config.warmup_fraction else 1.0
    return min(1.0, by_steps, by_fraction)


def _decay(config: Schedule, progress: float, warmup_end: float) -> float:
    if config.kind == "constant":
        return 1.0
    if config.kind == "cosine":
        through = max(progress - warmup_end, 0.0) / (1 - warmup_end) if warmup_end < 1 else 0.0
        left = 0.5 * (1 + math.cos(math.pi * through))
    else:
        remaining = min((1 - progress) / config.decay_fraction, 1.0) if config.decay_fraction else 1.0
        left = remaining if config.decay_shape == "linear" else 1 - math.sqrt(1 - remaining)
    return config.final_scale + (1 - config.final_scale) * left
