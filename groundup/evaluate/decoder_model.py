"""Our decoder, with the counts of its prior or without, as evaluation sees it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from groundup.data import Document, TokenStore, evaluation_windows, write_shards
from groundup.errors import UsageError
from groundup.evaluate.bits import evaluate
from groundup.evaluate.protocol import FromPredictor, OfTokenizer, cut
from groundup.evaluate.ranks import ranks_of
from groundup.evaluate.text import Sizes, TextScore, groups, sizes_of
from groundup.infer.generate import Reader, generate_batch
from groundup.model.decoder import Decoder
from groundup.model.prior import NgramPrior
from groundup.tokenizer import Tokenizer
from groundup.train.feed import to_tensors
from groundup.train.step import TrainBatch

TOKENS_AT_ONCE = 1 << 13  # of a batch
ROWS_AT_ONCE = 64  # texts written side by side


class DecoderModel(OfTokenizer, FromPredictor):
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
        prefix: Sequence[int] | None = None,
        stops: Sequence[int] = (),
    ) -> None:
        """``seq_len``: most tokens that the network reads at once (default: all it can); ``prefix``: what opens a text (default:
        ``<|endoftext|>``); ``stops``: tokens that end one, beside these."""
        self.model, self.tokenizer, self.prior, self.name = model, tokenizer, prior, name
        self.seq_len = min(seq_len or model.config.context_length, model.config.context_length)
        self.vocab_size = tokenizer.vocab_size
        self.prefix = (tokenizer.end_of_text,) if prefix is None else tuple(prefix)
        self.stops = tuple(stops)

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``; UsageError for a target without a context, which the network cannot predict."""

        def nats(batch: TrainBatch, scored: Tensor) -> Tensor:
            extra = {"expert_log_p": batch.expert_log_p, "features": batch.features}
            return -self.model.loss(batch.tokens, batch.targets, batch.documents, **extra)[1][1][scored].double()

        return self._read(contexts, targets, nats, np.float64)

    def ranks(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Int64[np.ndarray, " _"]]:
        """As in ``Ranker``; with the counts token by token, since their table says nothing of the tokens that did not come."""
        if self.prior is not None:
            return super().ranks(contexts, targets)

        def ranks(batch: TrainBatch, scored: Tensor) -> Tensor:
            logits = self.model.logits(self.model.hidden(batch.tokens, batch.documents)[scored])[:, : self.vocab_size]
            return ranks_of(logits, batch.targets[scored][:, None])

        return self._read(contexts, targets, ranks, np.int64)

    @torch.inference_mode()
    def _read(
        self,
        contexts: Sequence[np.ndarray],
        targets: Sequence[np.ndarray],
        read: Callable[[TrainBatch, Tensor], Tensor],
        dtype: type,
    ) -> list[np.ndarray]:
        """What ``read`` makes of every target, in windows over all texts as if they were the documents of a store."""
        if any(not len(context) for context in contexts):
            raise UsageError(f"{self.name} predicts no token from nothing: begin contexts with its prefix, {list(self.prefix)}")
        store = TokenStore.in_memory([np.concatenate(pair) for pair in zip(contexts, targets, strict=True)], self.vocab_size)
        if not store.n_tokens:
            return []
        first = store.document_starts[:-1] + [len(context) for context in contexts]
        wanted = np.arange(store.n_tokens) >= np.repeat(first, np.diff(store.document_starts))
        table = self.prior.features(store) if self.prior is not None else None
        out = np.zeros(store.n_tokens, dtype)
        for batch in evaluation_windows(store, self.seq_len, max(1, self.seq_len // 2), max(1, TOKENS_AT_ONCE // self.seq_len)):
            places = np.minimum(batch.positions[:, None] + np.arange(1, self.seq_len + 1), store.n_tokens - 1)
            scored = (batch.targets >= 0) & wanted[places]
            if scored.any():
                only = batch._replace(targets=np.where(scored, batch.targets, -1))
                data = to_tensors(only, self.model.embedding.weight.device, table)
                out[places[scored]] = read(data, torch.from_numpy(scored).to(data.tokens.device)).cpu().numpy()
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


def score_parts(
    model: DecoderModel,
    documents: Iterable[Document],
    *,
    seq_len: int | None = None,
    stride: int | None = None,
    domains: Mapping[str, str] | None = None,
) -> tuple[TextScore, dict[str, float]]:
    """``score_documents`` by way of a token store on the disk and ``bits.evaluate``, for text of any size; and bits per byte by predictor.

    The predictors are "model" and, with a prior, "network" and "counts" alone. Errors as in ``score_documents``.
    """
    sizes: list[Sizes] = []
    seq_len = model.seq_len if seq_len is None else min(seq_len, model.seq_len)
    stride = max(1, seq_len // 2) if stride is None else stride

    def encoded() -> Iterator[tuple[Document, np.ndarray]]:
        for group in groups(documents):
            for document, ids in zip(group, model.tokenizer.encode_ordinary_batch([d.text for d in group]), strict=True):
                sizes.append(sizes_of(document, domains))
                yield document, np.concatenate((model.prefix, ids)).astype(np.uint32)

    with tempfile.TemporaryDirectory() as folder:
        write_shards(encoded(), Path(folder) / "tokens", vocab_size=model.vocab_size, tokenizer_hash=model.tokenizer.hash)
        store = TokenStore.open(Path(folder) / "tokens")
        table = model.prior.features(store) if model.prior is not None else None
        score = evaluate(
            model.model,
            store,
            seq_len=seq_len,
            stride=stride,
            table=table,
            counts_nats=table.counts_nats if table is not None else None,
            token_bytes=model.tokenizer.n_bytes(np.arange(model.vocab_size)),
        )
    n_tokens = np.diff(store.document_starts) - len(model.prefix)
    context = f"windows of {seq_len:,} tokens, stride {stride:,}"
    return TextScore(model.name, tuple(sizes), score.document_bits, n_tokens, context), score.bits_per_byte
