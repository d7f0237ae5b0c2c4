"""Smoothing, thinning, label places and the spelling of numbers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.report import text
from groundup.report.curves import smooth, spread, thin

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(values, st.floats(1.0, 50.0))
def test_an_average_stays_between_the_values_seen_so_far(seen: list[float], span: float) -> None:
    averages = smooth(np.array(seen), span)
    slack = 1e-9 * (1 + max(map(abs, seen)))
    assert averages[0] == seen[0]
    assert all(min(seen[: t + 1]) - slack <= m <= max(seen[: t + 1]) + slack for t, m in enumerate(averages))


def test_what_is_not_finite_carries_no_weight() -> None:
    averages = smooth(np.array([math.nan, 2.0, math.inf, 2.0]), 5.0)
    assert math.isnan(averages[0]) and averages[1:].tolist() == [2.0, 2.0, 2.0]


def test_thinning_keeps_ends_and_spikes() -> None:
    x = np.arange(10_000.0)
    y = np.sin(x / 500)
    y[4321], y[8765] = 99.0, math.nan
    few_x, few_y = thin(x, y, 200)
    assert len(few_x) <= 202 and few_y.max() == 99.0
    assert (few_x[0], few_x[-1]) == (0.0, 9999.0) and (np.diff(few_x) > 0).all()


@given(st.lists(st.floats(0, 1), max_size=12))
def test_labels_keep_their_order_their_gap_and_the_frame(positions: list[float]) -> None:
    places = spread(positions, 0.05, 0.0, 1.0)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    ranked = [places[i] for i in order]
    assert all(b - a >= 0.05 - 1e-9 for a, b in itertools.pairwise(ranked))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8, unique=True))
def test_labels_that_do_not_touch_stay(positions: list[float]) -> None:
    gap = min((b - a for a, b in itertools.pairwise(sorted(positions))), default=1.0) / 2
    assert spread(positions, gap, 0.0, 1.0) == pytest.approx(positions)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.grouped(4_718_592), "4,718,592"), (text.grouped(0.5), "0.5"), (text.scientific(2.134e15), "2.134 × 10¹⁵"),
        (text.scientific(0), "0"), (text.quantity("bits_per_byte", 1.23456), "1.2346"), (text.quantity("peak_memory_bytes", 999), "999 B"),
        (text.spelled("peak_memory_bytes"), "peak memory"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected
