"""Numbers as people read them; every unit is decimal (k, M, G) except time."""

from __future__ import annotations

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def grouped(value: float) -> str:
    """4718592 -> 4,718,592; a fraction keeps up to six significant digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.6g}"


def short(value: float) -> str:
    """Three significant digits with a letter: 4718592 -> 4.72 M, and B for 10^9."""
    for scale, suffix in _SUFFIXES:
        if abs(value) >= 0.9995 * scale:
            return f"{value / scale:#.3g}".rstrip(".") + f" {suffix}"
    return f"{value:.3g}"


def scientific(value: float, digits: int = 4) -> str:
    """2134000000000000 -> 2.134 × 10¹⁵."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa} × {power_of_ten(int(exponent))}"


def power_of_ten(exponent: int) -> str:
    """15 -> 10¹⁵."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def duration(seconds: float) -> str:
    """12.34 -> 12.3 s, 182.3 -> 3 min 02 s, 7500 -> 2 h 05 min."""
    if abs(seconds) < 59.95:
        return f"{seconds:.3g} s" if abs(seconds) < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"


def size(n_bytes: float) -> str:
    """1534000000 -> 1.534 GB (10^9 bytes)."""
    for scale, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(n_bytes) >= 0.99995 * scale:
            return f"{n_bytes / scale:#.4g}".rstrip(".") + f" {suffix}"
    return f"{n_bytes:g} B"


def quantity(name: str, value: float) -> str:
    """A number in the unit that its name gives: ``*_bytes``, ``*flops``, ``*seconds`` or ``*_s``, ``bits_per_byte``; else plain."""
    if name == "bits_per_byte":
        return f"{value:.4f}"
    if name.endswith("bytes"):
        return size(value)
    if name.endswith("flops"):
        return scientific(value)
    if name.endswith(("seconds", "_s")):
        return f"{value:,.1f} s"
    return grouped(value)


def spelled(name: str) -> str:
    """A key as words: peak_memory_bytes -> peak memory, bits_per_byte -> bits per byte, flops -> FLOPs."""
    words = name.removesuffix("_bytes").replace("_", " ")
    return {"flops": "FLOPs", "usd": "US dollars", "seconds": "time"}.get(words, words)
