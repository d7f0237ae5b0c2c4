"""``groundup eval``, ``compress``, ``decompress``: what a model makes of a text, of tasks, and of the bytes of a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tyro.conf import Positional

from groundup.errors import UsageError

if TYPE_CHECKING:
    from groundup.data import Document
    from groundup.evaluate.compress import Compressor, Progress
    from groundup.evaluate.harness import TaskResult
    from groundup.evaluate.protocol import LanguageModel
    from groundup.evaluate.statistics import Mean
    from groundup.evaluate.tasks import Task
    from groundup.evaluate.text import TextScore

TRANSFORMERS = "transformers:"
SHOWN_DOMAINS = 30


@dataclass(frozen=True)
class Eval:
    """Bits per byte of a text, or tasks with error bars, under any model.

    A model is a run's folder, a Hugging Face folder, a .gguf file or hub:owner/name; transformers:FOLDER (or the .gguf file in one), to
    run it by that library; or the address of an OpenAI-compatible server, http://host:port/v1#MODEL, whose key is taken from the
    environment's OPENAI_API_KEY.
    """

    model: Positional[str]
    """The model."""
    data: tuple[str, ...]
    """Text to score: sources as in train; with --tasks the folder of the tasks' files."""
    tasks: tuple[str, ...] = ()
    """Names, with spaces or commas between: blimp, lambada, gsm8k, human_eval, mbpp, a name of the CORE set, or core for all of that."""
    against: str | None = None
    """A second model, compared with the first document by document or item by item."""
    items: int | None = None
    """At most so many items of each task, spread evenly."""
    core_version: Literal["v1", "v2"] = "v2"
    """Baselines of the CORE set."""
    out: Path | None = None
    """Folder for the answers to each item; a killed run goes on from it."""
    samples: int = 0
    """Show so many items that went right and that went wrong."""
    text_field: str = "text"
    """Field of the text in JSONL and Parquet files."""
    domain_field: str | None = None
    """Field that names a document's domain; without it, its file does."""
    seq_len: int | None = None
    """Tokens that the model reads at once (default: its own)."""
    stride: int | None = None
    """Tokens that a window moves on by (default: half of seq_len)."""
    chat: bool = False
    """Write through the server's chat interface."""
    prefix: str = ""
    """Text that opens each document on a server that adds no token of its own."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Scores every byte of every document, or every item of every task."""
        models = [self._open(spec) for spec in (self.model, self.against) if spec is not None]
        names = [name for given in self.tasks for name in given.split(",") if name]
        result = self._tasks(models, names) if names else self._texts(models)
        if self.json:
            print(json.dumps(result))

    def _open(self, spec: str) -> LanguageModel:
        return open_language_model(spec, chat=self.chat, prefix=self.prefix, seq_len=self.seq_len)

    def _texts(self, models: Sequence[LanguageModel]) -> dict[str, Any]:
        from groundup.data import open_corpus
        from groundup.evaluate.statistics import bootstrap

        corpus = open_corpus(self.data, text_field=self.text_field, keep_all=True)
        domains = None
        if self.domain_field is not None:
            fields = open_corpus(self.data, text_field=self.domain_field, keep_all=True)
            domains = {document.id: document.text.decode("utf-8", "replace") for document in fields.documents()}
        settings = {"seq_len": self.seq_len, "stride": self.stride, "domains": domains}
        scored = [_score(model, corpus.documents(), settings) for model in models]
        for score, parts in scored:
            show_text(corpus.name, score, parts)
        scores, (result, *others) = [score for score, _ in scored], [text_result(*both) for both in scored]
        if len(scores) == 2:
            sizes = np.array([d.n_bytes for d in scores[0].documents])
            difference = scores[0].bits_per_byte - scores[1].bits_per_byte
            interval = bootstrap(scores[0].bits - scores[1].bits, sizes)
            spread = f", 95 % over documents {interval[0]:+.4f} to {interval[1]:+.4f}" if interval else ""
            print(f"{scores[0].model} - {scores[1].model}: {difference:+.4f} bits per byte{spread}")
            result["against"] = others[0] | {"difference": difference, "interval_of_difference": interval}
        return result

    def _tasks(self, models: Sequence[LanguageModel], names: Sequence[str]) -> dict[str, Any]:
        from groundup.evaluate.core import CORE, core_score
        from groundup.evaluate.harness import compare, run_task
        from groundup.evaluate.sandbox import isolation
        from groundup.terminal import counting, show_rows

        tasks = self._load(names)
        if any(task.name in ("human_eval", "mbpp") for task in tasks):
            print(f"programs run in a sandbox: {isolation()}")
        results: list[list[TaskResult]] = []
        with counting() as told:
            for at, model in enumerate(models):
                folder = None if self.out is None else self.out if at == 0 else self.out / "against"
                kept = [None if folder is None else folder / f"{task.name}.jsonl" for task in tasks]
                results.append([run_task(model, task, kept=path, progress=told) for task, path in zip(tasks, kept, strict=True)])
        for model, own in zip(models, results, strict=True):
            show_rows([task_row(result) for result in own], title=model.name)
            if weighed := [weighed_row(result) for result in own if len(result.accuracy) > 1]:
                show_rows(weighed, title="accuracy by each way to weigh options")
        out = {"model": models[0].name, "tasks": {r.task.name: task_result(r) for r in results[0]}}
        if len(models) == 2:
            pairs = [(a.task.name, *compare(a, b)) for a, b in zip(*results, strict=True)]
            rows = [{"task": n, "accuracy": with_error(a, "+.1%"), "bits/byte": with_error(b, "+.4f")} for n, a, b in pairs]
            show_rows(rows, title=f"{models[0].name} minus {models[1].name}, paired by item")
            out["against"] = {"model": models[1].name, "differences": {n: {"accuracy": a, "bits_per_byte": b} for n, a, b in pairs}}
        if all(name in {task.name for task in tasks} for name in CORE):
            out["core"] = core_score({r.task.name: r.accuracy[r.main].mean for r in results[0]}, self.core_version)
            print(f"CORE ({self.core_version}): {out['core']:.4f}")
        for result in results[0] if self.samples else ():
            show_samples(result, self.samples)
        return out

    def _load(self, names: Sequence[str]) -> list[Task]:
        from groundup.evaluate.core import CORE
        from groundup.evaluate.tasks import TASKS, spread

        if len(self.data) != 1 or not Path(self.data[0]).is_dir():
            raise UsageError(f"--data {' '.join(self.data)}: with --tasks, name the one folder that holds the tasks' files")
        folder, tasks, missing = Path(self.data[0]), [], []
        for name in [n for given in names for n in (CORE if given == "core" else [given])]:
            if name not in CORE and name not in TASKS:
                raise UsageError(f"--tasks {name}: there are {', '.join(TASKS)}, core, and of the CORE set {', '.join(CORE)}")
            try:
                task = TASKS[name](folder) if name in TASKS else CORE[name].load(name, folder, self.core_version)
            except UsageError as error:
                if "core" not in names:
                    raise
                missing.append(f"{name} ({error})")
                continue
            tasks.append(task if self.items is None else spread(task, self.items))
        for line in missing:
            print(f"left out: {line}; without it there is no CORE score")
        return tasks


