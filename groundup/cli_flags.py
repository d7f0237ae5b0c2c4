"""Which flags a command was given, and whether they can be: checked before anything is counted or printed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from groundup.errors import UsageError


def flag(name: str) -> str:
    """A field as it is typed: seq_len -> --seq-len."""
    return "--" + name.replace("_", "-")


def refuse_without_part(command: Any, used: Collection[str], what: str, only_with: Mapping[str, str] | None = None) -> None:
    """UsageError for a flag that was given, differs from its default, and has no part in ``what``, such as "what a model serves".

    ``only_with`` says beside which other flag it has one.
    """
    for field in dataclasses.fields(command):
        if field.default is not dataclasses.MISSING and field.name not in used and getattr(command, field.name) != field.default:
            name = "the model" if field.name == "model" else flag(field.name)
            other = (only_with or {}).get(field.name)
            raise UsageError(f"{name} has no part in {what}: leave it out" + (f", or give {other} too" if other else ""))


def check_counts(command: Any, names: Iterable[str]) -> None:
    """UsageError for a count below 1; None is none given."""
    for name in names:
        value = getattr(command, name)
        if value is not None and value < 1:
            raise UsageError(f"{flag(name)} {value}: give at least 1")


def check_share(command: Any, name: str) -> None:
    """UsageError for a share of the peak that is not above 0 and at most 1; None is none given."""
    value = getattr(command, name)
    if value is not None and not 0 < value <= 1:
        raise UsageError(f"{flag(name)} {value}: give a share of the peak, above 0 and at most 1")


def check_above_zero(command: Any, name: str, what: str) -> None:
    """UsageError for ``what``, such as "a price", that is not above 0 or not finite; None is none given."""
    value = getattr(command, name)
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"{flag(name)} {value}: give {what} above 0")


def check_picture(path: Path | None) -> None:
    """UsageError for a picture that cannot be written: another suffix, or a folder that is not there; None is none asked for."""
    if path is None:
        return
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--plot {path}: a picture is written as .png or .svg; choose one of these names")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}; make it first, or choose another")
