"""A run is a folder: what is written there, by whom, and how it is opened again."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import groundup
from groundup.errors import GroundupError, UsageError
from groundup.files import disk_errors, write_file

FORMAT = 1


class RunFolder:
    """The files of one run: manifest, config and tokenizer (json), metrics and samples (jsonl), model.safetensors, state/, tokens/."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path, self.manifest = path, manifest
        self.read_only = False
        """Whether nothing is written: all ranks but the first only read."""

    @classmethod
    def create(cls, path: Path, manifest: dict[str, Any]) -> RunFolder:
        """A new run in a folder that does not exist or is empty but for its lock; UsageError if it already holds a run."""
        if (path / "manifest.json").exists():
            raise UsageError(f"{path} already holds a run: choose another --out, or go on with it by --resume {path}")
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
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
        if manifest.get("format") != FORMAT:
            raise UsageError(
                f"{path}: a run of another version (format {manifest.get('format')}, this one reads {FORMAT}); use that version"
            )
        return cls(path, manifest)

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

    def _append(self, name: str, record: dict[str, Any]) -> None:
        if self.read_only:
            return
        with disk_errors(self.path / name), (self.path / name).open("a") as f:
            f.write(json.dumps(record) + "\n")

    def finish(self, status: str, **values: Any) -> None:
        """Notes how the run ended."""
        self.update(status=status, finished=_now(), **values)


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
