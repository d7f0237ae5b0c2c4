"""The front door: one verb a room, each as thin as it can be."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from groundup.account.rules import Overrides
from groundup.cli_account import CostOf
from groundup.cli_doctor import Doctor
from groundup.cli_eval import Compress, Decompress, Eval
from groundup.cli_history import History
from groundup.cli_inspect import Inspect
from groundup.cli_plan import PlanOf
from groundup.cli_tokenizer import TokenizerRoom
from groundup.errors import GroundupError, UsageError

if TYPE_CHECKING:
    from groundup.workbench import Manners, Workbench

# Threads that wait at a barrier spin for a moment and then sleep: always spinning costs up to ten times when anything else runs, and
# sleeping at once costs almost three times when nothing does (docs/lab.md).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@dataclass(frozen=True)
class Train:
    """Text and a budget in, the best model that the budget can buy out."""

    data: tuple[str, ...] = ()
    """Files, folders, .jsonl or .parquet files, hub:owner/name[:subset]; none: the Python standard library of this machine."""
    budget: str = "3m"
    """Time (3m, 1h30m), FLOPs (2e17flop) or money (5usd); everything after reading the text counts."""
    out: Path | None = None
    """The run's folder (default: runs/ and the first free number)."""
    resume: Path | None = None
    """Go on with this run instead; only --json and --debug may stand beside it."""
    text_field: str = "text"
    """Field of the text in JSONL and Parquet files."""
    seed: int = 0
    """Seed of every random stream."""
    save_every: float = 60.0
    """Seconds between checkpoints."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""
    overrides: OmitArgPrefixes[Overrides] = dataclasses.field(default_factory=Overrides)
    """Set by hand what the plan would derive."""

    def run(self) -> None:
        """Starts or resumes a run."""
        from groundup.job import Job, resume, start
        from groundup.screen import Screen, conclusion

        screen = Screen(quiet=os.environ.get("RANK", "0") != "0")
        if self.resume is not None:
            changed = [
                f.name
                for f in dataclasses.fields(self)
                if f.name not in ("resume", "json", "debug") and getattr(self, f.name) != f.default and f.name != "overrides"
            ]
            changed += [f.name for f in dataclasses.fields(Overrides) if getattr(self.overrides, f.name) != f.default]
            if changed:
                raise UsageError(f"--resume goes on with the run's own settings: leave out --{changed[0].replace('_', '-')}")
            with screen:
                run = resume(self.resume, screen)
        else:
            job = Job(self.data, self.budget, self.out or _free_name(), self.text_field, self.seed, self.save_every, self.overrides)
            with screen:
                run = start(job, screen)
        if not screen.quiet:
            from groundup.report import write_report

            report = write_report(run.path)
            conclusion(run, report)
            if self.json:
                print(
                    json.dumps(
                        {
                            "run": str(run.path),
                            "bits_per_byte": run.manifest["measured"]["bits_per_byte"],
                            "predicted": run.manifest["plan"]["predicted"],
                            "measured": run.manifest["measured"],
                        }
                    )
                )


@dataclass(frozen=True)
class Generate:
    """Continues a text."""

    model: Positional[str]
    """A finished run, a Hugging Face folder, a .gguf file, or hub:owner/name."""
    prompt: str = ""
    """Text to continue; empty begins a new document."""
    chat: bool = False
    """Put the prompt to the model as a user's turn, by its chat template, and write the answer alone."""
    system: str | None = None
    """What the system says before it, with --chat."""
    max_tokens: int = 200
    """Most tokens to write."""
    temperature: float | None = None
    """0 takes the likeliest token; 1 is what the model believes (default: what its makers say, or 0.8)."""
    top_k: int | None = None
    """Draw from so many likeliest tokens only (default: what its makers say)."""
    top_p: float | None = None
    """Draw from the smallest set of tokens with this probability only (default: what its makers say)."""
    seed: int | None = None
    """Same seed, same text."""
    network_only: bool = False
    """Leave the counts out."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Streams the continuation to standard output."""
        from groundup.infer.chat import Continuation
        from groundup.infer.generate import generate

        if self.system is not None and not self.chat:
            raise UsageError("--system goes with --chat: without it the prompt is a text that is continued")
        bench = _open(self.model)
        if self.chat and bench.manners.template is None:
            raise UsageError(f"--chat: {self.model} has no chat template; leave it out to continue a text")
        if self.chat:
            history = bench.manners.history(bench.tokenizer, self.system)
        else:
            history = Continuation(bench.tokenizer, bench.manners.opening)
            sys.stdout.write(self.prompt)
        tokens = generate(
            bench.model,
            history.prompt(self.prompt),
            max_tokens=self.max_tokens,
            seed=self.seed,
            stop_ids=bench.manners.stop_ids,
            prior=None if self.network_only else bench.prior,
            vocab_size=bench.n_ids,
            **_drawing(self, bench.manners),
        )
        decoder = bench.tokenizer.decoder()
        for token in tokens:
            sys.stdout.write(decoder.push(token))
            sys.stdout.flush()
        sys.stdout.write(decoder.finish() + "\n")


