"""Encoding and decoding speed against the native tokenizers, each given the same vocabulary and asked for the same ids.

    python -m benchmarks.tokenizer --data novels.jsonl [--vocabulary r50k_base.tiktoken] [--pattern gpt2] [--megabytes 30] [--rounds 5]
        [--name prose] [--out benchmarks/results/tokenizer.json]

Everyone encodes the same bytes; before anything is timed their ids are compared, and one difference ends the run. They take turns, round
after round, and ratios are medians of the ratios round by round. ``first`` is the first encoding by a tokenizer that was just made (what
numba compiles is compiled by then), ``warm`` the median of those after it. Two peers that are slow are given a slice of the text. Without
``--vocabulary``, a file in tiktoken's format, one of 32,000 tokens is trained on the text. The result file keeps other texts' results.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.resources import RESULTS, ROOT, load_result, provenance, save_result
from groundup.data import open_corpus
from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import PATTERNS, Tokenizer
from groundup.tokenizer.patterns import pieces

SLICE_BYTES = 3_000_000
SHORT = "The quick brown fox jumps over the lazy dog, and it's 1234 times better than what you knew before it"
SHORT_CALLS = 2000
REFERENCE = "gigatoken"


class Contestant(NamedTuple):
    """A tokenizer ready to be timed."""

    encode: Callable[[bytes], np.ndarray]
    decode: Callable[[np.ndarray], object] | None
    encode_short: Callable[[str], object] | None


def _ours(vocabulary: Path, pattern: str, n_threads: int) -> Contestant:
    tokenizer = load(vocabulary, pattern)
    tokenizer.encode("a")
    return Contestant(lambda data: tokenizer.encode_ordinary(data, n_workers=n_threads), tokenizer.decode_bytes, tokenizer.encode)


def _gigatoken(vocabulary: Path, pattern: str) -> Contestant:
    import gigatoken

    tokenizer = gigatoken.Tokenizer.from_tiktoken(str(vocabulary), pattern.replace("-", "_"))
    return Contestant(lambda data: np.asarray(tokenizer.encode(data)), tokenizer.decode, tokenizer.encode)


def _gigatoken_threads(vocabulary: Path, pattern: str) -> Contestant:
    import gigatoken

    tokenizer = gigatoken.Tokenizer.from_tiktoken(str(vocabulary), pattern.replace("-", "_"))

    def encode(data: bytes) -> np.ndarray:
        return np.asarray(tokenizer.encode_batch(list(pieces(data, 1 << 20)), parallel=True).layout.content.data)

    return Contestant(encode, None, None)


def _tiktoken(vocabulary: Path, pattern: str) -> Contestant:
    import tiktoken

    ranks = ranks_of(vocabulary, pattern)
    tokenizer = tiktoken.Encoding("same", pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={})
    return Contestant(
        lambda data: np.array(tokenizer.encode_ordinary(data.decode())),
        lambda ids: tokenizer.decode_bytes(ids.tolist()),
        tokenizer.encode,
    )


def _tokenizers(vocabulary: Path, pattern: str) -> Contestant:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(as_json(vocabulary, pattern)))
    return Contestant(lambda data: np.array(tokenizer.encode(data.decode()).ids), None, lambda text: tokenizer.encode(text))


def _fastokens(vocabulary: Path, pattern: str) -> Contestant:
    from fastokens._native import Tokenizer as Fast

    tokenizer = Fast.from_file(str(as_json(vocabulary, pattern)))
    return Contestant(lambda data: np.array(tokenizer.encode(data.decode()).ids), None, tokenizer.encode)


def _toktok(vocabulary: Path, pattern: str) -> Contestant:
    import toktok

    tokenizer = toktok._encoding(TOKTOK_VOCABULARIES[vocabulary.stem])
    return Contestant(
        lambda data: tokenizer.encode_to_numpy(data.decode(), disallowed_special=()),
        lambda ids: tokenizer.decode_bytes(ids.tolist()),
        tokenizer.encode_to_numpy,
    )


TOKTOK_VOCABULARIES = {name: name for name in ("cl100k_base", "o200k_base")}
"""Files by name whose tokens toktok has built in; it takes no other vocabulary."""

CONTESTANTS: dict[str, Callable[[Path, str], Contestant]] = {
    "groundup": lambda vocabulary, pattern: _ours(vocabulary, pattern, 1),
    "gigatoken": _gigatoken,
    "groundup, 2 threads": lambda vocabulary, pattern: _ours(vocabulary, pattern, 2),
    "gigatoken, threads": _gigatoken_threads,
    "fastokens": _fastokens,
    "toktok": _toktok,
    "tiktoken": _tiktoken,
    "tokenizers": _tokenizers,
}
ALONE = {"groundup", "gigatoken", "fastokens", "toktok", "tiktoken", "tokenizers"}
"""Those that use one thread."""

SLOW = {"tiktoken", "tokenizers"}
PACKAGES = {"gigatoken": "gigatoken", "fastokens": "fastokens", "toktok": "toktok-rs", "tiktoken": "tiktoken", "tokenizers": "tokenizers"}
"""Peers' packages by module."""


