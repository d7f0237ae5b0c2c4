"""Tasks: each a function from a folder of local files to items; and how a model's numbers for an item become right or wrong.

Three kinds of item. ``Choice``: which of several (context, continuation) pairs the model holds likeliest: cloze and lettered multiple
choice, schemas (one continuation, several contexts), minimal pairs. ``LastWords``: whether the model would write these words. ``Writing``:
what it writes is cut, read and checked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from groundup.errors import UsageError
from groundup.evaluate.records import Record, find_file, read_records
from groundup.evaluate.sandbox import run_python

Normalization = Literal["raw", "characters", "bytes", "tokens", "unconditional"]
SHOTS_SEED = 1234
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Form = Literal["cloze", "letters"]


@dataclass(frozen=True)
class Choice:
    """Options to weigh against each other; the gold one is right."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int
    unconditional: str = ""
    """What stands before a continuation where it is weighed without its context, such as "Answer:"."""

    @property
    def asked(self) -> str:
        """What a person would read first."""
        return self.contexts[self.gold]

    @property
    def right(self) -> str:
        """The right answer."""
        return self.continuations[self.gold]


@dataclass(frozen=True)
class LastWords:
    """Words that the model should write by itself after the context."""

    context: str
    words: str

    @property
    def asked(self) -> str:
        """What a person would read first."""
        return self.context

    @property
    def right(self) -> str:
        """The right answer."""
        return self.words


@dataclass(frozen=True)
class Writing:
    """A prompt whose continuation is checked by a function; ``reference`` is a right continuation, scored in bits per byte."""

    prompt: str
    check: Callable[[str], bool]
    reference: str
    stop: tuple[str, ...] = ()
    max_tokens: int = 256

    @property
    def asked(self) -> str:
        """What a person would read first."""
        return self.prompt

    @property
    def right(self) -> str:
        """The right answer."""
        return self.reference


Item = Choice | LastWords | Writing


@dataclass(frozen=True)
class Task:
    """Items that are reported as one number."""

    name: str
    items: tuple[Item, ...]
    baseline: float = 0.0
    """Accuracy of guessing: centered accuracy is (accuracy - baseline) / (1 - baseline)."""
    normalization: Normalization = "raw"
    """Which of the accuracies of a choice is the task's own."""
    groups: tuple[str, ...] = field(default=(), repr=False)
    """A name for each item, such as its paradigm; () for none."""

    def __post_init__(self) -> None:
        if not self.items:
            raise UsageError(f"{self.name}: there is no item to ask; give more --items, or a file that holds some of this task's")


def spread(task: Task, n: int) -> Task:
    """The task with at most n of its items, evenly spread, so that groups keep their shares."""
    kept = [i * len(task.items) // n for i in range(n)] if n < len(task.items) else range(len(task.items))
    groups = tuple(task.groups[i] for i in kept) if task.groups else ()
    return replace(task, items=tuple(task.items[i] for i in kept), groups=groups)


def cloze(query: str, choices: Sequence[str], gold: int, *, delimiter: str = " ", shots: str = "", unconditional: str = "") -> Choice:
    """The model completes the question with each answer's own words."""
    context, space = _joint(shots + query, delimiter)
    return Choice((context,) * len(choices), tuple(space + choice for choice in choices), gold, unconditional)


def _joint(context: str, delimiter: str) -> tuple[str, str]:
    """The context with the delimiter but its last spaces, and these: a space belongs to the word after it, as tokens have it."""
    head = delimiter.rstrip(" ")
    return context + head, delimiter[len(head) :]


def lettered(question: str, choices: Sequence[str], gold: int, *, shots: str = "") -> Choice:
    """The answers are listed by letter, and the model names one (Hendrycks et al. 2021)."""
    return Choice((shots + letters_prompt(question, choices),) * len(choices), tuple(f" {LETTERS[i]}" for i in range(len(choices))), gold)


def letters_prompt(question: str, choices: Sequence[str]) -> str:
    """A question with its answers listed by letter."""
    listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question}{listed}\nAnswer:"


