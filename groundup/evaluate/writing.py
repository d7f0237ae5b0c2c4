"""What a model writes, at stages of its training; and for code, how much of that is Python."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from groundup.data import TokenStore
from groundup.infer.generate import CountsPrior, generate_batch
from groundup.model.decoder import Decoder
from groundup.tokenizer import Tokenizer

SAMPLE_TOKENS = 64
CODE_PROMPTS = ("import os\n\n\ndef ", "class ")


@runtime_checkable
class Bench(Protocol):
    """What writing needs of a trained run."""

    tokenizer: Tokenizer
    stores: dict[str, TokenStore]
    prior: CountsPrior | None
    model: Decoder


@runtime_checkable
class SampleLog(Protocol):
    """Where samples go."""

    def sample(self, **values: Any) -> None:
        """Keeps one record."""


def parsed_share(text: str) -> float:
    """The share of a text's lines in its longest beginning that parses as Python; the last line, cut off anywhere, is not counted."""
    lines = text.split("\n")[:-1]
    for n in range(len(lines), 0, -1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a sample's "\d" is its own affair
                ast.parse("\n".join(lines[:n]))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return n / len(lines)
    return 0.0


def looks_like_code(store: TokenStore) -> bool:
    """Whether most documents of a store are Python files."""
    names = store.document_ids[:200]
    return sum(name.endswith(".py") for name in names) * 2 > len(names)


def prompts(bench: Bench) -> list[str]:
    """Beginnings to continue: of code for code, else the first words of a held-out document, and always nothing at all."""
    if looks_like_code(bench.stores["train"]):
        return [*CODE_PROMPTS, ""]
    store = bench.stores["validation"]
    first, end = store.document_starts[:2].tolist()
    words = bench.tokenizer.decode(store.slice(first + 1, min(first + 25, end)))
    return [" ".join(words.split(" ")[:6]), ""]


def write(
    bench: Bench, beginnings: Sequence[str], *, max_tokens: int = SAMPLE_TOKENS, seed: int = 0, temperature: float = 0.8
) -> list[str]:
    """A continuation of each beginning, written side by side."""
    end = bench.tokenizer.end_of_text
    texts = generate_batch(
        bench.model,
        [[end, *bench.tokenizer.encode_ordinary(beginning).tolist()] for beginning in beginnings],
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        stop_ids=(end,),
        prior=bench.prior,
        vocab_size=bench.tokenizer.vocab_size,
    )
    return [bench.tokenizer.decode(text) for text in texts]


def tokens_written(bench: Bench, n_parse: int) -> int:
    """The most tokens that ``write_samples`` generates."""
    parse = 2 * n_parse if looks_like_code(bench.stores["train"]) else 0
    return SAMPLE_TOKENS * (len(prompts(bench)) + parse)


def write_samples(log: SampleLog, bench: Bench, step: int, seconds: float, *, n_parse: int) -> None:
    """Logs a continuation of each prompt, and for code the share that parses over ``n_parse`` longer ones (0: none)."""
    code, beginnings = looks_like_code(bench.stores["train"]), prompts(bench)
    for prompt, text in zip(beginnings, write(bench, beginnings), strict=True):
        log.sample(step=step, seconds=seconds, prompt=prompt, text=text, parses=parsed_share(prompt + text) == 1.0 if code else None)
    if code and n_parse:
        shares = [parsed_share(text) for text in write(bench, [""] * n_parse, max_tokens=2 * SAMPLE_TOKENS, seed=100)]
        log.sample(step=step, seconds=seconds, parse_rate=sum(shares) / n_parse, n=n_parse)
