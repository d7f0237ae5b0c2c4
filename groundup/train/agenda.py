"""How long a run is, and when it is looked at: decided before the first step, and again while the learning rate is still constant.

A rehearsal of seconds cannot know how fast a machine will be for minutes. Until the rate begins to fall, nothing that was done depends on
the number of steps, so it can follow the clock; from there on it stands. Each decision is written down before it is acted on, and a run
that is killed and resumed keeps those it has made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from groundup.optim import Schedule

MOST_CHANGE = 2.0  # of the steps that are left, at one look: a machine that stands still for a moment must not end a run


@dataclass(frozen=True)
class Agenda:
    """What is ahead."""

    n_steps: int
    """Steps of the whole run."""
    looks: tuple[int, ...] = ()
    """Steps at which it is looked at, ascending."""

    def left(self, step: int) -> int:
        """How many looks come after this step."""
        return sum(look > step for look in self.looks)


def evenly(step: int, n_steps: int, n_looks: int) -> Agenda:
    """So many looks spread over the steps after this one, the last at the end; fewer where there are not as many steps."""
    ahead = n_steps - step
    return Agenda(n_steps, tuple(sorted({step + max(1, round(ahead * (i + 1) / n_looks)) for i in range(n_looks)})))


def may_change(schedule: Schedule, step: int, n_steps: int) -> bool:
    """Whether the learning rate so far does not depend on how long the run is."""
    if schedule.kind == "constant":
        return step < n_steps
    return schedule.kind == "wsd" and step < n_steps and step <= n_steps * (1 - schedule.decay_fraction)


def revised(
    schedule: Schedule, agenda: Agenda, step: int, seconds_left: float, seconds_per_step: float, most_steps: int | None = None
) -> Agenda:
    """As many more steps as the seconds hold, at most MOST_CHANGE times more or fewer than were left; as many looks as were left.

    Never so few that the learning rate should have begun to fall before this step, nor more than ``most_steps`` in all.
    """
    before = agenda.n_steps - step
    ahead = min(max(seconds_left / seconds_per_step, before / MOST_CHANGE), before * MOST_CHANGE)
    least = math.ceil(step / (1 - schedule.decay_fraction)) if schedule.kind == "wsd" and schedule.decay_fraction < 1 else step + 1
    n_steps = max(step + max(1, int(ahead)), least)
    return evenly(step, n_steps if most_steps is None else min(n_steps, most_steps), agenda.left(step))
