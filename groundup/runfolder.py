"""A run is a folder: what is written there, by whom, and how it is opened again."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import groundup
from groundup.errors import GroundupError, UsageError
from groundup.files import disk_errors, write_file

FORMAT = 1
PREPARED = ("lock", "manifest.json", "metrics.jsonl", "config.json", "tokenizer.json", "tokens", "prior.safetensors")
"""What a run's folder may hold before its training begins."""


class RunFolder:
    """The files of one run: manifest, config and tokenizer (json), metrics and samples (jsonl), model.safetensors, state/, tokens/."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path, self.manifest = path, manifest
        self.read_only = False
        """Whether nothing is written: all ranks but the first only read."""

    @classmethod
    def create(cls, path: Path, manifest: dict[str, Any]) -> RunFolder:
        """A new run in a folder that ``new_folder`` holds."""
        run = cls(path, {"format": FORMAT, "groundup_version": groundup.__version__, "created": _now(), "status": "running"} | manifest)
        run.write_manifest()
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run; UsageError if the folder is none, or was written by another version."""
        file = path / "manifest.json"
        if not file.is_file():
            raise UsageError(f"{path} is not a run (it has no manifest.json): give a folder that `groundup train` made")
        try:
            manifest = json.loads(file.read_text())
        except ValueError as e:
            raise GroundupError(f"{file}: damaged ({e}); restore it from a copy of the run") from e
        if not isinstance(manifest, dict):
            raise GroundupError(f"{file}: damaged (no JSON object); restore it from a copy of the run")
        if manifest.get("format") != FORMAT:
            raise UsageError(
                f"{path}: a run of another version (format {manifest.get('format')}, this one reads {FORMAT}); use that version"
            )
        return cls(path, manifest)

    @property
    def resumable(self) -> bool:
        """Whether all that comes before training is done and written."""
        return {"plan", "environment", "command", "seconds_before_training"} <= self.manifest.keys()

    def update(self, **values: Any) -> None:
        """Sets manifest entries and writes it."""
        self.manifest |= values
        self.write_manifest()

    def write_manifest(self) -> None:
        """Writes manifest.json whole."""
        if self.read_only:
            return
        write_file(self.path / "manifest.json", json.dumps(self.manifest, indent=1))

    def log(self, kind: str, **values: Any) -> None:
        """Appends one record to metrics.jsonl."""
        self._append("metrics.jsonl", {"kind": kind} | values)

    def sample(self, **values: Any) -> None:
        """Appends one record to samples.jsonl."""
        self._append("samples.jsonl", values)

    def records(self, name: str) -> list[dict[str, Any]]:
        """The records of metrics.jsonl or samples.jsonl; a line that a kill cut off is left out."""
        file, found = self.path / name, []
        for line in file.read_bytes().splitlines() if file.is_file() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def _append(self, name: str, record: dict[str, Any]) -> None:
        if self.read_only:
            return
        with disk_errors(self.path / name), (self.path / name).open("a") as f:
            f.write(json.dumps(record) + "\n")

    def finish(self, status: str, **values: Any) -> None:
        """Notes how the run ended."""
        self.update(status=status, finished=_now(), **values)


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Holds the run for this process; UsageError if another process has it. The lock dies with the process, however it ends."""
    with disk_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        handle = (run / "lock").open("a")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise UsageError(f"{run}: another process is working on this run; wait for it or choose another folder with --out") from e
        yield


def is_at_work(run: Path) -> bool:
    """Whether a process holds the run now. Only looks: it writes nothing, so that runs on a disk that may not be written are listed too."""
    try:
        with (run / "lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Holds a folder that is new or empty for a new run. Should it fail before training can begin, nothing of it stays.

    UsageError if the folder has anything in it, or another process takes it at the same moment.
    """
    try:
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        _require_free(path)
    except OSError as e:  # a name too long, or a file where a folder should be
        raise UsageError(f"--out {str(path)[:80]}: cannot be a folder ({e.strerror}); choose another") from e
    if in_the_way := next((p for p in path.parents if p.exists() and not p.is_dir()), None):
        raise UsageError(f"--out {path}: {in_the_way} is a file; choose another folder")
    with lock_run(path):
        _require_free(path)  # another process may have been here since
        _clear(path, but="lock")
        try:
            yield
        except BaseException:
            if not (path / "manifest.json").exists() or not RunFolder.open(path).resumable:
                _clear(path)
                with contextlib.suppress(OSError):  # something else may stand there by now
                    for folder in made:
                        folder.rmdir()
            raise


def _require_free(path: Path) -> None:
    """UsageError unless a new run may begin here: in a folder that is not there, is empty, or holds what a kill left of a preparation."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder: choose another --out")
    with disk_errors(path):
        found = [p.name for p in path.iterdir()] if path.exists() else []
    if "manifest.json" in found and not _left_by_a_kill(path):
        raise UsageError(f"{path} already holds a run: choose another --out, or go on with it by --resume {path}")
    if foreign := [name for name in found if name.removesuffix(".partial") not in PREPARED]:
        raise UsageError(f"{path} is not empty and holds no run ({foreign[0]}): choose another --out")


def _left_by_a_kill(path: Path) -> bool:
    try:
        return not RunFolder.open(path).resumable
    except GroundupError:  # damaged, or of another version: not ours to clear
        return False


def _clear(path: Path, but: str | None = None) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != but:
            entry.unlink(missing_ok=True)


def environment(device: str) -> dict[str, Any]:
    """What a run's numbers depend on besides the code."""
    import numpy
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "os": f"{platform.system()} {platform.release()}",
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
    }


def code_version() -> dict[str, Any]:
    """The git revision of the code and a hash of its uncommitted changes; nulls where it is not a checkout."""
    root = Path(groundup.__file__).resolve().parent.parent
    try:
        revision = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        diff = subprocess.run(["git", "-C", str(root), "diff", "HEAD"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"git": None, "diff_hash": None}
    return {"git": revision, "diff_hash": hashlib.blake2b(diff, digest_size=8).hexdigest() if diff else None}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
