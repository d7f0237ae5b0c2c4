"""Numbers as people read them; every unit is decimal (k, M, G) except time."""

from __future__ import annotations

import math

from groundup.account.budget import format_bytes

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def grouped(value: float) -> str:
    """4718592 -> 4,718,592; a fraction keeps up to six significant digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.6g}"


def scientific(value: float, digits: int = 4) -> str:
    """2134000000000000 -> 2.134 × 10¹⁵."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa} × {power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    """15 -> 10¹⁵."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def quantity(name: str, value: float) -> str:
    """A number in the unit that its name gives: ``*_bytes``, ``*flops``, ``*seconds`` or ``*_s``, ``bits_per_byte``; else plain."""
    if name == "bits_per_byte":
        return f"{value:.4f}"
    if name.endswith("bytes"):
        return format_bytes(value)
    if name.endswith("flops"):
        return scientific(value)
    if name.endswith(("seconds", "_s")):
        return f"{value:,.1f} s"
    return grouped(value)


def spelled(name: str) -> str:
    """A key as words: peak_memory_bytes -> peak memory, bits_per_byte -> bits per byte, flops -> FLOPs."""
    words = name.removesuffix("_bytes").replace("_", " ")
    return {"flops": "FLOPs", "usd": "US dollars", "seconds": "time"}.get(words, words)
