"""Schedules against their closed forms."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import UsageError
from groundup.optim import Schedule, scale, schedule


def curve(config, total):
    return [schedule(config, step, total) for step in range(total)]


def test_constant_is_one_after_its_warmup():
    assert curve(Schedule("constant"), 5) == [1.0] * 5
    assert curve(Schedule("constant", warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert curve(Schedule("constant", warmup_fraction=0.5), 8) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_wsd_is_a_trapezoid():
    assert curve(Schedule("wsd", warmup_steps=2, decay_fraction=0.4), 10) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert curve(Schedule("wsd", decay_fraction=0.5, final_scale=0.2), 4) == pytest.approx([1, 1, 1, 0.6])
    assert curve(Schedule("wsd", decay_fraction=0.0), 4) == [1.0] * 4


def test_wsd_by_the_square_root():
    found = curve(Schedule("wsd", decay_fraction=0.5, decay_shape="sqrt"), 8)
    assert found == pytest.approx([1, 1, 1, 1] + [1 - math.sqrt(i / 4) for i in range(4)])


def test_cosine_starts_where_the_warmup_ends():
    found = curve(Schedule("cosine", warmup_steps=2, final_scale=0.1), 10)
    expected = [0.5, 1.0] + [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert found == pytest.approx(expected)


SCHEDULES = st.builds(
    Schedule,
    kind=st.sampled_from(["constant", "cosine", "wsd"]),
    warmup_steps=st.integers(0, 30),
    warmup_fraction=st.floats(0, 0.5),
    decay_fraction=st.floats(0, 0.5),
    decay_shape=st.sampled_from(["linear", "sqrt"]),
    final_scale=st.floats(0, 1),
)


@given(SCHEDULES, st.integers(1, 50))
def test_scales_rise_once_fall_once_and_stay_in_range(config, total):
    values = curve(config, total)
    assert all(0 <= value <= 1 for value in values)
    if config.kind != "wsd" or config.warmup_steps <= total / 2:
        peak = values.index(max(values))
        assert values[:peak] == sorted(values[:peak]) and values[peak:] == sorted(values[peak:], reverse=True)


@given(SCHEDULES, st.integers(1, 50))
def test_progress_gives_what_steps_give_once_warm(config, total):
    for step in range(total):
        warm = step + 1 >= config.warmup_steps and step / total >= config.warmup_fraction
        if warm and not (config.kind == "cosine" and config.warmup_steps):  # progress does not know where warm-up by steps ends
            assert scale(config, step / total, step) == pytest.approx(schedule(config, step, total))


def test_progress_beyond_the_budget_counts_as_its_end():
    config = Schedule("wsd", final_scale=0.1)
    assert scale(config, 1.2, 99) == pytest.approx(0.1) and scale(config, -0.1, 0) == 1.0
    assert scale(Schedule("constant", warmup_steps=10), 0.0, 0) == pytest.approx(0.1)


def test_senseless_schedules_name_the_field():
    for values, name in [
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_fraction": 1.5}, "warmup_fraction"),
        ({"decay_fraction": -0.1}, "decay_fraction"),
        ({"final_scale": 2.0}, "final_scale"),
        ({"warmup_fraction": 0.6, "decay_fraction": 0.6}, "add up"),
    ]:
        with pytest.raises(UsageError, match=name):
            Schedule(**values)
    with pytest.raises(UsageError, match="step 5 is outside a run of 5 steps"):
        schedule(Schedule(), 5, 5)


def test_configs_and_schedules_need_no_torch():
    code = "import sys, groundup.optim as o; o.OptimizerConfig(), o.schedule(o.Schedule(), 0, 2); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
