"""The number of steps follows the clock only while the learning rate does not depend on it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.optim import Schedule
from groundup.optim.schedules import schedule
from groundup.train.agenda import MOST_CHANGE, Agenda, evenly, may_change, revised

FREE = Schedule("constant")


def test_looks_are_spread_evenly_and_end_with_the_run():
    assert evenly(0, 80, 8).looks == (10, 20, 30, 40, 50, 60, 70, 80)
    assert evenly(10, 150, 7) == Agenda(150, (30, 50, 70, 90, 110, 130, 150))
    assert evenly(0, 3, 8).looks == (1, 2, 3)


@given(st.integers(0, 500), st.integers(1, 500), st.integers(1, 8), st.floats(0.001, 1e4), st.floats(0.001, 10))
def test_a_revision_stays_ahead_and_bounded(step, ahead, n_looks, seconds_left, seconds_per_step):
    old = evenly(step, step + ahead, n_looks)
    new = revised(FREE, old, step, seconds_left, seconds_per_step)
    assert new.n_steps > step and new.looks[-1] == new.n_steps and min(new.looks) > step
    assert ahead / MOST_CHANGE - 1 <= new.n_steps - step <= max(1, ahead * MOST_CHANGE)
    assert len(new.looks) <= n_looks


def test_a_revision_holds_what_the_time_holds():
    assert revised(FREE, evenly(0, 800, 8), 100, 90.0, 0.1).n_steps == 1000
    assert revised(FREE, evenly(0, 800, 8), 100, -5.0, 0.1).n_steps == 450


@pytest.mark.parametrize(("kind", "until"), [("wsd", 40), ("constant", 79), ("cosine", -1)])
def test_until_when_the_past_does_not_depend_on_the_length(kind, until):
    config = Schedule(kind, warmup_steps=5, decay_fraction=0.5)
    assert [step for step in range(81) if may_change(config, step, 80)] == list(range(until + 1))
    for step in range(max(0, until)):
        assert schedule(config, step, 80) == schedule(config, step, 160)


@given(st.integers(2, 500), st.floats(0.1, 0.9), st.floats(0.001, 1e3))
def test_a_shorter_run_still_has_its_decay_ahead(n_steps, decay, seconds_left):
    config = Schedule("wsd", decay_fraction=decay)
    step = int(n_steps * (1 - decay))
    new = revised(config, evenly(0, n_steps, 8), step, seconds_left, 1.0)
    assert new.n_steps > step and step <= new.n_steps * (1 - decay) + 1e-6
    for earlier in range(step):
        assert schedule(config, earlier, new.n_steps) == 1.0


def test_a_revision_stops_where_the_text_is_used_up():
    assert revised(FREE, evenly(0, 800, 8), 100, 1e6, 0.1, most_steps=900).n_steps == 900
    assert revised(FREE, evenly(0, 800, 8), 100, 90.0, 0.1, most_steps=5000).n_steps == 1000
