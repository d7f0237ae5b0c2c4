"""What may be spent, in time, FLOPs or money; and numbers as people read them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from groundup.errors import UsageError

EXAMPLES = "3m, 1h30m, 2e17flop or 5usd"

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TIME_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_TIME_PART = rf"{_NUMBER}\s*(?:d|h|min|m|sec|s)"
_TIME = re.compile(rf"{_TIME_PART}(?:\s*{_TIME_PART})*")
_AMOUNT = re.compile(rf"({_NUMBER})\s*(flop|usd)s?", re.IGNORECASE)
_SUFFIXES = {"seconds": "s", "flops": "flop", "usd": "usd"}


@dataclass(frozen=True)
class Budget:
    """An amount above zero of one of three things; ``parse_budget(str(budget)) == budget``."""

    amount: float
    """How much, in ``unit``."""
    unit: Literal["seconds", "flops", "usd"]
    """What is limited."""

    def __str__(self) -> str:
        """The budget as it would be typed: 180s, 2e+17flop, 0.5usd."""
        return repr(self.amount).removesuffix(".0") + _SUFFIXES[self.unit]

    def seconds_on(self, *, attainable_flops: float | None = None, usd_per_hour: float | None = None) -> float:
        """Seconds the budget lasts on a machine: seconds as they are, FLOPs / attainable FLOP/s, dollars / price.

        Raises UsageError if the rate that the unit needs is unknown or not above zero.
        """
        if self.unit == "seconds":
            return self.amount
        if self.unit == "flops":
            if not attainable_flops or attainable_flops < 0:
                raise UsageError(
                    f"a budget of {self} needs the FLOP/s that this machine attains, above 0; give the budget in time, such as 3m"
                )
            return self.amount / attainable_flops
        if not usd_per_hour or usd_per_hour < 0:
            raise UsageError(
                f"a budget of {self} needs the price of this machine in dollars an hour, above 0; give it by --usd-per-hour, "
                f"or a budget such as 3m"
            )
        return 3_600 * self.amount / usd_per_hour


def parse_budget(text: str) -> Budget:
    """Reads a budget: a duration (``3m``, ``180s``, ``1h30m``, ``2d``), FLOPs (``2e17flop``) or money (``5usd``).

    Raises UsageError, with examples, for no unit, an amount that is not above zero or not finite, a unit given twice or out of order,
    and anything else.
    """
    stripped = text.strip()
    if amount := _AMOUNT.fullmatch(stripped):
        return _above_zero(text, float(amount[1]), "flops" if amount[2].lower() == "flop" else "usd")
    if not _TIME.fullmatch(stripped):
        raise UsageError(f"budget {_quoted(text)} {_mistake(stripped)}; write it like {EXAMPLES}")
    parts = re.findall(rf"({_NUMBER})\s*([a-z]+)", stripped)
    sizes = [_TIME_UNITS[unit[0]] for _, unit in parts]
    if any(later >= earlier for earlier, later in itertools.pairwise(sizes)):
        raise UsageError(f"budget {_quoted(text)} repeats a unit or has them out of order; write it like {EXAMPLES}")
    return _above_zero(text, math.fsum(float(number) * size for (number, _), size in zip(parts, sizes, strict=True)), "seconds")


def parse_tokens(text: str, flag: str = "--tokens") -> float:
    """Reads a number of tokens: 15T, 300B, 2.5M, 1e12. UsageError naming the flag for anything else and for what is not above zero."""
    return _scaled_amount(text, flag, {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}, "15T, 300B or 1e12")


def parse_bytes(text: str, flag: str = "--text") -> float:
    """Reads an amount of text: 10GB, 500MB, 2TB, a GB being 10^9 bytes. UsageError naming the flag as in ``parse_tokens``, and for less
    than a thousand bytes, as 10B is, which elsewhere is 10^10 tokens."""
    examples = "10GB, 500MB or 2TB"
    amount = _scaled_amount(text, flag, {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15}, examples)
    if amount < 1000:
        raise UsageError(f"{flag} {_quoted(text)} is less than a kilobyte, a B being a byte; write it like {examples}")
    return amount


def parse_percent(text: str, flag: str = "--gain") -> float:
    """Reads 5% as 0.05. UsageError naming the flag without a percent sign and for what is not above zero."""
    return _scaled_amount(text, flag, {"%": 0.01}, "5%")


def _scaled_amount(text: str, flag: str, units: Mapping[str, float], examples: str) -> float:
    found = re.fullmatch(rf"({_NUMBER})\s*([a-zA-Z%]*)", text.strip())
    if not found or found[2].lower() not in units:
        raise UsageError(
            f"{flag} {_quoted(text)}: {'has no unit' if found and not found[2] else 'is not an amount'}; write it like {examples}"
        )
    amount = float(found[1]) * units[found[2].lower()]
    if not 0 < amount < math.inf:
        raise UsageError(f"{flag} {_quoted(text)} is {'beyond all numbers' if amount else 'not above zero'}; write it like {examples}")
    return amount


def _above_zero(text: str, amount: float, unit: Literal["seconds", "flops", "usd"]) -> Budget:
    if not 0 < amount < math.inf:
        raise UsageError(f"budget {_quoted(text)} is {'zero' if amount == 0 else 'beyond all numbers'}; write it like {EXAMPLES}")
    return Budget(amount, unit)


def _mistake(text: str) -> str:
    if text.startswith("-"):
        return "is negative"
    if re.fullmatch(_NUMBER, text):
        return "has no unit (s, m, h, d, flop or usd)"
    if re.search(r"[0-9.]$", text):
        return "has no unit after its last number"
    return "is neither a time nor FLOPs nor dollars"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def format_seconds(seconds: float) -> str:
    """0.0123 -> 12.3 ms, 12.34 -> 12.3 s, 182.3 -> 3 min 02 s, 7500 -> 2 h 05 min, 200000 -> 2.31 days."""
    if seconds == 0 or not math.isfinite(seconds):
        return f"{seconds:g} s"
    if seconds < 0:
        return "-" + format_seconds(-seconds)
    for scale, unit in ((1e-6, "µs"), (1e-3, "ms")):
        if seconds < 999.5 * scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    if seconds < 59.95:
        return f"{_three_digits(seconds)} s"
    if seconds < 3_599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    if seconds < 172_770:  # rounds to less than 48 h
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes:02d} min"
    days = seconds / 86_400
    return f"{days:,.0f} days" if days >= 999.5 else f"{_three_digits(days)} days"


def format_count(count: float) -> str:
    """Three significant digits with a letter, B for 10^9: 1234567 -> 1.23 M; integers below a thousand as they are."""
    return _scaled(count, ("", " k", " M", " B", " T"))


def format_flops(flops: float) -> str:
    """1.32e13 -> 13.2 TFLOP. For a rate append "/s"."""
    return _scaled(flops, tuple(f" {prefix}FLOP" for prefix in ("", "k", "M", "G", "T", "P", "E", "Z", "Y")))


def format_bytes(n_bytes: float) -> str:
    """1534000000 -> 1.53 GB, a GB being 10^9 bytes."""
    return _scaled(n_bytes, tuple(f" {prefix}B" for prefix in ("", "k", "M", "G", "T", "P")))


def format_usd(usd: float) -> str:
    """0.00321 -> $0.0032, 0.5 -> $0.50, 12.345 -> $12.35, 3150000 -> $3,150,000."""
    if usd < 0:
        return "-" + format_usd(-usd)
    if 0 < usd < 0.0995:
        return f"${usd:.2g}" if usd >= 0.0001 else f"${usd:.1e}"
    return f"${usd:,.2f}" if usd < 999.995 else f"${usd:,.0f}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    if value < 0:
        return "-" + _scaled(-value, units)
    if not math.isfinite(value):
        return f"{value:g}{units[0]}"
    power = 0
    while power + 1 < len(units) and value >= 999.5 * 1000**power:
        power += 1
    scaled = value / 1000**power
    if power == 0 and float(value).is_integer():
        return f"{int(value)}{units[0]}"
    return (f"{scaled:,.0f}" if scaled >= 999.5 else _three_digits(scaled)) + units[power]


def _three_digits(value: float) -> str:
    """Three significant digits of a value below 999.5, zeros kept: 1.20, 12.0, 120."""
    return f"{value:#.3g}".rstrip(".")
