"""Checkpoints: complete, atomic, verified."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from groundup.errors import GroundupError, UsageError
from groundup.files import disk_errors
from groundup.train.step import TrainState

FORMAT = 2
KEEP = 2  # the newest, and the one before it in case the newest does not verify


def save_checkpoint(run: Path, state: TrainState, extra: dict[str, Any]) -> Path:
    """Writes ``state/step-N`` (weights, optimizer, step, checksums, and ``extra``), then drops all but the newest two.

    The folder gets its name only once every byte is on disk, so a kill at any moment leaves the previous checkpoint whole. What a kill or
    a full disk left unfinished goes, and so does what is newer than the state: it was damaged, or the state would have come from it.
    """
    target = run / "state" / f"step-{state.step:08d}"
    partial = target.with_name(target.name + ".partial")
    if target.exists() and _whole(target)[0] is not None:
        return target
    for other in (run / "state").glob("step-*"):
        if other.suffix == ".partial" or other.name >= target.name:
            shutil.rmtree(other, ignore_errors=True)
    with disk_errors(target), _removed_on_failure(partial):
        partial.mkdir(parents=True)
        save_file(model_tensors(state), partial / "model.safetensors")
        save_file({k: v.contiguous() for k, v in state.optimizer.state_dict().items()}, partial / "optimizer.safetensors")
        body = {
            "format": FORMAT,
            "step": state.step,
            "skipped": state.skipped,
            "files": {name: _digest(partial / name) for name in ("model.safetensors", "optimizer.safetensors")},
            **extra,
        }
        (partial / "state.json").write_text(json.dumps(body | {"digest": _body_digest(body)}))
        for file in partial.iterdir():
            _sync(file)
        os.replace(partial, target)
        _sync(target.parent)
    for old in checkpoints(run)[:-KEEP]:
        shutil.rmtree(old)
    return target


def model_tensors(state: TrainState) -> dict[str, torch.Tensor]:
    """Every parameter by name."""
    return {name: p.detach().contiguous() for name, p in state.model.named_parameters()}


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoint folders of a run, oldest first."""
    return sorted(p for p in (run / "state").glob("step-*") if p.suffix != ".partial")


def load_checkpoint(run: Path, state: TrainState) -> dict[str, Any] | None:
    """Loads the newest checkpoint that verifies into the state; returns its ``state.json``, or None where there is no checkpoint.

    Raises GroundupError naming the file when checkpoints exist and none verifies, UsageError when one is of another version.
    """
    broken = []
    for folder in reversed(checkpoints(run)):
        body, bad = _whole(folder)
        if body is None:
            broken.append(bad)
            continue
        device = next(state.model.parameters()).device
        state.model.load_state_dict(load_file(folder / "model.safetensors", device=str(device)))
        state.optimizer.load_state_dict(load_file(folder / "optimizer.safetensors"))
        state.step, state.skipped = body["step"], body["skipped"]
        return body
    if broken:
        raise GroundupError(f"{broken[0]}: damaged, and no older checkpoint is whole; start the run again")
    return None


def _whole(folder: Path) -> tuple[dict[str, Any] | None, Path]:
    """What a checkpoint's ``state.json`` says if every file is as it was written, else None and the first that is not.

    Raises UsageError for a checkpoint of another version.
    """
    file = folder / "state.json"
    try:
        body = json.loads(file.read_text())
        digest = body.pop("digest", None)
    except (OSError, ValueError, AttributeError):  # AttributeError: JSON, but no object
        return None, file
    if body.get("format") != FORMAT:
        raise UsageError(f"{folder}: written by another version (format {body.get('format')}, this one reads {FORMAT}); resume it there")
    if digest != _body_digest(body):
        return None, file
    bad = [folder / name for name, digest in body["files"].items() if not _verifies(folder / name, digest)]
    return (None, bad[0]) if bad else (body, file)


@contextlib.contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Lets no half-written folder keep a full disk full."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _verifies(path: Path, digest: str) -> bool:
    return path.is_file() and _digest(path) == digest


def _digest(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "blake2b").hexdigest()[:32]


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
