"""The numbers of the chapter on the road from counts to transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from page import load, table

from groundup.account import format_bytes, format_count, format_flops, format_seconds
from groundup.history.shannon import HUMAN_1951
from groundup.history.training import LEAST_STEPS, SYMBOLS_PER_WEIGHT

ROAD = "history"
"""Name of the result file."""


@cache
def road() -> dict[str, Any]:
    """The result of ``benchmarks/history.py``."""
    return load(ROAD)


def stops() -> str:
    """The table of the road."""
    rows = [
        (
            r["year"],
            r["name"],
            format_count(r["parameters"]),
            "counts" if r["training_flops"] is None else format_flops(r["training_flops"]),
            f"{r['seconds']:.1f}",
            f"{r['bits_per_byte']:.3f}",
            "{:.3f} to {:.3f}".format(*r["interval"]) if r["interval"] else "",
            r["note"],
        )
        for r in road()["results"]
    ]
    return table(("year", "model", "parameters", "training FLOPs", "seconds", "bits per byte", "95 %", "size"), rows)


def setting() -> str:
    """What the table was measured on."""
    found = road()
    n, where = found["n_bytes"], found["environment"]
    left_out = "".join(f"; {key} was left out ({why})" for key, why in found["left_out"].items())
    return (
        f"{found['text']}: {format_bytes(n['train'])} to learn from, {n['test']:,} held-out bytes in {found['n_pieces']} pieces; budget "
        f"{format_seconds(found['budget_s'])}, {format_seconds(found['spent_s'])} spent{left_out}. {found['date']}, {where['cpu']}, "
        f"{where['threads']} threads; load average {where['load_average']:.0f} when it began, PyTorch {where['torch']}"
    )


def compressed() -> str:
    """What compressors make of the same bytes."""
    rows = [
        (c["name"], f"{c['bits_per_byte']:.3f}", f"{c['after_training']:.3f}", format_bytes(c["training_bytes"]))
        for c in road()["compressed"]
    ]
    return table(("", "alone", "after training text", "so much of it"), rows)


def samples() -> str:
    """What some of them write, a line each."""
    wanted = ("bigram", "modified-kn", "lstm", "transformer", "train")
    found = [(r["name"], " ".join(r["sample"].split())[:70].replace("|", "\\|")) for r in road()["results"] if r["key"] in wanted]
    return table(("model", "it writes"), [(name, f"`{text.replace('`', chr(39))}`") for name, text in found])


def bengio() -> str:
    """Perplexities in Bengio's setting, beside those that the paper has on another text."""
    found = load("bengio")
    ours, paper = found["perplexity"]["test"], found["paper"]
    names = ("mixed", "modified Kneser-Ney", "interpolated trigram", "network")
    rows = [(name, f"{ours[name]:.1f}", paper.get(name, "")) for name in names]
    size = f"{found['setting']['words']:,} words, a vocabulary of {found['setting']['vocab_size']:,}"
    return table((size, "perplexity of held-out words", "in the paper, on Brown"), rows)


HISTORY: dict[str, Callable[[], str]] = {
    "road-bengio": bengio,
    "road-stops": stops,
    "road-setting": setting,
    "road-compressed": compressed,
    "road-samples": samples,
    "road-human": lambda: f"{HUMAN_1951[0]} to {HUMAN_1951[1]}",
    "road-least-steps": lambda: f"{LEAST_STEPS}",
    "road-symbols-per-weight": lambda: f"{SYMBOLS_PER_WEIGHT:g}",
}
