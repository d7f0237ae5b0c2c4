"""A network over bytes as a language model: scored in batches, or one symbol at a time with its state carried along, to equal numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from groundup.evaluate.protocol import FromPredictor
from groundup.history.network import START, SYMBOLS, Network
from groundup.history.symbols import Bytes
from groundup.parallel.threads import MOST_WORKERS, one_thread, run_together

BYTES = Bytes()
READ_AT_ONCE = 256
"""Symbols of a row that a network which carries a state reads in one go."""
BATCH_SYMBOLS = 1 << 14


class NetworkModel(FromPredictor):
    """A trained network under ``evaluate``'s protocols.

    A network that carries its state reads a text from its beginning. One that has windows of C symbols reads the first C, then goes on
    from the last C / 2 whenever C are full, so that each byte is predicted from at least C / 2 before it, where there are so many.
    """

    vocab_size, prefix = BYTES.vocab_size, (BYTES.begin,)
    encode, decode, n_bytes = BYTES.encode, BYTES.decode, BYTES.n_bytes

    def __init__(self, name: str, network: Network):
        self.name, self.network = name, network

    def start(self) -> NetworkCursor:
        """A cursor before a text; push the start symbol first."""
        return NetworkCursor(self.network)

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``; a context holds at least the start symbol. Threads share the texts, each with operations of its own:
        they are too small to be shared themselves.
        """
        texts = [np.concatenate(pair) for pair in zip(contexts, targets, strict=True)]
        nats: list[np.ndarray] = [np.zeros(0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        n = max(1, min(torch.get_num_threads(), MOST_WORKERS, len(texts)))

        def work(mine: list[int]) -> None:
            for i, given in zip(mine, self._nats([texts[i] for i in mine]), strict=True):
                nats[i] = given

        with one_thread():  # each
            run_together([partial(work, order[k::n]) for k in range(n)])
        return [row[len(row) - len(target) :] for row, target in zip(nats, targets, strict=True)]

    def sample(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float = 1.0, seed: int = 0, stop: Sequence[str] = ()
    ) -> list[bytes]:
        """As in ``LanguageModel``, on one thread: a step is too small for two."""
        with one_thread():
            return super().sample(prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop)

    @torch.inference_mode()
    def _nats(self, texts: list[np.ndarray]) -> list[np.ndarray]:
        """The log-probability of every symbol of each text, the longest first; 0 for the symbol that it begins with."""
        nats = [np.zeros(len(text)) for text in texts]
        read = self._carried if self.network.carries else self._windows
        for rows, first, inputs, log_p in read(texts):
            for row, start, n_seen, given in zip(rows, first, inputs, log_p, strict=True):
                stop = min(start + n_seen, len(texts[row]) - 1)
                nats[row][start + 1 : stop + 1] = given[: stop - start]
        return nats

    def _carried(self, texts: list[np.ndarray]) -> Iterator[tuple[list[int], list[int], list[int], Sequence[np.ndarray]]]:
        """All rows side by side, window after window; a row leaves when its text has ended, the last one first."""
        state, longest = self.network.begin(len(texts)), max(map(len, texts), default=0)
        for start in range(0, longest - 1, READ_AT_ONCE):
            rows = [row for row in range(len(texts)) if len(texts[row]) - 1 > start]
            state = tuple(part[: len(rows)] for part in state)
            symbols = _padded([texts[row][start : start + READ_AT_ONCE + 1] for row in rows])
            hidden, state = self.network.read(symbols[:, :-1], state)
            yield rows, [start] * len(rows), [READ_AT_ONCE] * len(rows), self._picked(hidden, symbols[:, 1:])

    def _windows(self, texts: list[np.ndarray]) -> Iterator[tuple[list[int], list[int], list[int], Sequence[np.ndarray]]]:
        """Windows that overlap by half, the half that was scored before left out."""
        size: int = self.network.context_length  # type: ignore[attr-defined]  # what has windows says how long they are
        half = size // 2
        windows = [(row, start) for row, text in enumerate(texts) for start in range(0, max(1, len(text) - 1 - half), half)]
        per_batch = max(1, BATCH_SYMBOLS // size)
        for i in range(0, len(windows), per_batch):
            batch = windows[i : i + per_batch]
            symbols = _padded([texts[row][start : start + size + 1] for row, start in batch])
            hidden, _ = self.network.read(symbols[:, :-1], ())
            log_p = self._picked(hidden, symbols[:, 1:])
            skips = [half if start else 0 for _, start in batch]
            firsts = [start + skip for (_, start), skip in zip(batch, skips, strict=True)]
            yield (
                [row for row, _ in batch],
                firsts,
                [size - skip for skip in skips],
                [p[skip:] for p, skip in zip(log_p, skips, strict=True)],
            )

    def _picked(self, hidden: Tensor, targets: Tensor) -> np.ndarray:
        log_p = torch.log_softmax(_logits(self.network, hidden), dim=-1)
        return log_p.gather(-1, targets.clamp(max=SYMBOLS - 1)[..., None])[..., 0].double().numpy()


class NetworkCursor:
    """A place in one text: the network's state, and for windows the symbols that a new one would begin with."""

    def __init__(self, network: Network):
        self.network = network
        self._state: Any = network.begin(1)
        self._window: list[int] = []
        self._hidden: Tensor | None = None

    @torch.inference_mode()
    def push(self, token: int) -> None:
        """Reads one more symbol."""
        given = [token]
        if not self.network.carries:
            size: int = self.network.context_length  # type: ignore[attr-defined]
            if len(self._window) == size:
                self._state, given = self.network.begin(1), [*self._window[-(size // 2) :], token]
                self._window = given[:-1]
            self._window.append(token)
        hidden, self._state = self.network.read(torch.tensor([given]), self._state)
        self._hidden = hidden[:, -1:]

    @torch.inference_mode()
    def probabilities(self) -> Float64[np.ndarray, " v"]:
        """Of the next byte, in float64; the start symbol's is 0."""
        assert self._hidden is not None, "push the start symbol first"
        p = torch.softmax(_logits(self.network, self._hidden)[0, 0].double(), dim=-1).numpy()
        return np.append(p, 0.0)


def _logits(network: Network, hidden: Tensor) -> Tensor:
    logits = hidden @ network.head.T
    return logits if network.head_bias is None else logits + network.head_bias


def _padded(texts: list[np.ndarray]) -> Tensor:
    """Rows of equal length, filled with start symbols."""
    out = torch.full((len(texts), max(map(len, texts))), START)
    for row, text in zip(out, texts, strict=True):
        row[: len(text)] = torch.from_numpy(text)
    return out
