"""Checkpoints: complete, atomic, verified."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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

    The folder gets its name only once every byte is on disk, so a kill at any moment leaves the previous checkpoint whole.
    """
    target = run / "state" / f"step-{state.step:08d}"
    partial = target.with_name(target.name + ".partial")
    with disk_errors(target):
        shutil.rmtree(partial, ignore_errors=True)
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
        shutil.rmtree(target, ignore_errors=True)
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
        try:
            body = json.loads((folder / "state.json").read_text())
            digest = body.pop("digest", None)
        except (OSError, ValueError, AttributeError):  # AttributeError: JSON, but no object
            broken.append(folder / "state.json")
            continue
        if body.get("format") != FORMAT:
            raise UsageError(
                f"{folder}: written by another version (format {body.get('format')}, this one reads {FORMAT}); resume it there"
            )
        if digest != _body_digest(body):
            broken.append(folder / "state.json")
            continue
        bad = [folder / name for name, digest in body["files"].items() if not _verifies(folder / name, digest)]
        if bad:
            broken += bad
            continue
        device = next(state.model.parameters()).device
        state.model.load_state_dict(load_file(folder / "model.safetensors", device=str(device)))
        state.optimizer.load_state_dict(load_file(folder / "optimizer.safetensors"))
        state.step, state.skipped = body["step"], body["skipped"]
        return body
    if broken:
        raise GroundupError(f"{broken[0]}: damaged, and no older checkpoint is whole; start the run again")
    return None


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