@dataclass(frozen=True)
class Compress:
    """Codes a file by a model's own probabilities: its bits per byte, as a file that comes back to the same bytes."""

    model: Positional[str]
    """A run's folder, or transformers:FOLDER."""
    source: Positional[Path]
    """The file."""
    target: Positional[Path]
    """Where to write."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Writes the file whole, and says what was promised and what it took."""
        from groundup.evaluate.compress import compress
        from groundup.files import write_bytes

        model, text = _compressor(self.model), _read(self.source)
        done = _with_progress("coding", lambda told: compress(model, text, progress=told))
        write_bytes(self.target, done.data)
        rate = 8 * len(done.data) / max(1, len(text))
        print(
            f"wrote {self.target}: {len(text):,} bytes became {len(done.data):,}, {rate:.4f} bits per byte; "
            f"the model's score promised {done.promised_bits / 8:,.1f} bytes, the code took {done.n_code_bytes:,} and the header "
            f"{len(done.data) - done.n_code_bytes}"
        )


@dataclass(frozen=True)
class Decompress:
    """Brings a compressed file back, under the model that wrote it and the same number of threads."""

    model: Positional[str]
    """The model that wrote it."""
    source: Positional[Path]
    """What ``compress`` wrote."""
    target: Positional[Path]
    """Where to write."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Writes the file whole, once its checksum holds."""
        from groundup.evaluate.compress import decompress
        from groundup.files import write_bytes

        model, data = _compressor(self.model), _read(self.source)
        text = _with_progress("decoding", lambda told: decompress(model, data, progress=told))
        write_bytes(self.target, text)
        print(f"wrote {self.target}: {len(text):,} bytes")


