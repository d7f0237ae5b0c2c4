"""Reads a run folder, however much of it there is: what is missing or broken becomes a note, not an error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from groundup.errors import GroundupError, UsageError

Record = dict[str, Any]

MARKERS = ("manifest.json", "metrics.jsonl", "config.json")
"""A folder with any of these is a run."""

_LOST = {
    "manifest.json": "no plan, corpus, environment or command can be shown",
    "metrics.jsonl": "no curves, phases or evaluations can be shown",
    "samples.jsonl": "no samples can be shown",
    "config.json": "the model's configuration cannot be shown",
}


@dataclass(frozen=True)
class Run:
    """The files of one run, sorted by kind; lists and dictionaries are empty where a file is missing."""

    path: Path
    """The folder."""
    manifest: Record
    """manifest.json: command, corpus, environment, plan, status."""
    config: Record
    """config.json: the model's tree."""
    train: list[Record]
    """One record a logged training step, steps ascending."""
    evaluations: list[Record]
    """Held-out evaluations, in order."""
    phases: dict[str, float]
    """Seconds of each phase, in the order in which they began."""
    events: list[Record]
    """Skipped steps, resumes, signals."""
    samples: list[Record]
    """Texts that the model wrote at stages of its training."""
    parse_rates: list[Record]
    """Mean shares of its lines in a beginning that parses as Python, by step."""
    notes: tuple[str, ...]
    """What a reader must know of the files: missing, broken, superseded."""


def number(value: Any) -> float | None:
    """The value as a finite float, or None for anything else (text, booleans, NaN)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond float64
        return None


def dig(tree: Any, *keys: str) -> Any:
    """The value under a path of keys, or None as soon as a step is missing or not an object."""
    for key in keys:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(key)
    return tree


def column(records: Sequence[Record], *keys: str) -> Float64[np.ndarray, " n"]:
    """One number a record, NaN where the record has none under this path of keys."""
    values = (number(dig(record, *keys)) for record in records)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def is_run(path: Path) -> bool:
    """Whether the folder holds any of the files that make a run."""
    return any((path / name).is_file() for name in MARKERS)


def read_run(path: Path) -> Run:
    """Reads what is there of a run.

    Raises UsageError if the folder is missing or no run at all, GroundupError if a file cannot be opened.
    A last line cut off by a kill is skipped and counted; records that a resumed run wrote again supersede the earlier ones.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; give a run folder, such as one that `groundup train` made")
    if not is_run(path):
        raise UsageError(f"{path}: not a run folder (none of {', '.join(MARKERS)} is in it); give one that `groundup train` made")
    notes: list[str] = []
    manifest = _read_object(path / "manifest.json", notes)
    config = _read_object(path / "config.json", notes)
    metrics = _read_lines(path / "metrics.jsonl", notes)
    samples = _read_lines(path / "samples.jsonl", notes)
    by_kind: dict[Any, list[Record]] = {}
    for record in metrics:
        by_kind.setdefault(str(record.get("kind")), []).append(record)
    train = _last_attempt(by_kind.get("train", []))
    evaluations = [
        r for split in ("validation", "test") for r in _last_attempt(r for r in by_kind.get("evaluation", []) if r.get("split") == split)
    ]
    repeated = len(by_kind.get("train", [])) - len(train)
    if repeated:
        notes.append(f"metrics.jsonl: {repeated} training steps were done again after a resume; the last attempt is shown.")
    phases: dict[str, float] = {}
    for record in by_kind.get("phase", []):
        name = str(record.get("name"))
        phases[name] = phases.get(name, 0.0) + (number(record.get("seconds")) or 0.0)
    rates = [r for r in samples if "parse_rate" in r]
    by_prompt: dict[Any, list[Record]] = {}
    for record in samples:
        if "parse_rate" not in record:
            by_prompt.setdefault(str(record.get("prompt")), []).append(record)
    texts = sorted(chain.from_iterable(map(_last_attempt, by_prompt.values())), key=lambda r: number(r.get("step")) or 0.0)
    return Run(path, manifest, config, train, evaluations, phases, by_kind.get("event", []), texts, _last_attempt(rates), tuple(notes))


def _read_bytes(path: Path, notes: list[str]) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        notes.append(f"{path.name} is missing: {_LOST[path.name]}.")
        return None
    except OSError as error:
        raise GroundupError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error


def _read_object(path: Path, notes: list[str]) -> Record:
    data = _read_bytes(path, notes)
    if data is None:
        return {}
    value = _parse(data)
    if value is None:
        notes.append(f"{path.name} is not a JSON object: {_LOST[path.name]}.")
    return value or {}


def _read_lines(path: Path, notes: list[str]) -> list[Record]:
    data = _read_bytes(path, notes)
    if data is None:
        return []
    lines = [line for line in data.split(b"\n") if line.strip()]
    records = [record for record in map(_parse, lines) if record is not None]
    broken = len(lines) - len(records)
    if broken:
        notes.append(f"{path.name}: {broken} broken {'line was' if broken == 1 else 'lines were'} skipped.")
    if not lines:
        notes.append(f"{path.name} is empty: {_LOST[path.name]}.")
    return records


def _parse(data: bytes) -> Record | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, or nested beyond reason
        return None
    return value if isinstance(value, dict) else None


def _last_attempt(records: Iterable[Record]) -> list[Record]:
    """A record whose step is not beyond an earlier one's was written again after a resume, and replaces what it repeats."""
    kept: list[Record] = []
    for record in records:
        step = number(record.get("step"))
        while step is not None and kept and (number(kept[-1].get("step")) or 0.0) >= step:
            kept.pop()
        kept.append(record)
    return kept
