"""Our decoder, with the counts of its prior or without, as evaluation sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64

from groundup.data import TokenStore, evaluation_windows
from groundup.errors import UsageError
from groundup.evaluate.protocol import FromPredictor, cut
from groundup.infer.generate import Reader, generate_batch
from groundup.model.decoder import Decoder
from groundup.model.prior import NgramPrior
from groundup.tokenizer import Tokenizer
from groundup.train.feed import to_tensors

TOKENS_AT_ONCE = 1 << 13  # of a batch
ROWS_AT_ONCE = 64  # texts written side by side


class DecoderModel(FromPredictor):
    """A ``LanguageModel``, ``Ranker`` and ``Predictor`` of a decoder.

    It reads texts of any length: the network through windows of seq_len tokens with stride seq_len / 2, in which short texts are packed,
    the counts all of the text so far.
    """

    context_length = None

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        *,
        prior: NgramPrior | None = None,
        name: str = "decoder",
        seq_len: int | None = None,
        stops: Sequence[int] = (),
    ) -> None:
        """``seq_len``: most tokens that the network reads at once (default: all it can); ``stops``: tokens that end a text, too."""
        self.model, self.tokenizer, self.prior, self.name = model, tokenizer, prior, name
        self.seq_len = min(seq_len or model.config.context_length, model.config.context_length)
        self.vocab_size = tokenizer.vocab_size
        self.prefix = (tokenizer.end_of_text,)
        self.stops = tuple(stops)

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """Ids; texts of special tokens are text like any other."""
        return self.tokenizer.encode_ordinary(text).astype(np.int64)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """Bytes, exactly."""
        return self.tokenizer.decode_bytes(tokens)

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Source bytes of each token."""
        return self.tokenizer.n_bytes(tokens)

    @torch.inference_mode()
    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``; UsageError for a target without a context, which the network cannot predict."""
        if any(not len(context) for context in contexts):
            raise UsageError(f"{self.name} predicts no token from nothing: begin contexts with its prefix, {list(self.prefix)}")
        pairs = list(zip(contexts, targets, strict=True))
        store = TokenStore.in_memory([np.concatenate(pair) for pair in pairs], self.vocab_size)
        if not store.n_tokens:
            return []
        places = np.arange(store.n_tokens)
        first = store.document_starts[:-1] + [len(context) for context in contexts]
        wanted = places >= np.repeat(first, np.diff(store.document_starts))
        table = self.prior.features(store) if self.prior is not None else None
        out = np.zeros(store.n_tokens)
        for batch in evaluation_windows(store, self.seq_len, max(1, self.seq_len // 2), max(1, TOKENS_AT_ONCE // self.seq_len)):
            rows = np.minimum(batch.positions[:, None] + np.arange(1, self.seq_len + 1), store.n_tokens - 1)
            scored = (batch.targets >= 0) & wanted[rows]
            if not scored.any():
                continue
            data = to_tensors(batch._replace(targets=np.where(scored, batch.targets, -1)), self.model.embedding.weight.device, table)
            _, nats = self.model.loss(data.tokens, data.targets, data.documents, expert_log_p=data.expert_log_p, features=data.features)
            out[rows[scored]] = -nats[1].double().cpu().numpy()[scored]
        return [out[a:b] for a, b in zip(first.tolist(), store.document_starts[1:].tolist(), strict=True)]

    def start(self) -> DecoderCursor:
        """As in ``Predictor``."""
        return DecoderCursor(self.model, self.prior, self.vocab_size)

    def sample(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float = 1.0, seed: int = 0, stop: Sequence[str] = ()
    ) -> list[bytes]:
        """As in ``LanguageModel``; rows are written side by side and all go on until each has ended by itself or is full."""
        out: list[bytes] = []
        for start in range(0, len(prompts), ROWS_AT_ONCE):
            rows = [[*self.prefix, *self.encode(prompt).tolist()] for prompt in prompts[start : start + ROWS_AT_ONCE]]
            settings = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed + start}
            ends = (*self.prefix, *self.stops)
            texts = generate_batch(self.model, rows, stop_ids=ends, prior=self.prior, vocab_size=self.vocab_size, **settings)
            out += [cut(self.decode(np.array(text, np.int64)), stop) for text in texts]
        return out


class DecoderCursor:
    """A ``Cursor`` of a decoder: tokens are read when the next distribution is asked for."""

    def __init__(self, model: Decoder, prior: NgramPrior | None, vocab_size: int) -> None:
        self._reader = Reader(model, 1, prior, vocab_size)
        self._limit, self._vocab_size = model.config.context_length, vocab_size
        self._pending: list[int] = []
        self._p: np.ndarray | None = None

    def push(self, token: int) -> None:
        """The text goes on."""
        self._pending.append(token)
        self._p = None

    def probabilities(self) -> Float64[np.ndarray, " v"]:
        """softmax of the logits in float64."""
        if self._p is None:
            if not self._pending:
                raise UsageError("the network predicts no token from nothing: push the model's prefix first")
            for start in range(0, len(self._pending), self._limit):
                logits = self._reader.read(np.array([self._pending[start : start + self._limit]], np.int64))
            self._pending = []
            self._p = torch.softmax(logits[0].double(), dim=-1)[: self._vocab_size].cpu().numpy()
        return self._p