def open_language_model(spec: str, *, chat: bool = False, prefix: str = "", seq_len: int | None = None) -> LanguageModel:
    """The model that a word of the command line names."""
    if spec.startswith(("http://", "https://")):
        from groundup.evaluate.endpoint import EndpointModel

        url, _, name = spec.partition("#")
        if not name:
            raise UsageError(f"{spec}: name the server's model after a #, as in {url}#NAME")
        return EndpointModel(url, name, chat=chat, prefix=prefix, key=os.environ.get("OPENAI_API_KEY", ""))
    if spec.startswith(TRANSFORMERS):
        from groundup.evaluate.transformers_model import TransformersModel

        path = spec.removeprefix(TRANSFORMERS)
        folder, file = os.path.split(path) if path.endswith(".gguf") else (path, None)
        return TransformersModel.load(folder or ".", gguf_file=file)
    from groundup.evaluate.decoder_model import DecoderModel
    from groundup.kernels.memory import keep_freed_memory
    from groundup.train.calibrate import pick_device
    from groundup.workbench import open_model

    bench = open_model(spec, pick_device())
    keep_freed_memory()
    return DecoderModel(
        bench.model,
        bench.tokenizer,
        prior=bench.prior,
        name=spec,
        seq_len=seq_len or bench.plan["seq_len"],
        prefix=(bench.manners.opening,),
        stops=sorted(bench.manners.stop_ids),
    )


def _score(model: LanguageModel, documents: Iterable[Document], settings: dict[str, Any]) -> tuple[TextScore, dict[str, float]]:
    """A text's score, and bits per byte by predictor: our own decoder's go by its own path."""
    from groundup.evaluate.decoder_model import DecoderModel, score_parts
    from groundup.evaluate.text import score_documents

    if isinstance(model, DecoderModel):
        return score_parts(model, documents, **settings)
    score = score_documents(model, documents, **settings)
    return score, {"model": score.bits_per_byte}


def _compressor(spec: str) -> Compressor:
    from groundup.evaluate.compress import Compressor

    model = open_language_model(spec)
    if not isinstance(model, Compressor):
        raise UsageError(f"{spec} does not say its whole distribution, which coding needs: name a run or {TRANSFORMERS}FOLDER")
    return model


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise UsageError(f"{path} cannot be read ({e.strerror}): name a file") from e


def _with_progress(verb: str, work: Any) -> Any:
    from groundup.terminal import counting

    with counting() as told:
        progress: Progress = lambda i, n: told(verb, i, n)  # noqa: E731
        return work(progress)