def load(vocabulary: Path, pattern: str) -> Tokenizer:
    """The tokenizer of a file in tiktoken's format, without special tokens."""
    return Tokenizer.load(vocabulary, pattern=pattern, special_tokens={})


def ranks_of(vocabulary: Path, pattern: str) -> dict[bytes, int]:
    """The file's tokens, as tiktoken takes them."""
    return {token: rank for rank, token in enumerate(load(vocabulary, pattern).token_bytes)}


def as_json(vocabulary: Path, pattern: str) -> Path:
    """The vocabulary as a tokenizer.json beside it, written once."""
    path = vocabulary.with_suffix(f".{pattern}.json")
    if not path.exists():
        load(vocabulary, pattern).save(path)
    return path


def read_text(sources: Sequence[str], limit_bytes: int, text_field: str) -> bytes:
    """Documents, an empty line between them, as many as fit; cut where a document would not."""
    parts, room = [], limit_bytes
    for document in open_corpus(sources, text_field=text_field).documents():
        parts.append(document.text.decode("utf-8", "replace").encode()[:room])
        room -= len(parts[-1]) + 2
        if room <= 0:
            break
    return b"\n\n".join(parts).decode("utf-8", "ignore").encode()


def available(names: Sequence[str], vocabulary: Path | None) -> list[str]:
    """The contestants whose packages are here and that take this vocabulary; says which do not."""
    found = []
    for name in names:
        if name == "toktok" and (vocabulary is None or vocabulary.stem not in TOKTOK_VOCABULARIES):
            print(f"without {name}: it has {' and '.join(TOKTOK_VOCABULARIES)} alone", file=sys.stderr)
            continue
        try:
            importlib.import_module(name.partition(",")[0])
            found.append(name)
        except ImportError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return found


def check(names: Sequence[str], data: bytes, vocabulary: Path, pattern: str) -> int:
    """How many ids everyone gives; raises GroundupError where one gives others."""
    expected = {size: CONTESTANTS["groundup"](vocabulary, pattern).encode(data[:size]) for size in (len(data), slice_end(data))}
    for name in names:
        size = slice_end(data) if name in SLOW else len(data)
        ids = CONTESTANTS[name](vocabulary, pattern).encode(data[:size])
        if not np.array_equal(ids, expected[size]):
            at = next((i for i, (a, b) in enumerate(zip(ids, expected[size], strict=False)) if a != b), min(len(ids), len(expected[size])))
            raise GroundupError(f"{name} gives other ids than groundup, from id {at} on")
    return len(expected[len(data)])


def slice_end(data: bytes) -> int:
    """Where the slice for slow contestants ends: behind a line."""
    return data.rfind(b"\n", 0, SLICE_BYTES) + 1 or len(data)


