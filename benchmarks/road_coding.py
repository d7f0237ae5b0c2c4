"""Every model of the road codes a file and decodes it: to the same bytes, at the size that its score promises.

    python -m benchmarks.road_coding [--data novels.jsonl] [--bytes 100000] [--budget 5m] [--stops lstm gpt2]
        [--out benchmarks/results/road_coding.json]

The models are built as ``groundup history`` builds them, each in its share of the budget; coding comes after and takes what it takes, about
a millisecond a byte and way for a network. The text is the beginning of the test split. Two promises are held against the code: the sum of
-log2 p that the coder itself met, one byte after another, and the score that the same model gives the same text in batches.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.resources import RESULTS, provenance, save_result
from groundup.account import parse_budget
from groundup.errors import GroundupError
from groundup.evaluate.compress import compress, decompress
from groundup.history.road import choose
from groundup.history.study import Built, read_text, score

PROMISE = 0.001
"""How far the code may be from what was promised."""


def check(built: Built, text: bytes) -> dict[str, Any]:
    """Codes and decodes a text with one model; GroundupError where other bytes come out."""
    began = time.perf_counter()
    coded = compress(built.model, text)
    middle = time.perf_counter()
    if decompress(built.model, coded.data) != text:
        raise GroundupError(f"{built.model.name}: other bytes came out than went in")
    scored = score(built.model, [text]).bits_per_byte * len(text)
    return {
        "bytes": len(text),
        "code_bytes": coded.n_code_bytes,
        "bits_per_byte": 8 * coded.n_code_bytes / len(text),
        "over_promised": 8 * coded.n_code_bytes / coded.promised_bits - 1,
        "over_scored": 8 * coded.n_code_bytes / scored - 1,
        "seconds": [middle - began, time.perf_counter() - middle],
    }


def run(sources: Sequence[str], budget_s: float, n_bytes: int, keys: Sequence[str]) -> dict[str, Any]:
    """Builds and checks every stop; those that cannot be had are named with their reason."""
    text, stops, found, left_out = read_text(sources, budget_s), choose(keys), {}, {}
    coded = b"".join(text.test)[:n_bytes]
    for stop in stops:
        try:
            built = stop.build(text, budget_s / len(stops), lambda progress, words: None)
        except GroundupError as e:
            left_out[stop.key] = str(e)
            continue
        found[stop.key] = check(built, coded)
        row = found[stop.key]
        print(f"{stop.key:12} {row['over_promised']:+.4%} of the promise, {row['over_scored']:+.4%} of the score", flush=True)
    worst = max((abs(row[name]) for row in found.values() for name in ("over_promised", "over_scored")), default=0.0)
    return {"text": text.name, "budget_s": budget_s, "models": found, "left_out": left_out, "worst": worst, "kept": worst <= PROMISE}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs, prints, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--stops", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS / "road_coding.json")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # one symbol at a time is too small for two, and a code asks for the same sums both ways
    result = run(given.data, parse_budget(given.budget).amount, given.bytes, given.stops)
    print(f"worst {result['worst']:.5%}: {'kept' if result['kept'] else 'NOT kept'} within {PROMISE:.1%}")
    save_result(given.out, result | provenance())
    print(json.dumps(result))


if __name__ == "__main__":
    main()
