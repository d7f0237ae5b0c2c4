"""Bits per byte of documents under any language model, by document and by domain, and the units that the literature reports instead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from groundup.data import Document
from groundup.errors import GroundupError, UsageError
from groundup.evaluate.protocol import LanguageModel
from groundup.evaluate.statistics import bootstrap

DOCUMENTS_AT_ONCE = 256


class Sizes(NamedTuple):
    """What a document measures, however a model cuts it."""

    id: str
    domain: str
    n_bytes: int
    n_characters: int
    """Unicode code points; a byte that is no UTF-8 counts as one."""
    n_words: int
    """Runs between white space."""
    n_lines: int
    """Ends of lines, which the WikiText and PTB files score as a word of their own (``<eos>``)."""


def sizes_of(document: Document, domains: Mapping[str, str] | None = None) -> Sizes:
    """Measures a document; its domain is given by id, or the file that it came from."""
    text = document.text.decode("utf-8", "surrogateescape")
    domain = document.id.rpartition("#")[0] or document.id if domains is None else domains.get(document.id, "")
    return Sizes(document.id, domain, len(document.text), len(text), len(text.split()), text.count("\n"))


@dataclass(frozen=True)
class TextScore:
    """Bits that a model needs for each of some documents."""

    model: str
    """Its name."""
    documents: tuple[Sizes, ...]
    """What was scored: every byte of each."""
    bits: Float64[np.ndarray, " d"]
    """Bits of each document."""
    n_tokens: Int64[np.ndarray, " d"]
    """Tokens of each document, the prefix not counted."""
    context: str
    """How much the model saw before each token, in words."""

    @cached_property
    def n_bytes(self) -> int:
        """All bytes."""
        return sum(d.n_bytes for d in self.documents)

    @property
    def bits_per_byte(self) -> float:
        """Sum of bits over sum of bytes, never a mean of ratios."""
        return float(self.bits.sum()) / self.n_bytes

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval over documents; None with fewer than three."""
        return bootstrap(self.bits, np.array([d.n_bytes for d in self.documents]))

    def by_domain(self) -> dict[str, TextScore]:
        """The same, for each domain alone, in the order of their first documents."""
        rows: dict[str, list[int]] = {}
        for i, document in enumerate(self.documents):
            rows.setdefault(document.domain, []).append(i)
        return {
            name: TextScore(self.model, tuple(self.documents[i] for i in at), self.bits[at], self.n_tokens[at], self.context)
            for name, at in rows.items()
        }

    def units(self) -> dict[str, float]:
        """The same bits in the units of the literature: exp(nats / n) is a perplexity, bits / n a rate.

        ``token perplexity``: over the model's own tokens; compares models of one tokenizer only. ``word perplexity``: over runs between
        white space; ``word perplexity with <eos>``: every end of line is one more word, as in published WikiText (Merity et al. 2017) and
        PTB numbers, on files that hold one sentence or paragraph a line. Both charge for spaces and line ends too, as any sum over all
        bytes does. ``bits per character``: over Unicode code points: text8's and character PTB's unit; enwik8's "bits per character"
        is bits per byte.
        """
        bits = float(self.bits.sum())
        words, lines, characters = (sum(getattr(d, name) for d in self.documents) for name in ("n_words", "n_lines", "n_characters"))
        return {
            "token perplexity": _perplexity(bits, int(self.n_tokens.sum())),
            "word perplexity": _perplexity(bits, words),
            "word perplexity with <eos>": _perplexity(bits, words + lines),
            "bits per character": bits / max(1, characters),
            "bits per byte": self.bits_per_byte,
        }


def _perplexity(bits: float, n: int) -> float:
    exponent = bits / max(1, n)
    return math.inf if exponent > 1000 else 2.0**exponent


def score_documents(
    model: LanguageModel,
    documents: Iterable[Document],
    *,
    seq_len: int | None = None,
    stride: int | None = None,
    domains: Mapping[str, str] | None = None,
) -> TextScore:
    """Scores every byte of every document, each after the model's prefix.

    A document that is longer than ``seq_len`` tokens (default: what the model reads at once) is scored in windows: each goes on where
    the one before ended and sees at least seq_len - stride tokens before its first target, or all there are (stride defaults to half of
    seq_len). Cost: about seq_len / stride times the tokens. GroundupError where the bytes of the tokens are not the bytes read, or where
    the model gives a token no finite log-probability.
    """
    longest = model.context_length
    if seq_len is not None and longest is not None and seq_len > longest:
        raise UsageError(f"--seq-len {seq_len:,}: {model.name} reads {longest:,} tokens at once; give no more")
    seq_len = longest if seq_len is None else seq_len
    if seq_len is not None and not 1 <= (stride := max(1, seq_len // 2) if stride is None else stride) <= seq_len:
        raise UsageError(f"stride {stride} must be from 1 to seq_len {seq_len}")
    sizes: list[Sizes] = []
    bits: list[float] = []
    n_tokens: list[int] = []
    for group in groups(documents):
        tokens = [_encoded(model, document) for document in group]
        nats = _nats(model, tokens, seq_len, stride)
        for document, ids, total in zip(group, tokens, nats, strict=True):
            if not math.isfinite(total) or total < 0:
                raise GroundupError(f"{model.name} gave document {document.id} {total} nats: it holds some of its tokens impossible")
            sizes.append(sizes_of(document, domains))
            bits.append(total / math.log(2))
            n_tokens.append(len(ids))
    if not sizes:
        raise UsageError("there is no text to score: name files that hold some")
    context = "all of the document so far" if seq_len is None else f"windows of {seq_len:,} tokens, stride {stride:,}"
    return TextScore(model.name, tuple(sizes), np.array(bits), np.array(n_tokens, np.int64), context)


def windows(n: int, n_given: int, seq_len: int | None, stride: int | None) -> Iterator[tuple[int, int, int]]:
    """(start, first target, end) of windows over tokens 0 .. n - 1 that make each of n_given .. n - 1 a target once.

    The model reads start .. end - 2 and is scored on first target .. end - 1, so that it reads at most seq_len tokens at once.
    """
    if seq_len is None or stride is None:
        yield 0, n_given, n
        return
    target = n_given
    while target < n:
        start = max(0, target - 1 - (seq_len - stride))
        end = min(n, start + seq_len + 1)
        yield start, target, end
        target = end


def _nats(model: LanguageModel, tokens: Sequence[np.ndarray], seq_len: int | None, stride: int | None) -> Float64[np.ndarray, " d"]:
    prefix, totals = np.array(model.prefix, np.int64), np.zeros(len(tokens))
    contexts, targets, owners = [], [], []
    for i, ids in enumerate(tokens):
        whole = np.concatenate((prefix, ids))
        for start, target, end in windows(len(whole), len(prefix), seq_len, stride):
            contexts.append(whole[start:target])
            targets.append(whole[target:end])
            owners.append(i)
    for i, log_p in zip(owners, model.log_probs(contexts, targets), strict=True):
        totals[i] -= float(log_p.sum())
    return totals


def _encoded(model: LanguageModel, document: Document) -> Int64[np.ndarray, " n"]:
    tokens = model.encode(document.text)
    counted = int(model.n_bytes(tokens).sum())
    if counted != len(document.text):
        raise GroundupError(f"{model.name} counted {counted} bytes in document {document.id}, which has {len(document.text)}")
    return tokens


def groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents, as many at a time as are encoded together."""
    group: list[Document] = []
    for document in documents:
        group.append(document)
        if len(group) == DOCUMENTS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
