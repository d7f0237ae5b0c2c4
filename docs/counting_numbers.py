"""The numbers of counting, from the benchmark against KenLM."""

from __future__ import annotations

from collections.abc import Callable

from page import load, table


def kneser_ney() -> str:
    """Ours and KenLM's estimation."""
    result = load("kneser_ney")
    used, found = result["estimation"], result["agreement"]
    header = ("estimated by", "time over lmplz", "core seconds", "peak memory", "largest difference of our log10 p to KenLM's")
    rows = [
        (
            name,
            *(f"{own[key] / used['lmplz'][key]:.2f}" for key in ("seconds", "cpu_seconds", "peak_bytes")),
            f"{found[f'largest difference, {name}']:.1e}",
        )
        for name, own in used.items()
    ]
    return table(header, rows)


def kneser_ney_text() -> str:
    """What it was measured on."""
    result = load("kneser_ney")
    return f"order {result['order']}, {result['n_bytes'] / 1e6:.0f} MB, {sum(result['n_grams']):,} n-grams"


def query_speed() -> str:
    """Words a second of one core."""
    return f"{load('kneser_ney')['agreement']['words_per_core_second']['groundup'] / 1e6:.1f} million"


COUNTING: dict[str, Callable[[], str]] = {"kneser-ney": kneser_ney, "kneser-ney-text": kneser_ney_text, "query-speed": query_speed}
