"""Training speed of the tokenizer against native trainers, on the same text to the same size of vocabulary.

    python -m benchmarks.tokenizer_training --data novels.jsonl [--vocab-size 32000] [--megabytes 40] [--rounds 3]
        [--name prose] [--out benchmarks/results/tokenizer_training.json]

All get the same documents in memory, GPT-2's pattern and every core, and take turns, round after round; ratios are medians of the ratios
round by round. What they learned is compared first: gigatoken's and Hugging Face's merges must be ours, token for token, with their ties;
rustbpe breaks ties in its own way, so for it the share of equal tokens is shown. What numba compiles is compiled before.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.resources import RESULTS, load_result, provenance, save_result
from benchmarks.tokenizer import read_text
from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.patterns import PATTERNS, pieces

REFERENCE = "gigatoken"
SAME_TIES = ("gigatoken", "tokenizers")
Trainer = Callable[[list[bytes], int], list[bytes]]
"""Documents and a vocabulary size in, the learned tokens out, in order, the 256 bytes left out."""


def _ours(ties: Any) -> Trainer:
    def train(texts: list[bytes], vocab_size: int) -> list[bytes]:
        return Tokenizer.train(texts, vocab_size, special_tokens=(), ties=ties).token_bytes[256:]

    return train


def _gigatoken(texts: list[bytes], vocab_size: int) -> list[bytes]:
    from gigatoken.gigatoken_rs import train_bpe

    separator = "<|endoftext|>"
    merges = train_bpe(separator.encode().join(texts), vocab_size + 1, [separator], separator=separator.encode())[1]
    return [left + right for left, right in merges]


def _tokenizers(texts: list[bytes], vocab_size: int) -> list[bytes]:
    from tokenizers import Tokenizer as HuggingFace
    from tokenizers import models, pre_tokenizers, trainers

    from groundup.tokenizer.vocabulary import byte_alphabet

    theirs = HuggingFace(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator((text.decode() for text in texts), trainer)
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    learned = sorted(theirs.get_vocab().items(), key=lambda item: item[1])[256:]
    return [bytes(byte_of[character] for character in token) for token, _ in learned]


def _rustbpe(texts: list[bytes], vocab_size: int) -> list[bytes]:
    import rustbpe

    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator((text.decode() for text in texts), vocab_size, pattern=PATTERNS["gpt2"])
    return [bytes(token) for token, _ in sorted(theirs.get_mergeable_ranks(), key=lambda item: item[1])[256:]]


TRAINERS: dict[str, Trainer] = {
    "groundup": _ours("greatest"),
    "groundup, Hugging Face's ties": _ours("huggingface"),
    "gigatoken": _gigatoken,
    "rustbpe": _rustbpe,
    "tokenizers": _tokenizers,
}


def rows(summary: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """The table for people: ratios first."""
    return [
        {
            "contestant": name,
            "of gigatoken's speed": f"{found['over_gigatoken']:.2f}" if "over_gigatoken" in found else "",
            "seconds": f"{found['seconds']:.2f}",
            "tokens as ours": f"{found['equal']:.4f}",
        }
        for name, found in summary.items()
    ]


def measure(names: Sequence[str], texts: list[bytes], vocab_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Trains everyone in turns; GroundupError where merges differ that must not."""
    learned = {name: TRAINERS[name](texts, vocab_size) for name in names}
    for name in set(SAME_TIES) & set(names):
        if learned[name] != learned["groundup, Hugging Face's ties"]:
            raise GroundupError(f"{name} learned other merges than groundup with its ties: nothing was timed")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            started = time.perf_counter()
            TRAINERS[name](texts, vocab_size)
            seconds[name].append(time.perf_counter() - started)
    ours = set(learned["groundup"])
    return {
        name: {"seconds": statistics.median(own), "equal": len(ours & set(learned[name])) / max(1, len(ours))}
        | ({"over_gigatoken": statistics.median(b / a for a, b in zip(own, seconds[REFERENCE], strict=True))} if REFERENCE in names else {})
        for name, own in seconds.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Checks, measures, writes the result file, prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="files or folders of text")
    parser.add_argument("--text-field", default="text", help="where a JSON line has its text")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--megabytes", type=float, default=40, help="of the text at most")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--name", default="text", help="what the text is called in the result file")
    parser.add_argument("--out", type=Path, default=RESULTS / "tokenizer_training.json", help="result file")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.megabytes <= 0:
        raise UsageError("--rounds must be at least 1 and --megabytes more than 0")
    from groundup.terminal import show_rows

    texts = list(pieces(read_text(given.data, int(given.megabytes * 1e6), given.text_field), 1 << 20))
    names = [name for name in TRAINERS if name.startswith("groundup") or importlib.util.find_spec(name)]
    summary = measure(names, texts, given.vocab_size, given.rounds)
    versions = {name: importlib.metadata.version(name) for name in (*names, "numba") if not name.startswith("groundup")}
    result = {**provenance(), "packages": versions, "n_bytes": sum(map(len, texts)), "vocab_size": given.vocab_size, "summary": summary}
    key = f"{given.name}, {given.vocab_size:,}"
    save_result(given.out, {"benchmark": "tokenizer_training", "texts": load_result(given.out).get("texts", {}) | {key: result}})
    show_rows(rows(summary), title=f"{key} tokens, {result['n_bytes'] / 1e6:.0f} MB")
    print(json.dumps({"benchmark": "tokenizer_training", "name": key, "summary": summary}))


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        raise SystemExit(f"tokenizer_training: {e}") from None
