"""Generated strings, encoded by groundup and by tiktoken and tokenizers with the same vocabulary: the first difference ends the run.

    python -m benchmarks.tokenizer_fuzz [--strings 1000000] [--vocabulary r50k_base.tiktoken] [--seed 0] [--out benchmarks/results/...]

Strings mix code points of every plane, marks, digits of every script, contractions in every case, runs of spaces and line breaks, bytes
like surrogates, special tokens inside words, and pieces of this repository's sources. Libraries follow different versions of Unicode, so
only code points that are assigned in Unicode 3.2 are used. tokenizers, the slowest, is asked about every tenth string.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unicodedata import category, ucd_3_2_0

from benchmarks.resources import RESULTS, ROOT, provenance, save_result
from benchmarks.tokenizer import as_json, ranks_of
from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import PATTERNS, Tokenizer

COMPARED = ("gpt2", "cl100k", "o200k", "qwen2")
"""Patterns that both peers can be given as they are."""

SPECIAL = ("<|endoftext|>", "<|a|>", "<|b c|>")  # none begins another: tiktoken would take either
_TENTH = 10


class Strings:
    """Makes strings, the same ones for a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._points = [chr(i) for i in range(0x110000) if ucd_3_2_0.category(chr(i)) not in ("Cn", "Cs") and category(chr(i)) != "Cn"]
        self._by_category = {kind: [c for c in self._points if category(c) == kind] for kind in sorted(set(map(category, self._points)))}
        self._source = "".join(path.read_text() for path in sorted((ROOT / "groundup" / "tokenizer").glob("*.py")))
        self._makers: list[Callable[[], str]] = [
            lambda: self._random.choice(self._points),
            lambda: self._random.choice(self._random.choice(list(self._by_category.values()))),
            lambda: self._random.choice("abcxyzABCXYZ"),
            lambda: self._random.choice(["'s", "'S", "'ll", "'LL", "'Ve", "'re", "'D", "'t", "'m", "'ſ", "'", "''"]),
            lambda: self._random.choice([" ", "  ", "\n", "\r\n", "\t", " \n", "\n \n", "\xa0", "\u3000", "\x85", "\u2028"]) * self._few(),
            lambda: self._random.choice(self._by_category["Nd"]) * self._few(),
            lambda: self._random.choice(["(", "//", "/", "!", "—", "“", "_", "=", "😀"]) * self._few(),
            lambda: self._random.choice(self._by_category["Mn"]) * self._few(),
            lambda: self._random.choice(SPECIAL),
            lambda: self._random.choice(["\ufffd", "\x00", "\x7f", "\x1c", "\u200b", "\u200d", "\ufeff"]),
            self._piece_of_source,
        ]

    def _few(self) -> int:
        return 1 + int(self._random.expovariate(0.7))

    def _piece_of_source(self) -> str:
        at = self._random.randrange(len(self._source))
        return self._source[at : at + self._random.randrange(1, 40)]

    def make(self) -> str:
        """One string, of a few kinds of things, up to some hundred characters, now and then longer than the engine's chunks."""
        kinds = self._random.sample(self._makers, self._random.randint(1, 5))
        n = self._random.choice([3, 10, 10, 30, 60]) if self._random.random() < 0.999 else 4000
        return "".join(self._random.choice(kinds)() for _ in range(n))


def contestants(vocabulary: Path, pattern: str) -> dict[str, Callable[[str], Sequence[int]]]:
    """What gives the ids of a string, by name; groundup first."""
    import tiktoken
    import tokenizers

    ranks = ranks_of(vocabulary, pattern)
    special = {text: len(ranks) + i for i, text in enumerate(SPECIAL)}
    ours = Tokenizer.load(vocabulary, pattern=pattern, special_tokens=special)
    theirs = tiktoken.Encoding(pattern, pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens=special)
    face = tokenizers.Tokenizer.from_file(str(as_json(vocabulary, pattern)))
    face.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in SPECIAL])
    return {
        "groundup": lambda text: ours.encode(text, allowed_special="all").tolist(),
        "tiktoken": lambda text: theirs.encode(text, allowed_special="all"),
        "tokenizers": lambda text: face.encode(text).ids,
    }


def compare(strings: Strings, n: int, vocabulary: Path, pattern: str) -> dict[str, int]:
    """How many strings each peer was compared on; raises GroundupError at a difference."""
    peers = contestants(vocabulary, pattern)
    ours = peers.pop("groundup")
    compared = dict.fromkeys(peers, 0)
    for i in range(n):
        text = strings.make()
        ids = ours(text)
        for name, encode in peers.items():
            if name == "tokenizers" and i % _TENTH:
                continue
            compared[name] += 1
            if ids != list(encode(text)):
                raise GroundupError(f"{pattern}: {name} gives other ids than groundup for {text!r}")
    return compared


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares, writes the result file, prints one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--strings", type=int, default=1_000_000, help="in all, over the patterns")
    parser.add_argument(
        "--vocabulary", type=Path, help="a file in tiktoken's format; by default one is trained on this repository's sources"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "tokenizer_fuzz.json", help="result file")
    given = parser.parse_args(arguments)
    if given.strings < len(COMPARED):
        raise UsageError(f"--strings must be at least {len(COMPARED)}")
    start, results = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        for pattern in COMPARED:
            vocabulary = Path(folder) / f"{pattern}.tiktoken"
            if given.vocabulary:
                vocabulary.write_bytes(given.vocabulary.read_bytes())
            else:
                sources = [path.read_bytes() for path in sorted(ROOT.glob("groundup/**/*.py"))]
                Tokenizer.train(sources, 4000, pattern=pattern, special_tokens=()).save(vocabulary)
            results[pattern] = compare(Strings(given.seed), given.strings // len(COMPARED), vocabulary, pattern)
            print(f"{pattern}: no difference on {results[pattern]} strings, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    result = {"benchmark": "tokenizer_fuzz", "differences": 0, "seed": given.seed, "strings": results}
    packages = {name: importlib.metadata.version(name) for name in ("tiktoken", "tokenizers", "regex")}
    save_result(given.out, {**result, **provenance(), "packages": packages})
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        print(f"tokenizer_fuzz: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
