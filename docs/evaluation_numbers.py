"""The numbers of the chapter on evaluation: from the result files of its benchmarks."""

from __future__ import annotations

from collections.abc import Callable

from page import load, table


def coding_table() -> str:
    """Scores, and what coding took."""
    found = load("coding")
    rows = [
        (name, f"{row['bits_per_byte']:.4f}", f"{row['code_bytes']:,}", f"{row['overhead']:+.4%}", row["header_bytes"])
        for name, row in found["models"].items()
    ]
    rows += [(name, f"{rate:.4f}", f"{round(rate * found['n_bytes'] / 8):,}", "", "") for name, rate in found["peers"].items()]
    return table((f"{found['n_bytes']:,} bytes of {found['data']}", "bits per byte", "bytes of code", "over the score", "header"), rows)


def blimp_summary() -> str:
    """Accuracy, its best and worst paradigms, and the time."""
    found = load("blimp")
    n, paradigms = found["items_per_paradigm"], found["paradigms"]
    rows = [("all", n * len(paradigms), f"{found['accuracy']['mean']:.1%} ± {found['accuracy']['error']:.1%}")]
    ranked = sorted(paradigms.items(), key=lambda pair: (-pair[1]["mean"], pair[0]))
    rows += [(name, n, f"{m['mean']:.1%} ± {m['error']:.1%}") for name, m in (*ranked[:3], *ranked[-3:])]
    seconds = (
        f"\n{found['cpu_seconds'] / 60:.1f} minutes of processor time, on {found['environment']['cpu']}.\n" if found["cpu_seconds"] else ""
    )
    return table(("paradigm", "pairs", f"accuracy of {found['model']}"), rows) + seconds


def agreement_table() -> str:
    """Two harnesses on one model."""
    found = load("lm_eval_agreement")
    rows = [
        (name, row["items"], *(f"{a:.4f}" for a in row["accuracy"].values()), f"{row['largest difference of a log-likelihood (nats)']:.1e}")
        for name, row in found["tasks"].items()
    ]
    header = ("task", "items", "groundup", f"lm-eval {found['versions']['lm_eval']}", "largest difference of an answer, nats")
    return table(header, rows)


EVALUATION: dict[str, Callable[[], str]] = {"agreement": agreement_table, "blimp": blimp_summary, "coding": coding_table}
