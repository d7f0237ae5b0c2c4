"""The smallest models that speak the protocol, for tests."""

import numpy as np

from groundup.evaluate.protocol import FromPredictor

START = 256
TEXT = "the cat sat on the mat; the dog saw the cat and the cat saw the dog. " * 12
WINDOW = 32  # of the tiny decoder


class BigramCursor:
    def __init__(self, table: np.ndarray) -> None:
        self.table, self.last = table, START

    def probabilities(self) -> np.ndarray:
        return self.table[self.last]

    def push(self, token: int) -> None:
        self.last = token


class Bigram(FromPredictor):
    """Bytes, each after the one before; token 256 opens documents."""

    vocab_size, prefix = 257, (START,)

    def __init__(self, text: bytes, name: str = "bigram") -> None:
        self.name = name
        tokens = np.concatenate(([START], self.encode(text)))
        counts = np.full((257, 257), 0.01)
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
        self.table = counts / counts.sum(1, keepdims=True)

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64)

    def decode(self, tokens: np.ndarray) -> bytes:
        return bytes(tokens.tolist())

    def n_bytes(self, tokens: np.ndarray) -> np.ndarray:
        return np.ones(len(tokens), np.int64)

    def start(self) -> BigramCursor:
        return BigramCursor(self.table)
