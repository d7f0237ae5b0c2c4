"""Every model's bits per byte paid in a file: code a text by each, bring it back, and hold the size against what the score promised.

    python -m benchmarks.coding --data FILE [--models RUN ...] [--bytes 100000]

Models are words of ``groundup eval``, or functions from the training text to a ``Compressor`` in ``MODELS``, which other rooms may
extend. The claim: the same bytes back, the code within 0.1 % of the score. The header, a constant of about twenty bytes, is told apart.
"""

from __future__ import annotations

import argparse
import bz2
import lzma
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.resources import RESULTS, provenance, save_result
from groundup.data import Document
from groundup.evaluate.compress import Compressor, compress, decompress
from groundup.evaluate.protocol import Cursor, FromPredictor
from groundup.evaluate.text import score_documents
from groundup.terminal import show_rows

START = 256
LIMIT = 1e-3


class _Place:
    """A cursor over a table of bigrams."""

    def __init__(self, table: np.ndarray) -> None:
        self._table, self._last = table, START

    def probabilities(self) -> np.ndarray:
        return self._table[self._last]

    def push(self, token: int) -> None:
        self._last = token


class Bytes(FromPredictor):
    """The smallest models: each byte alike, or after the one before as often as in the training text (one added to each count)."""

    vocab_size, prefix = 257, (START,)

    def __init__(self, name: str, table: np.ndarray) -> None:
        self.name, self._table = name, table

    def encode(self, text: str | bytes) -> np.ndarray:
        """Bytes."""
        return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64)

    def decode(self, tokens: np.ndarray) -> bytes:
        """Bytes."""
        return bytes(tokens.tolist())

    def n_bytes(self, tokens: np.ndarray) -> np.ndarray:
        """One each."""
        return np.ones(len(tokens), np.int64)

    def start(self) -> Cursor:
        """Before the first byte."""
        return _Place(self._table)


def uniform(train: bytes) -> Compressor:
    """Nothing known: eight bits a byte."""
    table = np.zeros((257, 257))
    table[:, :256] = 1 / 256
    return Bytes("uniform", table)


def bigram(train: bytes) -> Compressor:
    """Pairs of bytes, counted."""
    tokens = np.concatenate(([START], np.frombuffer(train, np.uint8).astype(np.int64)))
    counts = np.zeros((257, 257))
    counts[:, :256] = 1
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    return Bytes("bigram", counts / counts.sum(1, keepdims=True))


MODELS: Mapping[str, Callable[[bytes], Compressor]] = {"uniform": uniform, "bigram": bigram}
PEERS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip -9": lambda text: zlib.compress(text, 9),
    "bzip2 -9": lambda text: bz2.compress(text, 9),
    "xz -9e": lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME),
}


def measure(model: Compressor, text: bytes) -> dict[str, Any]:
    """One model on one text: bits of its score, bytes of its file, seconds each way."""
    started = time.monotonic()
    promised = float(score_documents(model, [Document("text", text)]).bits[0])
    scored = time.monotonic()
    coded = compress(model, text)
    written = time.monotonic()
    same = decompress(model, coded.data) == text
    return {
        "same bytes": same,
        "bits_per_byte": promised / len(text),
        "code_bytes": coded.n_code_bytes,
        "header_bytes": len(coded.data) - coded.n_code_bytes,
        "overhead": 8 * coded.n_code_bytes / promised - 1,
        "score_s": scored - started,
        "compress_s": written - scored,
        "decompress_s": time.monotonic() - written,
    }


def main() -> None:
    """Measures, prints the table and writes the result file; exit status 1 where the claim fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a text file: its beginning is coded, the rest is learned from")
    parser.add_argument("--models", nargs="*", default=[], help="further models, as groundup eval takes them")
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "coding.json")
    asked = parser.parse_args()
    with asked.data.open("rb") as file:
        text, train = file.read(asked.bytes), file.read(20_000_000)
    models = [make(train) for make in MODELS.values()]
    if asked.models:
        from groundup.cli_eval import open_language_model

        models += [open_language_model(spec) for spec in asked.models]
    rows = {}
    for model in models:
        rows[model.name] = row = measure(model, text)
        print(f"{model.name}: overhead {row['overhead']:+.2e}, {row['bits_per_byte']:.4f} bits per byte", flush=True)
    peers = {name: 8 * len(squeeze(text)) / len(text) for name, squeeze in PEERS.items()}
    show_rows([{"model": name, **row} for name, row in rows.items()])
    show_rows([{"compressor": name, "bits/byte": rate} for name, rate in peers.items()])
    holds = all(row["same bytes"] and abs(row["overhead"]) < LIMIT for row in rows.values())
    save_result(asked.out, {"holds": holds, "n_bytes": len(text), "data": asked.data.name, "models": rows, "peers": peers, **provenance()})
    raise SystemExit(0 if holds else 1)


if __name__ == "__main__":
    main()
