"""What several benchmarks need: the text and its tokens, fresh processes, this machine's description, result files."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data import SEPARATOR, Document, Splits, TokenStore, assign_splits, open_corpus, write_shards
from groundup.data.corpus import Corpus, content_hash
from groundup.errors import GroundupError
from groundup.files import write_file
from groundup.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


class Text:
    """A corpus cut to a size, as one file a document, so that every contestant reads the same bytes; and its tokens."""

    def __init__(self, sources: Sequence[str], limit_bytes: int, work: Path, text_field: str = "text"):
        """Writes the text under ``work``, the documents with the smallest hashes where ``limit_bytes`` does not hold all."""
        self.work, self.folder = work, work / "text"
        corpus = open_corpus(sources, text_field=text_field)
        self.name = corpus.name
        kept = _keep(corpus, limit_bytes)
        self.folder.mkdir(parents=True)
        for i, document in enumerate(d for d in corpus.documents() if content_hash(d.text) in kept):
            (self.folder / f"{i:06d}.txt").write_bytes(document.text)
        self.corpus = open_corpus([str(self.folder)])
        self.splits: Splits = assign_splits(self.corpus)
        if self.corpus.manifest()["n_bytes"] != sum(kept.values()):
            raise GroundupError(f"--data: documents with NUL bytes or {SEPARATOR.decode()} in them cannot be handed on: leave these out")

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of one split."""
        return (document for where, document in self.splits.apply(self.corpus.documents()) if where == split)

    def split_folder(self, split: str) -> Path:
        """The documents of one split as files."""
        folder = self.work / split
        if not folder.exists():
            folder.mkdir()
            for i, document in enumerate(self.documents(split)):
                (folder / f"{i:06d}.txt").write_bytes(document.text)
        return folder

    def tokens(self, vocab_size: int) -> Path:
        """A folder with a tokenizer trained on the training split, and the token stores of the three splits."""
        folder = self.work / f"tokens-{vocab_size}"
        if not (folder / "tokenizer.json").exists():
            tokenizer = Tokenizer.train((d.text for d in self.documents("train")), vocab_size)
            folder.mkdir(exist_ok=True)
            for split in ("train", "validation", "test"):
                encoded = ((d, np.concatenate(([tokenizer.end_of_text], tokenizer.encode_ordinary(d.text)))) for d in self.documents(split))
                write_shards(encoded, folder / split, vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash)
            tokenizer.save(folder)
        return folder

    def manifest(self) -> dict[str, Any]:
        """What the text is, in plain JSON types, without names of this machine."""
        whole = self.corpus.manifest()
        return {"name": self.name} | {key: whole[key] for key in ("n_documents", "n_bytes", "blake2b")} | {"splits": self.splits.manifest()}


def _keep(corpus: Corpus, limit_bytes: int) -> dict[bytes, int]:
    """Hashes and sizes of the documents to keep: all, or those with the smallest hashes up to the limit."""
    sizes = {content_hash(d.text): len(d.text) for d in corpus.documents()}
    kept, total = {}, 0
    for digest in sorted(sizes):
        if total + sizes[digest] <= limit_bytes:
            kept[digest] = sizes[digest]
            total += sizes[digest]
    return kept


def store_bytes(tokens: Path, split: str) -> int:
    """Source bytes of one split of a tokens folder."""
    return TokenStore.open(tokens / split, verify=False).n_bytes


def run_module(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs ``python -m module`` in a fresh process and returns its last line, which is JSON; GroundupError with what it said if it failed.

    Threads that wait spin briefly and then sleep, for all alike, as in the command line. What torch.compile keeps
    on disk is kept from the next process, so that each pays for its own compilation.
    """
    env = os.environ | {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as cache:
        env["TORCHINDUCTOR_CACHE_DIR"] = cache
        done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=env)
    if done.returncode or not done.stdout.strip():
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise GroundupError(f"python -m {module} {' '.join(arguments)} ended with {done.returncode} and said: {said}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def provenance() -> dict[str, Any]:
    """Hardware, versions, code and date: what every result file carries."""
    from groundup.runfolder import code_version, environment

    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "environment": environment("cpu") | {"cpu": cpu_name(), "gomp_spincount": os.environ.get("GOMP_SPINCOUNT", "10000")},
        "code": code_version(),
    }


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def save_result(path: Path, result: dict[str, Any]) -> None:
    """Writes a result file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(result, indent=1) + "\n")


def load_result(path: Path) -> dict[str, Any]:
    """A result file, empty where there is none; GroundupError naming it if it is damaged."""
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as e:
        raise GroundupError(f"{path}: damaged ({e}); remove it and measure again") from e