def few_shots(records: Sequence[Record], at: int, n: int, render: Callable[[Record], str]) -> str:
    """n solved examples other than the item itself, two line ends after each; drawn anew for each item, from its place."""
    if not n:
        return ""
    if len(records) <= n:
        raise UsageError(f"{records[0].where}: {n} examples beside each item were asked for and the file has {len(records)}: ask for fewer")
    drawn = random.Random(SHOTS_SEED + at).sample(range(len(records) - 1), n)
    return "".join(render(records[i + (i >= at)]) + "\n\n" for i in drawn)


def choices(
    name: str,
    path: Path,
    *,
    n_shots: int = 0,
    delimiter: str = " ",
    baseline: float | None = None,
    form: Form = "cloze",
    normalization: Normalization = "raw",
) -> Task:
    """Multiple choice from records with ``query``, ``choices``, ``gold``."""
    records = _read(path)

    def solved(r: Record) -> str:
        options = r.texts("choices")
        gold = r.index("gold", len(options))
        query = r.get("query", str)
        return letters_prompt(query, options) + f" {LETTERS[gold]}" if form == "letters" else query + delimiter + options[gold]

    items = []
    for at, r in enumerate(records):
        options, shots = r.texts("choices"), few_shots(records, at, n_shots, solved)
        gold, query = r.index("gold", len(options)), r.get("query", str)
        if form == "letters":
            items.append(lettered(query, options, gold, shots=shots))
        else:
            items.append(cloze(query, options, gold, delimiter=delimiter, shots=shots, unconditional="Answer:"))
    guess = sum(1 / len(item.continuations) for item in items) / len(items)
    return Task(name, tuple(items), guess if baseline is None else baseline, normalization)


def schema(
    name: str, path: Path, *, n_shots: int = 0, delimiter: str = " ", baseline: float = 0.5, normalization: Normalization = "raw"
) -> Task:
    """Two beginnings and one ending (Levesque et al. 2012), from ``context_options``, ``continuation``, ``gold``."""
    records = _read(path)

    def solved(r: Record) -> str:
        options = r.texts("context_options")
        return options[r.index("gold", len(options))] + delimiter + r.get("continuation", str)

    items = []
    for at, r in enumerate(records):
        options, shots = r.texts("context_options"), few_shots(records, at, n_shots, solved)
        contexts, spaces = zip(*(_joint(shots + option, delimiter) for option in options), strict=True)
        items.append(Choice(contexts, tuple(space + r.get("continuation", str) for space in spaces), r.index("gold", len(options))))
    return Task(name, tuple(items), baseline, normalization)


def last_words(name: str, path: Path, *, n_shots: int = 0, delimiter: str = " ") -> Task:
    """LAMBADA (Paperno et al. 2016) and other exact continuations, from ``context`` and ``continuation``."""
    records = _read(path)

    def solved(r: Record) -> str:
        return r.get("context", str).rstrip() + delimiter + r.get("continuation", str).strip()

    items = []
    for at, r in enumerate(records):
        context, space = _joint(few_shots(records, at, n_shots, solved) + r.get("context", str).rstrip(), delimiter)
        items.append(LastWords(context, space + r.get("continuation", str).strip()))
    return Task(name, tuple(items))


def blimp(folder: Path) -> Task:
    """Minimal pairs (Warstadt et al. 2020): the grammatical sentence should be the likelier whole; a group is a paradigm.

    Every ``.jsonl`` in the folder, or in ``blimp`` below it, that has ``sentence_good`` and ``sentence_bad``.
    """
    files = sorted((folder / "blimp" if (folder / "blimp").is_dir() else folder).glob("*.jsonl"))
    if not files:
        raise UsageError(f"--data {folder}: no .jsonl files in it or in its blimp: name the folder of BLiMP's paradigms")
    items, groups = [], []
    for path in files:
        for r in _read(path):
            items.append(Choice(("", ""), (r.get("sentence_good", str), r.get("sentence_bad", str)), 0))
            groups.append(path.stem)
    return Task("blimp", tuple(items), 0.5, "raw", tuple(groups))


