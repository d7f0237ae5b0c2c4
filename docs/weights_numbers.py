"""The numbers of the chapter on models that others trained: from the result file of ``benchmarks.open_weights``."""

from __future__ import annotations

from collections.abc import Callable

from page import load, table


def open_weights() -> str:
    """Loading others' weights beside transformers, from the result file."""
    rows = []
    for kind, found in load("open_weights")["loading"].items():
        us, them = found["groundup"], found["transformers"]
        for name, row in found.items():
            speed, memory = them["load_s"] / us["load_s"], us["peak_bytes"] / them["peak_bytes"]
            ratios = (f"{speed:.0f} times as fast", f"{memory:.2f}") if name == "groundup" else ("", "")
            cells = (f"{row['load_s']:.1f} s", f"{row['first_logits_s']:.1f} s", f"{row['peak_bytes'] / 1e6:,.0f} MB")
            rows.append((kind, name, *ratios, *cells))
    return table(("files", "", "ratio of loading", "of memory", "loading", "to the first logits", "peak memory"), rows)


def open_weights_memory() -> str:
    """Memory above imports, ours as a share of theirs, by kind of files."""
    found = load("open_weights")["loading"].items()
    shares = {kind: row["groundup"]["above_imports_bytes"] / row["transformers"]["above_imports_bytes"] for kind, row in found}
    return " and ".join(f"{share:.2f} ({kind})" for kind, share in shares.items())


def agreement(key: str) -> str:
    """A figure of the agreement with transformers on a page."""
    found = load("open_weights")["agreement"]["transformers"]
    return f"{found[key]:.0e}" if isinstance(found[key], float) else str(min(found[key]))


WEIGHTS: dict[str, Callable[[], str]] = {
    "open-weights": open_weights,
    "open-weights-greedy": lambda: agreement("equal_greedy_tokens"),
    "open-weights-memory": open_weights_memory,
    "open-weights-nats": lambda: agreement("largest_difference_nats"),
    "open-weights-tokens": lambda: f"{load('open_weights')['tokens']:,}",
}
