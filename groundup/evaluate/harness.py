"""Running tasks: a model's numbers for every item, kept as they come so that a killed run goes on, and what they add up to."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from groundup.errors import UsageError
from groundup.evaluate.core import centered
from groundup.evaluate.protocol import LanguageModel, likeliest
from groundup.evaluate.statistics import Mean, mean_of, paired, ratio_of
from groundup.evaluate.tasks import Choice, Item, LastWords, Normalization, Task, Writing

ITEMS_AT_ONCE = 128
WRITINGS_AT_ONCE = 32

Progress = Callable[[str, int, int], None]
"""Told a task's name, items done and items in all."""


@dataclass(frozen=True)
class Answer:
    """What a model made of one item."""

    right: dict[str, float]
    """1 or 0 by normalization (lengths as lm-evaluation-harness counts them); "exact" for words and writing."""
    bits: float
    """Bits of the right answer after its context."""
    n_bytes: int
    """Bytes of it."""
    given: str
    """What the model chose or wrote."""


@dataclass(frozen=True)
class TaskResult:
    """A task under a model."""

    model: str
    task: Task = field(repr=False)
    answers: tuple[Answer, ...] = field(repr=False)

    @cached_property
    def accuracy(self) -> dict[str, Mean]:
        """Mean and standard error, by normalization."""
        return {name: mean_of([a.right[name] for a in self.answers]) for name in self.answers[0].right}

    @property
    def main(self) -> str:
        """The normalization that the task reports."""
        return self.task.normalization if self.task.normalization in self.answers[0].right else next(iter(self.answers[0].right))

    @property
    def centered(self) -> float:
        """Accuracy above guessing, rescaled so that 1 is perfect."""
        return centered(self.accuracy[self.main].mean, self.task.baseline)

    @property
    def bits_per_byte(self) -> Mean:
        """Bits over bytes of the right answers."""
        return ratio_of([a.bits for a in self.answers], [a.n_bytes for a in self.answers])

    def by_group(self) -> dict[str, Mean]:
        """Accuracy of each group of items."""
        rows: dict[str, list[float]] = {}
        for group, answer in zip(self.task.groups, self.answers, strict=bool(self.task.groups)):
            rows.setdefault(group, []).append(answer.right[self.main])
        return {group: mean_of(values) for group, values in rows.items()}

    def samples(self, right: bool, n: int = 3) -> list[tuple[Item, Answer]]:
        """Some items that went right, or wrong, spread evenly over the task."""
        found = [i for i, a in enumerate(self.answers) if bool(a.right[self.main]) == right]
        return [(self.task.items[i], self.answers[i]) for i in found[:: max(1, len(found) // n)][:n]]


def compare(a: TaskResult, b: TaskResult) -> tuple[Mean, Mean]:
    """Accuracy and bits per byte of a minus those of b, paired by item: the items' difficulty, common to both, drops out of the error."""
    if a.task.items != b.task.items and [_key(i) for i in a.task.items] != [_key(i) for i in b.task.items]:
        raise UsageError(f"{a.task.name}: the two models were not asked the same items, so they cannot be paired")
    accuracy = paired([x.right[a.main] for x in a.answers], [x.right[b.main] for x in b.answers])
    return accuracy, ratio_of([x.bits - y.bits for x, y in zip(a.answers, b.answers, strict=True)], [x.n_bytes for x in a.answers])


def run_task(model: LanguageModel, task: Task, *, kept: Path | None = None, progress: Progress | None = None) -> TaskResult:
    """Asks a model every item. ``kept`` is a file of answers so far: what it holds is not asked again, what comes is added to it.

    UsageError if ``kept`` is of another model or other items.
    """
    head = {"model": model.name, "task": task.name, "items": _fingerprint(task)}
    answers = _read_kept(kept, head) if kept is not None else []
    if len(answers) > len(task.items):
        raise UsageError(f"{kept} holds {len(answers)} answers to {len(task.items)} items: delete it")
    size = WRITINGS_AT_ONCE if isinstance(task.items[0], Writing) else ITEMS_AT_ONCE
    while len(answers) < len(task.items):
        if progress:
            progress(task.name, len(answers), len(task.items))
        new = _ask(model, task, task.items[len(answers) : len(answers) + size])
        if kept is not None:
            with kept.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(vars(answer)) + "\n" for answer in new)
        answers += new
    if progress:
        progress(task.name, len(answers), len(task.items))
    return TaskResult(model.name, task, tuple(answers))


def _ask(model: LanguageModel, task: Task, items: Sequence[Item]) -> list[Answer]:
    parts: list[tuple[int, Callable[[list[np.ndarray]], Answer]]] = []
    requests: list[tuple[str, str]] = []
    for item in items:
        own = pairs_of(item)
        parts.append((len(own), _judge(item, task.normalization)))
        requests += own
    pairs = [split(model, context, words) for context, words in requests]
    log_p = iter(model.log_probs([c for c, _ in pairs], [t for _, t in pairs]))
    answers = [judge([next(log_p) for _ in range(n)]) for n, judge in parts]
    words = [i for i, item in enumerate(items) if isinstance(item, LastWords)]
    if words:
        own = [split(model, items[i].context, items[i].words) for i in words]
        for i, right in zip(words, likeliest(model, [c for c, _ in own], [t for _, t in own]).tolist(), strict=True):
            answers[i].right["exact"] = float(right)
    writings = [i for i, item in enumerate(items) if isinstance(item, Writing)]
    for i, text in zip(writings, _written(model, [items[i] for i in writings]), strict=True):
        right = {"exact": float(items[i].check(text))}
        answers[i] = Answer(right, answers[i].bits, answers[i].n_bytes, text)
    return answers


def split(model: LanguageModel, context: str, words: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the context, the prefix first, and of the words: the whole is encoded together and cut after as many tokens as the context
    alone has (as lm-evaluation-harness does). A context that is too long loses its beginning."""
    whole, n = model.encode(context + words), len(model.encode(context)) if context else 0
    n = min(n, len(whole) - 1)  # where the last token of the context swallows the words, at least it is scored
    tokens, n = np.concatenate((np.array(model.prefix, np.int64), whole)), n + len(model.prefix)
    if model.context_length is not None and (excess := len(tokens) - 1 - model.context_length) > 0:
        if len(tokens) - n > model.context_length:
            raise UsageError(f"{model.name} reads {model.context_length} tokens at once, and an answer has {len(tokens) - n}")
        tokens, n = tokens[excess:], n - excess
    return tokens[:n], tokens[n:]


def pairs_of(item: Item) -> list[tuple[str, str]]:
    """The (context, words) pairs whose log-probabilities an item needs."""
    if isinstance(item, Choice):
        pairs = list(zip(item.contexts, item.continuations, strict=True))
        return pairs + ([(item.unconditional, words) for words in item.continuations] if item.unconditional else [])
    return [(item.asked, item.right)]


def _judge(item: Item, by: Normalization) -> Callable[[list[np.ndarray]], Answer]:
    """From an item's log-probabilities to its answer; of the options that is given which is chosen by this normalization."""

    def choice(log_p: list[np.ndarray]) -> Answer:
        nats = np.array([part.sum() for part in log_p])
        n = len(item.continuations)
        bare = [words.lstrip(" ") or words or " " for words in item.continuations]  # an answer's length leaves out the space before it
        scores = {
            "raw": nats[:n],
            "characters": nats[:n] / [len(words) for words in bare],
            "bytes": nats[:n] / [len(words.encode()) for words in bare],
            "tokens": nats[:n] / [len(part) for part in log_p[:n]],
        }
        if item.unconditional:  # how much likelier the context makes the answer (Brown et al. 2020, section 2.4)
            scores["unconditional"] = nats[:n] - nats[n:]
        right = {name: float(values.argmax() == item.gold) for name, values in scores.items()}
        chosen = int(scores.get(by, scores["raw"]).argmax())
        return _answer(right, nats[item.gold], item.continuations[item.gold], item.contexts[chosen][-80:] + item.continuations[chosen])

    def words(log_p: list[np.ndarray]) -> Answer:
        return _answer({"exact": 0.0}, log_p[0].sum(), item.right, "")

    return choice if isinstance(item, Choice) else words


def _answer(right: dict[str, float], nats: float, text: str, given: str) -> Answer:
    return Answer(right, float(-nats / math.log(2)), len(text.encode()), given)


def _written(model: LanguageModel, items: Sequence[Writing]) -> Iterator[str]:
    """What the model writes greedily after each prompt, prompts of one task side by side."""
    if not items:
        return
    texts = model.sample([i.prompt for i in items], max_tokens=items[0].max_tokens, temperature=0.0, stop=items[0].stop)
    yield from (text.decode("utf-8", "replace") for text in texts)


def _key(item: Item) -> tuple:
    """All of an item that can be compared: not the function that checks it."""
    return tuple(value for value in vars(item).values() if not callable(value))


def _fingerprint(task: Task) -> str:
    return hashlib.blake2b(repr([_key(item) for item in task.items]).encode(), digest_size=16).hexdigest()


def _read_kept(path: Path, head: dict[str, Any]) -> list[Answer]:
    """The answers of a file, which is made if it is not there; a last line that was cut off is dropped."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        path.write_text("".join(line + "\n" for line in lines[:-1]), encoding="utf-8")
    try:
        found, *rows = (json.loads(line) for line in lines[:-1])
        answers = [Answer(**row) for row in rows]
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} holds no answers of a task ({error}): name another --out") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no answers of a task: name another --out")
    if found != head:
        other = ", ".join(f"{name} {found.get(name)!r}" for name in head if found.get(name) != head[name])
        raise UsageError(f"{path} is of {other}: name another --out, or delete it")
    return answers
