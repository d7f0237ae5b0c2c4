"""What evaluation asks of a model: the log-probability of given tokens after a context, and a sampler. Nothing here needs torch.

A text is scored as ``prefix + encode(text)``: the caller places the prefix, so a context says all that the model conditions on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import Tokenizer

SUM_TOLERANCE = 1e-4
"""How far from one the sum of a distribution may be: float32 softmax over 10^5 tokens stays well inside."""


@runtime_checkable
class LanguageModel(Protocol):
    """A bigram and a served chat model alike."""

    name: str
    """What tables call it."""
    vocab_size: int
    """V: tokens are 0 .. V - 1."""
    prefix: tuple[int, ...]
    """Tokens that open every document and are never scored: ``<|endoftext|>``, a start symbol, or none."""
    context_length: int | None
    """Most tokens that ``log_probs`` reads at once (a context and all of its targets but the last); None: any number."""

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """The tokens of a text, without the prefix; of a byte model, its bytes."""
        ...

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """The bytes of tokens."""
        ...

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Source bytes that each token stands for; they sum to the length of the text."""
        ...

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """Nats (<= 0) of each target token given its context and the targets before it, for many pairs at once, in any batches.

        UsageError where the model cannot say, as an endpoint that gives no log-probabilities.
        """
        ...

    def sample(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float = 1.0, seed: int = 0, stop: Sequence[str] = ()
    ) -> list[bytes]:
        """A continuation of each prompt, ended before the first of ``stop`` or by the model; temperature 0 takes the likeliest token.

        Row i draws from seed + i.
        """
        ...


@runtime_checkable
class Ranker(Protocol):
    """A model that can say how many tokens it would have guessed before the one that came."""

    def ranks(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Int64[np.ndarray, " _"]]:
        """The number of tokens that a guesser would try before each target: those of higher probability, and of equal ones the smaller.

        So 0 is for what greedy writing gives, and for nothing else. As ``log_probs``.
        """
        ...


@runtime_checkable
class Cursor(Protocol):
    """A place in one text."""

    def probabilities(self) -> Float64[np.ndarray, " v"]:
        """p(next token | all pushed so far), float64 [V], summing to one. The caller does not change it."""
        ...

    def push(self, token: int) -> None:
        """The text goes on with this token."""
        ...


@runtime_checkable
class Predictor(Protocol):
    """A model that can say its whole distribution, token by token: what coding, ranks and plain sampling need."""

    def start(self) -> Cursor:
        """A cursor before the first token of a text; push the prefix first."""
        ...


def checked(p: np.ndarray, name: str) -> Float64[np.ndarray, " v"]:
    """The distribution; GroundupError naming the model if it is negative somewhere, not finite, or does not sum to one."""
    total = float(p.sum(dtype=np.float64))
    if not abs(total - 1) <= SUM_TOLERANCE or p.min() < 0:
        raise GroundupError(
            f"{name}: its probabilities of the next token sum to {total:.6g} (least {p.min():.3g}), not to one: "
            "no score or code can rest on them"
        )
    return p.astype(np.float64, copy=False)


class OfTokenizer:
    """Mixin: ``encode``, ``decode`` and ``n_bytes`` of what has one of ``groundup.tokenizer``."""

    tokenizer: Tokenizer

    def encode(self, text: str | bytes) -> Int64[np.ndarray, " n"]:
        """Ids; texts of special tokens are text like any other."""
        return self.tokenizer.encode_ordinary(text).astype(np.int64)

    def decode(self, tokens: Int64[np.ndarray, " n"]) -> bytes:
        """Bytes, exactly."""
        return self.tokenizer.decode_bytes(tokens)

    def n_bytes(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Source bytes of each token."""
        return self.tokenizer.n_bytes(tokens)


class FromPredictor:
    """Mixin: ``log_probs``, ``ranks`` and ``sample`` of a model that has ``start``; override what can be had faster.

    ``name``, ``vocab_size``, ``prefix``, ``encode`` and ``decode`` are the model's own.
    """

    name: str
    prefix: tuple[int, ...]
    context_length: int | None = None
    start: Callable[[], Cursor]
    encode: Callable[[str | bytes], Int64[np.ndarray, " n"]]
    decode: Callable[[Int64[np.ndarray, " n"]], bytes]

    def log_probs(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Float64[np.ndarray, " _"]]:
        """As in ``LanguageModel``, one token after another."""
        with np.errstate(divide="ignore"):  # what the model holds impossible has -inf nats
            return [np.log(self._walk(c, t, lambda p, token: p[token])) for c, t in zip(contexts, targets, strict=True)]

    def ranks(
        self, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
    ) -> list[Int64[np.ndarray, " _"]]:
        """As in ``Ranker``."""
        pairs = zip(contexts, targets, strict=True)
        return [self._walk(c, t, lambda p, token: (p > p[token]).sum() + (p[:token] == p[token]).sum()).astype(np.int64) for c, t in pairs]

    def sample(
        self, prompts: Sequence[str], *, max_tokens: int, temperature: float = 1.0, seed: int = 0, stop: Sequence[str] = ()
    ) -> list[bytes]:
        """As in ``LanguageModel``; the model ends a text only where it draws a token of its prefix."""
        return [self._continue(p, max_tokens, temperature, np.random.default_rng(seed + i), stop) for i, p in enumerate(prompts)]

    def _walk(self, context: np.ndarray, targets: np.ndarray, read: Callable[[np.ndarray, int], float]) -> Float64[np.ndarray, " n"]:
        cursor, out = self.start(), np.empty(len(targets))
        for token in context.tolist():
            cursor.push(token)
        for i, token in enumerate(targets.tolist()):
            out[i] = read(checked(cursor.probabilities(), self.name), token)
            cursor.push(token)
        return out

    def _continue(self, prompt: str, max_tokens: int, temperature: float, rng: np.random.Generator, stop: Sequence[str]) -> bytes:
        cursor, tokens, text = self.start(), [], b""
        for token in [*self.prefix, *self.encode(prompt).tolist()]:
            cursor.push(token)
        for _ in range(max_tokens):
            token = draw(checked(cursor.probabilities(), self.name), temperature, rng)
            if token in self.prefix:
                break
            tokens.append(token)
            text = self.decode(np.array(tokens, np.int64))
            if any(s.encode() in text for s in stop):
                break
            cursor.push(token)
        return cut(text, stop)


def draw(p: Float64[np.ndarray, " v"], temperature: float, rng: np.random.Generator) -> int:
    """A token from p^(1 / temperature), normalized; the likeliest at temperature 0."""
    if temperature < 1e-5:
        return int(p.argmax())
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    cumulative = np.cumsum(np.exp((log_p - log_p.max()) / temperature))
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def cut(text: bytes, stop: Sequence[str]) -> bytes:
    """The text before the first of the stop strings in it."""
    places = [place for s in stop if (place := text.find(s.encode())) >= 0]
    return text[: min(places)] if places else text


def likeliest(
    model: LanguageModel, contexts: Sequence[Int64[np.ndarray, " _"]], targets: Sequence[Int64[np.ndarray, " _"]]
) -> Bool[np.ndarray, " n"]:
    """Whether each whole target is what the model writes greedily after its context; UsageError where it cannot say."""
    if not isinstance(model, Ranker):
        raise UsageError(f"{model.name} gives no ranks, so whether it would have written the right words is unknown: choose other tasks")
    return np.array([not ranks.any() for ranks in model.ranks(contexts, targets)], bool)