def measure(names: Sequence[str], data: bytes, vocabulary: Path, pattern: str, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Bytes per second by measure, contestant and round; ``short`` in calls per second."""
    speeds: dict[str, dict[str, list[float]]] = {"first": {}, "warm": {}, "decode": {}, "short": {}}

    def timed(what: str, name: str, amount: int, function: Callable[[], object]) -> None:
        start = time.perf_counter()
        function()
        speeds[what].setdefault(name, []).append(amount / (time.perf_counter() - start))

    for _ in range(rounds):
        fresh = {name: CONTESTANTS[name](vocabulary, pattern) for name in names}
        for what in ("first", "warm"):
            for name, contestant in fresh.items():
                text = data[: slice_end(data)] if name in SLOW else data
                timed(what, name, len(text), partial(contestant.encode, text))
        ids = fresh["groundup"].encode(data)
        for name, contestant in fresh.items():
            if contestant.decode and name in ALONE:
                timed("decode", name, len(data), partial(contestant.decode, ids))
            if contestant.encode_short and name in ALONE:
                timed("short", name, SHORT_CALLS, partial(_repeat, contestant.encode_short))
    return speeds


def _repeat(encode: Callable[[str], object]) -> None:
    for _ in range(SHORT_CALLS):
        encode(SHORT)


def memory(names: Sequence[str], data: bytes, vocabulary: Path, pattern: str) -> dict[str, int]:
    """Bytes by which the peak of a fresh process that encodes the text once exceeds what it held before, its tokenizer made."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text"
        text.write_bytes(data)
        for name in names:
            if name not in SLOW:
                command = [sys.executable, "-m", "benchmarks.tokenizer", "--data", str(text), "--vocabulary", str(vocabulary)]
                done = subprocess.run([*command, "--pattern", pattern, "--worker", name], capture_output=True, text=True, cwd=ROOT)
                if done.returncode:
                    raise GroundupError(f"{name} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
                found[name] = int(done.stdout.split()[-1])
    return found


def work(name: str, text: Path, vocabulary: Path, pattern: str) -> None:
    """In a process of its own: prints the bytes that encoding added to the peak."""
    data = text.read_bytes()
    contestant = CONTESTANTS[name](vocabulary, pattern)
    contestant.encode(b"a few words")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
    before = _held("VmHWM")
    contestant.encode(data)
    print(_held("VmHWM") - before)


def _held(what: str) -> int:
    """Bytes of memory of this process, as Linux says it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def summarize(speeds: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """By measure and contestant: the median speed, and the median over rounds of its ratio to the reference's."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for what, by_name in speeds.items():
        summary[what] = {}
        for name, own in by_name.items():
            row = {"per_second": statistics.median(own)}
            if REFERENCE in by_name:
                row["over_gigatoken"] = statistics.median(a / b for a, b in zip(own, by_name[REFERENCE], strict=True))
            summary[what][name] = row
    return summary


def rows(summary: Mapping[str, Mapping[str, Mapping[str, float]]], peaks: Mapping[str, int]) -> list[dict[str, Any]]:
    """The table for people: ratios first."""
    table = []
    for name in summary["warm"]:
        row: dict[str, Any] = {"contestant": name}
        for what in ("first", "warm", "decode", "short"):
            found = summary[what].get(name, {})
            row[f"{what} / gigatoken's"] = f"{found['over_gigatoken']:.2f}" if "over_gigatoken" in found else ""
        for what in ("first", "warm", "decode"):
            found = summary[what].get(name, {})
            row[f"{what}, MB/s"] = f"{found['per_second'] / 1e6:.1f}" if found else ""
        row["100 bytes, µs"] = f"{1e6 / summary['short'][name]['per_second']:.1f}" if name in summary["short"] else ""
        row["peak, MB"] = f"{peaks[name] / 1e6:.0f}" if name in peaks else ""
        table.append(row)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Checks, measures, writes the result file, prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="files or folders of text")
    parser.add_argument("--text-field", default="text", help="where a JSON line has its text")
    parser.add_argument("--vocabulary", type=Path, help="a file in tiktoken's format; by default one is trained")
    parser.add_argument("--pattern", default="gpt2", choices=PATTERNS, help="pre-tokenization pattern")
    parser.add_argument("--megabytes", type=float, default=30, help="of the text at most")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--name", default="text", help="what the text is called in the result file")
    parser.add_argument("--out", type=Path, default=RESULTS / "tokenizer.json", help="result file")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        return work(given.worker, Path(given.data[0]), given.vocabulary, given.pattern)
    if given.rounds < 1 or given.megabytes <= 0:
        raise UsageError("--rounds must be at least 1 and --megabytes more than 0")
    from groundup.terminal import show_rows

    data = read_text(given.data, int(given.megabytes * 1e6), given.text_field)
    names = available(["groundup", *(name for name in given.contestants if name != "groundup")], given.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / (given.vocabulary.name if given.vocabulary else "vocabulary.tiktoken")
        if given.vocabulary:
            vocabulary.write_bytes(given.vocabulary.read_bytes())
        else:
            Tokenizer.train([data], 32_000, pattern=given.pattern, special_tokens=(), max_bytes=4_000_000).save(vocabulary)
        n_ids = check(names, data, vocabulary, given.pattern)
        summary = summarize(measure(names, data, vocabulary, given.pattern, given.rounds))
        peaks = memory(names, data, vocabulary, given.pattern) if sys.platform == "linux" else {}
    text = {"n_bytes": len(data), "n_ids": n_ids, "non_ascii_bytes": sum(np.frombuffer(data, np.uint8) >= 128).item()}
    modules = [module for module in PACKAGES if importlib.util.find_spec(module)]
    versions = {name: importlib.metadata.version(name) for name in ("numba", *map(PACKAGES.get, modules))}
    result = {**provenance(), "pattern": given.pattern, "packages": versions, "text": text, "summary": summary, "peak_bytes": peaks}
    texts = load_result(given.out).get("texts", {}) | {given.name: result}
    save_result(given.out, {"benchmark": "tokenizer", "texts": texts})
    show_rows(rows(summary, peaks), title=f"{given.name}: {len(data) / 1e6:.0f} MB, pattern {given.pattern}, equal ids")
    print(json.dumps({"benchmark": "tokenizer", "name": given.name, "summary": summary, "peak_bytes": peaks}))
    return None


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        print(f"tokenizer: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