def lambada(folder: Path) -> Task:
    """The last word of a passage that cannot be guessed from its last sentence (Paperno et al. 2016, in OpenAI's form)."""
    return last_words("lambada", find_file(folder, "lambada_openai"))


def gsm8k(folder: Path, *, n_shots: int = 8) -> Task:
    """Word problems (Cobbe et al. 2021): examples from gsm8k_train, and the number after the last ####, else the last in the text."""
    train, test = (_read(find_file(folder, f"gsm8k_{split}")) for split in ("train", "test"))

    def question(r: Record) -> str:
        return f"Question: {r.get('question', str)}\nAnswer:"

    shots = "".join(f"{question(r)} {r.get('answer', str)}\n\n" for r in train[:n_shots])
    items = []
    for r in test:
        answer = r.get("answer", str)
        gold = number_in(answer)
        if gold is None:
            raise UsageError(f"{r.where}: field 'answer' holds no number")
        items.append(Writing(shots + question(r), _number_check(gold), " " + answer, stop=("Question:", "\n\n"), max_tokens=320))
    return Task("gsm8k", tuple(items))


def number_in(text: str) -> float | None:
    """The number after the last ####, or without one the last number; None if there is none. Thousands' commas and $ are left out."""
    tail = text.rpartition("####")[2] if "####" in text else text
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", tail)
    if not found:
        return None
    number = found[0] if "####" in text else found[-1]
    return float(number.replace(",", ""))


def _number_check(gold: float) -> Callable[[str], bool]:
    return lambda text: number_in(text) == gold


def human_eval(folder: Path) -> Task:
    """Functions from their docstrings (Chen et al. 2021), run against the tests in the sandbox: pass@1."""
    items = []
    for r in _read(find_file(folder, "HumanEval")):
        prompt, test, entry = (r.get(name, str) for name in ("prompt", "test", "entry_point"))
        stop = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
        check = _program_check(prompt, f"\n{test}\ncheck({entry})\n")
        items.append(Writing(prompt, check, r.get("canonical_solution", str), stop, 384))
    return Task("human_eval", tuple(items))


def mbpp(folder: Path, *, n_shots: int = 3) -> Task:
    """Short programs from a sentence and its tests (Austin et al. 2021): problems 11 to 510, examples from 2 to 4, as in the paper."""
    records = _read(find_file(folder, "mbpp"))

    def question(r: Record) -> str:
        tests = "\n".join(r.texts("test_list"))
        task = f"You are an expert Python programmer, and here is your task: {r.get('text', str)}"  # the paper's prompt, figure 1
        return f"{task} Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"

    by_id = {r.get("task_id", int): r for r in records}
    examples = [by_id[i] for i in range(2, 2 + n_shots) if i in by_id]
    shots = "".join(question(r) + r.get("code", str).replace("\r\n", "\n") + "\n[DONE]\n\n" for r in examples)
    items = []
    for i, r in by_id.items():
        if 11 <= i <= 510:
            tests = "\n".join([r.get("test_setup_code", str), *r.texts("test_list")])
            reference = r.get("code", str).replace("\r\n", "\n") + "\n[DONE]"
            items.append(Writing(shots + question(r), _program_check("", "\n" + tests), reference, ("[DONE]",), 384))
    return Task("mbpp", tuple(items))


def _program_check(before: str, after: str) -> Callable[[str], bool]:
    """Whether a text between these two runs to its end in the sandbox."""
    return lambda text: run_python(before + text + after).ok


def _read(path: Path) -> list[Record]:
    records = read_records(path)
    if not records:
        raise UsageError(f"{path} holds no records: get it again")
    return records


TASKS: Mapping[str, Callable[[Path], Task]] = {"blimp": blimp, "lambada": lambada, "gsm8k": gsm8k, "human_eval": human_eval, "mbpp": mbpp}
"""Tasks by name; ``core.CORE`` has those of the CORE set."""
