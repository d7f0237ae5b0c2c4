import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.account import Budget, format_bytes, format_count, format_flops, format_seconds, format_usd, parse_budget
from groundup.account.budget import parse_bytes, parse_percent, parse_tokens
from groundup.errors import UsageError

amounts = st.floats(min_value=1e-300, max_value=1e300)
budgets = st.builds(Budget, amounts, st.sampled_from(["seconds", "flops", "usd"]))


@pytest.mark.parametrize(
    "text, amount, unit",
    [
        ("3m", 180, "seconds"),
        ("3min", 180, "seconds"),
        ("180s", 180, "seconds"),
        (" 1h30m ", 5400, "seconds"),
        ("1h 30m 5sec", 5405, "seconds"),
        ("1.5h", 5400, "seconds"),
        ("2d", 172_800, "seconds"),
        ("2e17flop", 2e17, "flops"),
        ("2E+17 FLOPs", 2e17, "flops"),
        ("5usd", 5, "usd"),
        ("0.5 USD", 0.5, "usd"),
        (".5usd", 0.5, "usd"),
    ],
)
def test_budgets_as_people_write_them(text, amount, unit):
    assert parse_budget(text) == Budget(amount, unit)


@given(budgets)
def test_a_budget_reads_back_what_it_prints(budget):
    assert parse_budget(str(budget)) == budget


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_parts_of_a_duration_add_up(d, h, m, s):
    assert parse_budget(f"{d}d{h}h{m}m{s}s") == Budget(86_400 * d + 3_600 * h + 60 * m + s, "seconds")


@pytest.mark.parametrize(
    "text, mistake",
    [
        ("3", "no unit"),
        ("1h30", "no unit"),
        ("", "neither"),
        ("m", "neither"),
        ("soon", "neither"),
        ("3x", "neither"),
        ("3M", "neither"),
        ("nans", "neither"),
        ("infusd", "neither"),
        ("3m 5usd", "neither"),
        ("٣m", "neither"),
        ("-3m", "negative"),
        ("-5usd", "negative"),
        ("0s", "zero"),
        ("0h0m", "zero"),
        ("0flop", "zero"),
        ("1e-999usd", "zero"),
        ("1e999s", "beyond"),
        ("3m1h", "out of order"),
        ("3m3m", "repeats"),
        ("9" * 5000, "no unit"),
    ],
)
def test_a_bad_budget_is_refused_in_one_short_sentence_with_examples(text, mistake):
    with pytest.raises(UsageError, match=mistake) as error:
        parse_budget(text)
    message = str(error.value)
    assert "2e17flop" in message and "\n" not in message and len(message) < 250


@given(st.text())
def test_any_text_is_a_budget_above_zero_or_refused(text):
    try:
        budget = parse_budget(text)
    except UsageError:
        return
    assert 0 < budget.amount < math.inf


def test_seconds_that_a_budget_buys():
    assert Budget(180, "seconds").seconds_on() == 180
    assert Budget(1e15, "flops").seconds_on(attainable_flops=1e12) == 1000
    assert Budget(5, "usd").seconds_on(usd_per_hour=2.5) == 7200


@pytest.mark.parametrize("rate", [None, 0, -1])
def test_a_budget_without_its_rate_is_refused(rate):
    with pytest.raises(UsageError, match="FLOP/s"):
        Budget(1e15, "flops").seconds_on(attainable_flops=rate)
    with pytest.raises(UsageError, match="price"):
        Budget(5, "usd").seconds_on(usd_per_hour=rate)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0 s"),
        (1.23e-5, "12.3 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1.00 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (182.3, "3 min 02 s"),
        (3599.9, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (200_000, "2.31 days"),
        (1e9, "11,574 days"),
        (-90, "-1 min 30 s"),
    ],
)
def test_seconds_for_people(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    "shown, text",
    [
        (format_count(0), "0"),
        (format_count(999), "999"),
        (format_count(0.5), "0.500"),
        (format_count(1_200_000), "1.20 M"),
        (format_count(999_999), "1.00 M"),
        (format_count(8_030_261_248), "8.03 B"),
        (format_flops(1.32e13), "13.2 TFLOP"),
        (format_flops(3.3e24), "3.30 YFLOP"),
        (format_bytes(1_534_000_000), "1.53 GB"),
        (format_bytes(512), "512 B"),
        (format_bytes(-2048), "-2.05 kB"),
        (format_usd(0.00321), "$0.0032"),
        (format_usd(0.5), "$0.50"),
        (format_usd(12.345), "$12.35"),
        (format_usd(3_150_000), "$3,150,000"),
        (format_usd(0), "$0.00"),
    ],
)
def test_numbers_for_people(shown, text):
    assert shown == text


@given(st.floats(1, 1e24))
def test_a_formatted_number_is_within_its_last_digit(value):
    prefixes = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21, "Y": 1e24}
    number, prefix = re.fullmatch(r"([0-9.]+) ([kMGTPEZY]?)FLOP", format_flops(value)).groups()
    assert float(number) * prefixes[prefix] == pytest.approx(value, rel=0.0051)
    assert len(number.replace(".", "")) <= 3


@pytest.mark.parametrize(
    "read, text, amount",
    [
        (parse_tokens, "15T", 15e12),
        (parse_tokens, " 300 B", 300e9),
        (parse_tokens, "1.5e12", 1.5e12),
        (parse_tokens, "20k", 20_000),
        (parse_bytes, "10GB", 10e9),
        (parse_bytes, "2tb", 2e12),
        (parse_percent, "5%", 0.05),
        (parse_percent, "0.5 %", 0.005),
    ],
)
def test_amounts_as_people_write_them(read, text, amount):
    assert read(text) == pytest.approx(amount)


@pytest.mark.parametrize(
    "read, text", [(parse_tokens, "15X"), (parse_bytes, "10"), (parse_percent, "5"), (parse_tokens, "0"), (parse_bytes, "-1GB")]
)
def test_a_bad_amount_is_refused_by_its_flag(read, text):
    with pytest.raises(UsageError, match=r"--this .*write it like"):
        read(text, "--this")
