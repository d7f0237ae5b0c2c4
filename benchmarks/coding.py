"""Every model's bits per byte paid in a file: code a text by each, bring it back, and hold the size against what the score promises.

    python -m benchmarks.coding [--data novels.jsonl] [--budget 5m] [--bytes 100000] [--stops unigram gpt2] [--models RUN ...]
        [--out benchmarks/results/coding.json]

The models are the stops of ``groundup history`` (all of them, or those named), each built in its share of the budget, and ``--models`` in
the words of ``groundup eval``. The text is the beginning of the held-out text, as one document. Building keeps to the budget; coding comes
after and takes what it takes: a network about a millisecond a byte each way, counts less. The claim: the same bytes back, and the code
within 0.1 % of the score that the model gives the text in batches. The sum of -log2 p that the coder met, one token after another, is
kept beside it, and so are the seconds; the header, a constant of about twenty bytes, is told apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.resources import RESULTS, provenance, save_result
from groundup.account import parse_budget
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.compress import Compressor, compress, decompress
from groundup.history.compressors import COMPRESSORS, available
from groundup.history.road import choose
from groundup.history.study import HELD_OUT_BYTES_PER_S, Text, read_text, score
from groundup.parallel.threads import one_thread
from groundup.terminal import show_rows

LIMIT = 1e-3
"""How far a code may be from the score, as a share of it."""


def measure(model: Compressor, text: bytes) -> dict[str, Any]:
    """One model on one text: its score, the size of its code, seconds each way."""
    started = time.monotonic()
    scored = float(score(model, [text]).bits[0])
    ready = time.monotonic()
    with one_thread():  # a symbol at a time
        coded = compress(model, text)
        written = time.monotonic()
        same = decompress(model, coded.data) == text
    return {
        "same bytes": same,
        "bits_per_byte": scored / len(text),
        "code_bytes": coded.n_code_bytes,
        "header_bytes": len(coded.data) - coded.n_code_bytes,
        "overhead": 8 * coded.n_code_bytes / scored - 1,
        "over_promise": coded.overhead,
        "score_s": ready - started,
        "compress_s": written - ready,
        "decompress_s": time.monotonic() - written,
    }


def models(
    text: Text, budget_s: float, stops: Sequence[str], specs: Sequence[str], left_out: dict[str, str]
) -> Iterator[tuple[str, Compressor]]:
    """Each stop's name and model, then those of ``groundup eval``; a stop that cannot be had is put in ``left_out`` with its reason."""
    chosen = choose(stops)
    for stop in chosen:
        try:
            built = stop.build(text, budget_s / len(chosen), lambda progress, words: None)
        except UsageError as e:
            left_out[stop.key] = str(e)
            print(f"{stop.key} left out: {e}", flush=True)
        else:
            yield stop.name, built.model
    if specs:
        from groundup.cli_eval import open_language_model

        for spec in specs:
            yield spec, open_language_model(spec)


def run(
    sources: Sequence[str], budget_s: float, n_bytes: int, stops: Sequence[str] = (), specs: Sequence[str] = (), text_field: str = "text"
) -> dict[str, Any]:
    """Codes the held-out text's beginning by every model; UsageError where it is shorter than ``n_bytes``."""
    text = read_text(sources, max(budget_s, 1.1 * n_bytes / HELD_OUT_BYTES_PER_S), text_field)
    coded = b"".join(text.test)[:n_bytes]
    if len(coded) < n_bytes:
        raise UsageError(
            f"--data {text.name}: its held-out text has {len(coded):,} bytes, not {n_bytes:,}: give more text, or fewer --bytes"
        )
    found, left_out = {}, {}
    for name, model in models(text, budget_s, stops, specs, left_out):
        found[name] = row = measure(model, coded)
        seconds = row["compress_s"] + row["decompress_s"]
        print(f"{row['overhead']:+.4%} over the score, {row['bits_per_byte']:.4f} bits per byte, {seconds:.0f} s: {name}", flush=True)
    return {
        "holds": all(row["same bytes"] and abs(row["overhead"]) < LIMIT for row in found.values()),
        "n_bytes": len(coded),
        "data": text.name,
        "budget_s": budget_s,
        "models": found,
        "left_out": left_out,
        "peers": {name: 8 * len(COMPRESSORS[name](coded)) / len(coded) for name in available()},
    }


def main() -> None:
    """Measures, prints the table and writes the result file; exit status 1 where the claim fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], help="sources as in groundup history; none: the standard library")
    parser.add_argument("--text-field", default="text", help="where a JSON line has its text")
    parser.add_argument("--budget", default="5m", help="time for building the stops")
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--stops", nargs="*", default=[], help="of groundup history (default: all)")
    parser.add_argument("--models", nargs="*", default=[], help="further models, as groundup eval takes them")
    parser.add_argument("--out", type=Path, default=RESULTS / "coding.json")
    asked = parser.parse_args()
    result = run(asked.data, parse_budget(asked.budget).amount, asked.bytes, asked.stops, asked.models, asked.text_field)
    show_rows([{"model": name, **row} for name, row in result["models"].items()])
    show_rows([{"compressor": name, "bits/byte": rate} for name, rate in result["peers"].items()])
    print(f"the code is {'' if result['holds'] else 'NOT '}within {LIMIT:.1%} of every score")
    save_result(asked.out, result | provenance())
    raise SystemExit(0 if result["holds"] else 1)


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        raise SystemExit(f"coding: {e}") from None
