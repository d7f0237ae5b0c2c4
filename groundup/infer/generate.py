"""Generation: prompts in, tokens out one by one, from the network alone or mixed with the counts of its prior."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from groundup.config import ModelConfig
from groundup.errors import UsageError
from groundup.infer.cache import KVCache
from groundup.infer.sampler import check_settings, draw, probabilities
from groundup.model.decoder import Decoder


@runtime_checkable
class Cursor(Protocol):
    """A place in a text, as the counts see it."""

    def push(self, token: int) -> None:
        """Moves past one more token."""

    def distribution(self) -> tuple[Float[np.ndarray, "k v"], Float[np.ndarray, " c"]]:
        """Each expert's probabilities of the next token, and the features of the context that the gate weighs them by."""


@runtime_checkable
class CountsPrior(Protocol):
    """What generation needs of a model's prior."""

    def start(self) -> Cursor:
        """A cursor before the first token of a text."""


def generate(
    model: Decoder,
    prompt_ids: Sequence[int] | np.ndarray,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_ids: Collection[int] = (),
    prior: CountsPrior | None = None,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yields up to ``max_tokens`` tokens that follow the prompt, each as soon as it is drawn, and ends before the first of ``stop_ids``.

    The network sees at most ``context_length`` tokens: whenever one more would not fit it starts over from the last
    ``context_length // 2`` (at least one), so a long text costs one such reading every half context. A prompt that does not fit is cut
    to the same length for the network; the prior's cursor always sees all of the text.

    Args:
        prompt_ids: at least one token; every document starts with <|endoftext|>, so a text from nothing has that as its prompt.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draws from the k likeliest tokens only.
        top_p: draws from the smallest set of likeliest tokens that holds this probability.
        seed: the same seed gives the same tokens on the same machine; None is fresh each time.
        prior: the counts, mixed in by the model's gate (see ``mixture``); without it the network speaks alone.
        vocab_size: the tokenizer's, where the model has more rows than that: tokens beyond are never drawn.

    Raises UsageError, before the first token, for a prompt or setting that makes no sense; GroundupError for logits that are not finite.
    """
    settings = _settings(max_tokens, temperature, top_k, top_p)
    steps = _steps(Reader(model, 1, prior, vocab_size), [_checked(prompt_ids, model.config)], [_generator(seed)], settings)
    return itertools.takewhile(lambda token: token not in stop_ids, (row[0] for row in itertools.islice(steps, max_tokens)))


def generate_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int] | np.ndarray],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_ids: Collection[int] = (),
    prior: CountsPrior | None = None,
    vocab_size: int | None = None,
) -> list[list[int]]:
    """What ``generate`` gives for each prompt, row i with seed + i, up to rounding; worked out together, one pass a step for all rows.

    The rows move in step from the length of the shortest prompt on: longer ones are fed their own tokens until they end, so that no row
    is padded. All rows go on until each has stopped. Arguments and errors as in ``generate``.
    """
    settings = _settings(max_tokens, temperature, top_k, top_p)
    reader = Reader(model, len(prompts), prior, vocab_size)
    generators = [_generator(seed + i) for i in range(len(prompts))]
    steps = _steps(reader, [_checked(prompt, model.config) for prompt in prompts], generators, settings)
    texts: list[list[int]] = [[] for _ in prompts]
    stopped = [max_tokens == 0] * len(prompts)
    while not all(stopped):
        for row, token in enumerate(next(steps)):
            if token is not None and not stopped[row]:
                if token not in stop_ids:
                    texts[row].append(token)
                stopped[row] = token in stop_ids or len(texts[row]) == max_tokens
    return texts


def mixture(gate_logits: Float[Tensor, "b k1"], logits: Float[Tensor, "b v"], expert_p: Float[Tensor, "b k v"]) -> Float[Tensor, "b v"]:
    """log(g_0 softmax(logits) + sum_k g_k p_k) with g = softmax(gate_logits): what the loss scores, for every token at once."""
    gates = torch.softmax(gate_logits.float(), dim=-1)
    return (gates[:, :1] * torch.softmax(logits, dim=-1) + einsum(gates[:, 1:], expert_p, "b k, b k v -> b v")).log()


class Reader:
    """Rows of equally long text as the model reads them: the network's cache and the counts' cursors stand at their ends."""

    def __init__(self, model: Decoder, batch_size: int, prior: CountsPrior | None = None, vocab_size: int | None = None) -> None:
        """Rows without text yet; arguments as in ``generate``."""
        if prior is not None and model.gate is None:
            raise UsageError("this model has no gate to mix a prior in by: generate without the prior")
        if vocab_size is not None and not 1 <= vocab_size <= model.config.vocab_size:
            raise UsageError(f"vocab_size is {vocab_size}: the model knows {model.config.vocab_size} tokens, a tokenizer can have no more")
        self.model, self.vocab_size = model, vocab_size
        self.device = model.embedding.weight.device
        self.cursors = [prior.start() for _ in range(batch_size)] if prior is not None else []
        self.cache = KVCache(model.config, batch_size, model.compute_dtype, self.device)
        self.text = np.empty((batch_size, 0), dtype=np.int64)

    def skip(self, row: int, tokens: Sequence[int]) -> None:
        """Takes tokens of a row that only the counts shall see."""
        for cursor in self.cursors[row : row + 1]:
            for token in tokens:
                cursor.push(token)

    @torch.inference_mode()
    def read(self, tokens: Int[np.ndarray, "b t"]) -> Float[Tensor, "b v"]:
        """Takes the next tokens of every row, at most context_length of them, and gives logits of the one after, the counts mixed in."""
        limit, new = self.model.config.context_length, tokens.shape[1]
        self.text = np.concatenate((self.text, tokens), axis=1)[:, -limit:]
        if self.cache.length + new > limit:
            self.cache.clear()
            new = _half(self.model.config)
        ids = torch.from_numpy(self.text[:, -new:]).to(self.device)
        hidden = self.model.hidden(ids, cache=self.cache)[:, -1]
        self.cache.advance(ids)
        logits = self.model.logits(hidden)
        if self.cursors:
            logits = self._mixed(hidden, logits, tokens)
        if self.vocab_size is not None:
            logits[:, self.vocab_size :] = -torch.inf
        return logits

    def _mixed(self, hidden: Float[Tensor, "b d"], logits: Float[Tensor, "b v"], tokens: Int[np.ndarray, "b t"]) -> Float[Tensor, "b v"]:
        for row, new in enumerate(tokens.tolist()):
            self.skip(row, new)
        expert_p, features = zip(*(cursor.distribution() for cursor in self.cursors), strict=True)
        gate_logits = self.model.gate(hidden, torch.from_numpy(np.stack(features)).to(self.device))
        return mixture(gate_logits, logits, torch.from_numpy(np.stack(expert_p)).to(self.device))


def _steps(
    reader: Reader, prompts: Sequence[list[int]], generators: Sequence[torch.Generator], settings: dict[str, Any]
) -> Iterator[list[int | None]]:
    """The next token of every row, step after step without end; None for a row that is still inside its prompt."""
    limit, half = reader.model.config.context_length, _half(reader.model.config)
    # before the first pass, so that a row reads the same in a batch as alone
    cuts = [len(prompt) - half if len(prompt) > limit else 0 for prompt in prompts]
    for row, cut in enumerate(cuts):
        reader.skip(row, prompts[row][:cut])
    prompts = [prompt[cut:] for prompt, cut in zip(prompts, cuts, strict=True)]
    common = min(map(len, prompts))
    waiting = [iter(prompt[common:]) for prompt in prompts]
    tokens = [prompt[:common] for prompt in prompts]
    while True:
        p = probabilities(reader.read(np.array(tokens)), **settings)
        given = [next(prompt, None) for prompt in waiting]
        drawn = [None] * len(prompts)
        if free := [row for row, token in enumerate(given) if token is None]:
            uniform = torch.cat([torch.rand(1, generator=generators[row], dtype=torch.float64) for row in free])
            for row, token in zip(free, draw(p[free], uniform.to(p.device)).tolist(), strict=True):
                drawn[row] = token
        yield drawn
        tokens = [[new if new is not None else old] for new, old in zip(drawn, given, strict=True)]


def _half(config: ModelConfig) -> int:
    return max(1, config.context_length // 2)


def _settings(max_tokens: int, temperature: float, top_k: int | None, top_p: float | None) -> dict[str, Any]:
    if max_tokens < 0:
        raise UsageError(f"max_tokens is {max_tokens}: give 0 or more")
    check_settings(temperature, top_k, top_p)
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p}


def _checked(prompt: Sequence[int] | np.ndarray, config: ModelConfig) -> list[int]:
    """The prompt as a list; UsageError unless it has tokens and the model knows them all."""
    ids = [int(token) for token in prompt]
    if not ids:
        raise UsageError("the prompt has no tokens: start a text from nothing with <|endoftext|>")
    if min(ids) < 0 or max(ids) >= config.vocab_size:
        raise UsageError(
            f"the prompt holds ids {min(ids)} to {max(ids)}, the model's are 0 to {config.vocab_size - 1}: use its own tokenizer"
        )
    return ids


def _generator(seed: int | None) -> torch.Generator:
    if seed is not None and not 0 <= seed < 1 << 63:
        raise UsageError(f"seed {seed}: give a whole number from 0 on, below 2^63")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