def show_text(corpus: str, score: TextScore, parts: dict[str, float]) -> None:
    """Bits per byte of a text, its other units, and its domains."""
    from groundup.terminal import show_pairs, show_rows

    interval = f"  (95 % over documents: {score.interval[0]:.4f} to {score.interval[1]:.4f})" if score.interval else ""
    units = [(name, f"{value:,.4f}" if value < 1e6 else f"{value:.4g}") for name, value in score.units().items() if name != "bits per byte"]
    alone = [(f"  the {name} alone", f"{value:.4f}") for name, value in parts.items() if name != "model"]
    show_pairs([("bits per byte", f"{score.bits_per_byte:.4f}{interval}"), *alone, *units], title=f"{score.model} on {corpus}")
    domains = score.by_domain()
    if 1 < len(domains) < len(score.documents) or 1 < len(domains) <= SHOWN_DOMAINS:
        rows = [
            {
                "domain": name,
                "bits/byte": f"{own.bits_per_byte:.4f}",
                "95 %": f"{own.interval[0]:.4f} to {own.interval[1]:.4f}" if own.interval else "",
                "documents": f"{len(own.documents):,}",
                "bytes": f"{own.n_bytes:,}",
            }
            for name, own in domains.items()
        ]
        show_rows(rows[:SHOWN_DOMAINS])
        if len(rows) > SHOWN_DOMAINS:
            print(f"and {len(rows) - SHOWN_DOMAINS:,} more domains, all of them with --json")
    print(f"{score.n_bytes:,} bytes, {int(score.n_tokens.sum()):,} tokens, every byte scored; the model saw {score.context}")


def text_result(score: TextScore, parts: dict[str, float]) -> dict[str, Any]:
    """A text's score in plain types."""
    return {
        "model": score.model,
        "bits_per_byte": parts,
        "interval": score.interval,
        "bytes": score.n_bytes,
        "tokens": int(score.n_tokens.sum()),
        "units": score.units(),
        "context": score.context,
        "domains": {
            name: {"bits_per_byte": own.bits_per_byte, "interval": own.interval, "bytes": own.n_bytes, "documents": len(own.documents)}
            for name, own in score.by_domain().items()
        },
    }


def task_row(result: TaskResult) -> dict[str, str]:
    """A task's line of the table; bits a byte are of the right answers."""
    return {
        "task": result.task.name,
        "items": f"{len(result.answers):,}",
        "accuracy": with_error(result.accuracy[result.main], ".1%"),
        "by": result.main,
        "centered": f"{result.centered:.3f}",
        "bits/byte": with_error(result.bits_per_byte, ".4f"),
    }


def weighed_row(result: TaskResult) -> dict[str, str]:
    """A task's accuracy by each normalization."""
    columns = {"raw": "sum", "characters": "/character", "bytes": "/byte", "tokens": "/token", "unconditional": "- unconditional"}
    shown = {column: f"{result.accuracy[name].mean:.1%}" if name in result.accuracy else "" for name, column in columns.items()}
    return {"task": result.task.name} | shown


def with_error(m: Mean, form: str) -> str:
    """A mean with its standard error, where it has one."""
    return f"{m.mean:{form}}" + ("" if math.isnan(m.error) else f" ± {m.error:{form.lstrip('+')}}")


def task_result(result: TaskResult) -> dict[str, Any]:
    """A task's numbers in plain types."""
    return {
        "items": len(result.answers),
        "accuracy": {name: list(m) for name, m in result.accuracy.items()},
        "by": result.main,
        "centered": result.centered,
        "baseline": result.task.baseline,
        "bits_per_byte": list(result.bits_per_byte),
        "groups": {name: list(m) for name, m in result.by_group().items()},
    }


def show_samples(result: TaskResult, n: int) -> None:
    """Items that went right and wrong: the end of what was asked, what was right, what the model gave."""
    from groundup.terminal import show_pairs

    for right in (True, False):
        for item, answer in result.samples(right, n):
            asked, gold, given = item.asked[-300:].strip(), item.right.strip(), answer.given.strip()
            pairs = [("asked", asked), ("right is", gold), ("the model", given)]
            show_pairs([pair for pair in pairs if pair[1]], title=f"{result.task.name}: {'right' if right else 'wrong'}")
