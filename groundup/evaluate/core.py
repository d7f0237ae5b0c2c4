"""The CORE set of DataComp-LM (Li et al. 2024, appendix G): 22 tasks, their examples, and two versions of what guessing scores.

Figures from the project's repository, mlfoundations/dclm at 361714b: tasks ``eval/additional_aggregation.json`` (low_variance_datasets),
examples and delimiters ``eval/mmlu_and_lowvar.yaml``, baselines ``eval/eval_meta_data_v1.csv`` and ``eval_meta_data.csv`` (v2, which
corrects three of the 22: its authors call v1's centered averages incorrect). The option of the least perplexity a token is chosen, as by
MosaicML's llm-foundry (``InContextLearningMultipleChoiceAccuracy``), which the project evaluates with. Examples here are drawn by our own
stream, so a score differs from another implementation's by that draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from groundup.errors import UsageError
from groundup.evaluate.records import find_file
from groundup.evaluate.tasks import Task, choices, last_words, schema

ANSWER = "\nAnswer: "
Version = Literal["v1", "v2"]


@dataclass(frozen=True)
class CoreTask:
    """One of the 22."""

    file: str
    """Name of its file, without ending."""
    kind: Literal["choices", "schema", "words"]
    n_shots: int
    baseline: float
    """Accuracy of guessing, version 2."""
    baseline_v1: float | None = None
    """The same in version 1, where it differs."""
    delimiter: str = " "
    """Between question and answer."""

    def load(self, name: str, folder: Path, version: Version = "v2") -> Task:
        """Reads its items."""
        path = find_file(folder, self.file)
        if self.kind == "words":
            return last_words(name, path, n_shots=self.n_shots, delimiter=self.delimiter)
        guess = self.baseline if version == "v2" or self.baseline_v1 is None else self.baseline_v1
        make = choices if self.kind == "choices" else schema
        return make(name, path, n_shots=self.n_shots, delimiter=self.delimiter, baseline=guess, normalization="tokens")


_choices, _words, _schema = (
    partial(CoreTask, kind="choices"),
    partial(CoreTask, kind="words", baseline=0.0),
    partial(CoreTask, kind="schema"),
)
CORE: Mapping[str, CoreTask] = {
    "hellaswag_zeroshot": _choices("hellaswag", n_shots=0, baseline=0.25),
    "jeopardy": _words("jeopardy_all", n_shots=10, delimiter=ANSWER),
    "bigbench_qa_wikidata": _words("bigbench_qa_wikidata", n_shots=10),
    "arc_easy": _choices("arc_easy", n_shots=10, baseline=0.25, delimiter=ANSWER),
    "arc_challenge": _choices("arc_challenge", n_shots=10, baseline=0.25, delimiter=ANSWER),
    "copa": _choices("copa", n_shots=0, baseline=0.5),
    "commonsense_qa": _choices("commonsense_qa", n_shots=10, baseline=0.403, baseline_v1=0.2),
    "piqa": _choices("piqa", n_shots=10, baseline=0.5, delimiter=ANSWER),
    "openbook_qa": _choices("openbook_qa", n_shots=0, baseline=0.25),
    "lambada_openai": _words("lambada_openai", n_shots=0),
    "hellaswag": _choices("hellaswag", n_shots=10, baseline=0.25),
    "winograd": _schema("winograd_wsc", n_shots=0, baseline=0.5),
    "winogrande": _schema("winogrande", n_shots=0, baseline=0.5),
    "bigbench_dyck_languages": _words("bigbench_dyck_languages", n_shots=10),
    "agi_eval_lsat_ar": _choices("agi_eval_lsat_ar", n_shots=3, baseline=0.25, baseline_v1=0.2),
    "bigbench_cs_algorithms": _words("bigbench_cs_algorithms", n_shots=10),
    "bigbench_operators": _words("bigbench_operators", n_shots=10),
    "bigbench_repeat_copy_logic": _words("bigbench_repeat_copy_logic", n_shots=10),
    "squad": _words("squad", n_shots=10),
    "coqa": _words("coqa", n_shots=0),
    "boolq": _choices("boolq", n_shots=10, baseline=0.62, delimiter=ANSWER),
    "bigbench_language_identification": _choices("bigbench_language_identification", n_shots=10, baseline=0.25, baseline_v1=0.091),
}


def centered(accuracy: float, baseline: float) -> float:
    """(accuracy - baseline) / (1 - baseline): 0 for guessing, 1 for perfect."""
    return (accuracy - baseline) / (1 - baseline)


def core_score(accuracies: Mapping[str, float], version: Version = "v2") -> float:
    """Mean centered accuracy over all 22; UsageError naming those that are missing, without which it is no CORE score."""
    missing = [name for name in CORE if name not in accuracies]
    if missing:
        raise UsageError(f"a CORE score takes all 22 tasks, and {len(missing)} are missing: {', '.join(missing)}")
    guesses = {name: t.baseline_v1 if version == "v1" and t.baseline_v1 is not None else t.baseline for name, t in CORE.items()}
    return sum(centered(accuracies[name], guess) for name, guess in guesses.items()) / len(CORE)