@dataclass(frozen=True)
class Chat:
    """Answers what you type, or, for a model without a chat template, completes it, line by line in the terminal."""

    model: Positional[str]
    """A finished run, a Hugging Face folder, a .gguf file, or hub:owner/name."""
    system: str | None = None
    """What the system says before you (default: what the chat template says, if anything)."""
    completion: bool = False
    """Continue texts even where there is a chat template."""
    max_tokens: int = 256
    """Most tokens of one answer or continuation."""
    temperature: float | None = None
    """0 takes the likeliest token (default: what the model's makers say, or 0.8)."""
    top_k: int | None = None
    """Draw from so many likeliest tokens only (default: what its makers say)."""
    top_p: float | None = None
    """Draw from the smallest set of tokens with this probability only (default: what its makers say)."""
    seed: int | None = None
    """Same seed, same text."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Reads standard input until it ends."""
        from groundup.infer.chat import chat

        bench = _open(self.model)
        manners = dataclasses.replace(bench.manners, template=None) if self.completion else bench.manners
        chat(
            bench.model,
            bench.tokenizer,
            sys.stdin,
            sys.stdout,
            history=manners.history(bench.tokenizer, self.system),
            stop_ids=manners.stop_ids,
            max_tokens=self.max_tokens,
            seed=self.seed,
            prior=bench.prior,
            **_drawing(self, manners),
        )


@dataclass(frozen=True)
class Export:
    """Writes a folder that transformers and tokenizers open, with the same ids and logits."""

    model: Positional[str]
    """A finished run (of train --arch qwen3 or llama), a Hugging Face folder, a .gguf file, or hub:owner/name."""
    folder: Positional[Path]
    """Where to write; must not exist."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Writes configuration, weights and tokenizer."""
        from groundup.model.pretrained import open_pretrained
        from groundup.model.weights.exporting import export_model

        if self.folder.exists():
            raise UsageError(f"{self.folder} exists already: choose a new folder")
        run = Path(self.model)
        if (run / "manifest.json").exists():
            export_model(_open(self.model).model, self.folder, tokenizer=run / "tokenizer.json")
        else:
            origin = open_pretrained(self.model)
            export_model(origin.load(dtype=None), self.folder, origin=origin)
        print(f"wrote {self.folder}: AutoModelForCausalLM.from_pretrained({str(self.folder)!r}) opens it")


@dataclass(frozen=True)
class Runs:
    """Lists the runs of a folder, or compares some of them."""

    root: Positional[Path] = Path("runs")
    """Folder that holds runs."""
    plot: Path | None = None
    """Write a picture of bits per byte against time here (PNG)."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Prints a table, newest last."""
        from groundup.report import compare, list_runs, plot_runs
        from groundup.screen import show_runs

        runs = list_runs(self.root)
        rows = compare(runs)
        show_runs(rows)
        if self.plot is not None:
            plot_runs(runs, self.plot)
            print(f"wrote {self.plot}")
        if self.json:
            print(json.dumps(rows))


@dataclass(frozen=True)
class Report:
    """Writes a run's report.html and plots again."""

    run_folder: Positional[Path]
    """A run, finished or not."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Writes the files and says where."""
        from groundup.report import write_report

        print(f"wrote {write_report(self.run_folder)}")


def _open(name: str) -> Workbench:
    from groundup.kernels.memory import keep_freed_memory
    from groundup.train.calibrate import pick_device
    from groundup.workbench import open_model

    bench = open_model(name, pick_device())
    keep_freed_memory()
    return bench


def _drawing(asked: Generate | Chat, manners: Manners) -> dict[str, Any]:
    """How tokens are drawn: as asked, else as the model's makers say."""
    names = ("temperature", "top_k", "top_p")
    return {name: getattr(manners, name) if getattr(asked, name) is None else getattr(asked, name) for name in names}


def _free_name() -> Path:
    """runs/1, runs/2, ...: the first that does not exist."""
    n = 1
    while Path(f"runs/{n}").exists():
        n += 1
    return Path(f"runs/{n}")


COMMANDS = {
    "train": Train,
    "generate": Generate,
    "chat": Chat,
    "eval": Eval,
    "inspect": Inspect,
    "compress": Compress,
    "decompress": Decompress,
    "export": Export,
    "runs": Runs,
    "report": Report,
    "tokenizer": TokenizerRoom,
    "cost": CostOf,
    "plan": PlanOf,
    "doctor": Doctor,
    "history": History,
}


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, runs one verb, and ends with 0, 1 (failed), 2 (asked wrongly) or 130 (interrupted)."""
    from typing import Union

    commands = tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items())
    command = tyro.cli(Union[commands], prog="groundup", description=__import__("groundup").__doc__.split("\n")[0], args=arguments)  # noqa: UP007
    try:
        command.run()
    except GroundupError as e:
        if command.debug:
            raise
        print(f"groundup: {e}", file=sys.stderr)
        raise SystemExit(e.exit_status) from None
    except KeyboardInterrupt:
        print("groundup: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
