"""The road from end to end: stops one after another within a budget, kept as they finish.

A budget covers everything from the reading of the text to the last picture. What is left when a stop begins is shared evenly by the
stops to come; a stop's share holds the choice of its size, its training, its scoring and its sample. Those that count come first: they
mostly need less than their share. The whole run of ``groundup train`` is next: of all it is the least sure to keep to its seconds on a busy
machine. The networks come last, for they train by the clock and so end in time, whatever the others took. The same command goes on where
it was stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from groundup import ahead
from groundup.account import format_bytes, format_seconds
from groundup.errors import UsageError
from groundup.files import disk_errors, write_file
from groundup.history.compressors import Compressed, available, compress
from groundup.history.counting import documents
from groundup.history.shannon import LETTERS, entropies, to_letters
from groundup.history.stops import STOPS, TODAY
from groundup.history.study import Result, Stop, Text, read_text, run_stop
from groundup.history.suffix import SUFFIXES
from groundup.job import COUNTING
from groundup.runfolder import environment
from groundup.tokenizer.tokenizer import COMPILED

RECORD = "history.json"
COMPRESSION_SHARE = 0.05
"""Of the budget, for all compressors together."""
AFTER_SHARE, AFTER_S = 0.01, 2.5
"""Of the budget, and seconds of a processor besides, for table, picture and page."""
MOST_BUSY = 3.0
"""Seconds that a second of the processor is believed to take at most: reading the text, which tells, may have waited for a disk."""
ENTROPY_BYTES, LONGEST = 2_000_000, 3
"""How much of the text Shannon's entropies are measured on, and of blocks of how many symbols: longer ones would be rare there."""
LEAST_SHARE_S = 1.0
"""A stop's share below which its numbers would mean nothing."""


def title(road: Road) -> str:
    """What was read and what is scored."""
    return (
        f"{road.text}: {format_bytes(road.n_bytes['train'])} to learn from, {road.n_bytes['test']:,} held-out bytes "
        f"in {road.n_pieces} pieces, each read from its beginning"
    )


@dataclass
class Road:
    """What was asked for, and what has come of it so far."""

    text: str
    """Name of the corpus."""
    digest: str
    """Hash of all that is trained on and scored."""
    n_bytes: dict[str, int]
    """Bytes of each part of the text."""
    budget_s: float
    """Seconds that all may take."""
    n_pieces: int
    """Pieces of held-out text."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Hardware and versions."""
    results: list[Result] = field(default_factory=list)
    """Finished stops, in the order of their years."""
    compressed: list[Compressed] = field(default_factory=list)
    """What compressors make of the same bytes."""
    entropies: dict[str, list[float]] = field(default_factory=dict)
    """Shannon's F_0, F_1, ... of a part of the training text, in bits a symbol, by kind of symbol."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Stops that could not be had, each with its reason."""
    spent_s: float = 0.0
    """Seconds spent in all, those of an attempt that was interrupted too."""

    def save(self, folder: Path) -> None:
        """Writes the record whole."""
        write_file(folder / RECORD, json.dumps(asdict(self), indent=1))


class Listener:
    """What the road tells as it goes."""

    def text(self, text: Text, road: Road, left: int) -> None:
        """The text is read; so many stops are left to do."""

    def begin(self, stop: Stop, seconds: float) -> None:
        """A stop begins, with this share."""

    def tell(self, progress: float, words: str) -> None:
        """How far it is."""

    def done(self, result: Result) -> None:
        """It is finished."""

    def left_out(self, stop: Stop, why: str) -> None:
        """It could not be had."""


def choose(keys: Sequence[str]) -> list[Stop]:
    """The stops of these keys, all where none are given; UsageError naming an unknown one."""
    known = {stop.key: stop for stop in STOPS}
    for key in keys:
        if key not in known:
            raise UsageError(f"--stops {key}: there is no such stop; known: {', '.join(known)}")
    return [stop for stop in STOPS if not keys or stop.key in keys]


def travel(
    sources: Sequence[str],
    budget_s: float,
    stops: Sequence[Stop],
    folder: Path,
    *,
    text_field: str = "text",
    listener: Listener | None = None,
    clock: Callable[[], float] = time.monotonic,
    began: float | None = None,
) -> Road:
    """Reads the text, does the stops that the folder does not hold yet, and returns the record, which the folder holds after each stop.

    ``began`` is when the budget began, by the clock. Raises UsageError for a folder that holds another road, and for a budget that leaves
    less than a second a stop, with the least that would do; a road that goes on leaves out what its budget no longer holds.
    """
    began, listener = clock() if began is None else began, listener or Listener()
    started, used = clock(), time.thread_time()
    text = read_text(sources, budget_s, text_field)
    busy = min(max(1.0, (clock() - started) / max(1e-3, time.thread_time() - used)), MOST_BUSY)
    road = _opened(folder, text, budget_s)
    before = road.spent_s
    known = {result.key for result in road.results} | set(road.left_out)
    left = [stop for stop in stops if stop.key not in known]
    left.sort(key=lambda stop: (stop.family != "counting", stop is not TODAY))
    listener.text(text, road, len(left))
    if not left:
        return road

    def remaining() -> float:
        return budget_s * (1 - AFTER_SHARE) - AFTER_S * busy - before - (clock() - began)

    def keep() -> None:
        road.spent_s = before + clock() - began
        road.save(folder)

    ahead.begin((SUFFIXES, COUNTING), (COMPILED,))  # now, and not in one stop's share
    compression = COMPRESSION_SHARE * budget_s * (not road.compressed)
    share = (remaining() - compression) / len(left)
    if not before and share < LEAST_SHARE_S:
        least = budget_s - remaining() + compression + len(left) * LEAST_SHARE_S * 1.2
        raise UsageError(
            f"--budget {format_seconds(budget_s)} leaves {max(0.0, share):.1f} s for each of {len(left)} stops: give at least "
            f"{format_seconds(least)}, or fewer stops with --stops"
        )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        if not road.entropies:
            road.entropies = measured_entropies(text)
        if not road.compressed:
            names = available()
            joined, held_out = b"".join(text.train), b"".join(text.test)
            road.compressed = [compress(name, joined, held_out, compression / len(names)) for name in names]
        for i, stop in enumerate(left):
            _do(road, stop, text, remaining() / (len(left) - i), listener)
            keep()
    finally:  # an attempt that ends here is paid for too
        keep()
    return road


def measured_entropies(text: Text) -> dict[str, list[float]]:
    """Shannon's F_0 .. F_LONGEST of a part of the training text, as 27 letters and as bytes; of letters only where there are any."""
    parts = documents(text, ENTROPY_BYTES)
    kinds = {"27 letters": ([to_letters(part.astype(np.uint8).tobytes()) for part in parts], len(LETTERS)), "bytes": (parts, 256)}
    found = {}
    for name, (symbols, n_symbols) in kinds.items():
        with contextlib.suppress(UsageError):  # no blocks of so many
            found[name] = entropies(symbols, n_symbols=n_symbols, longest=LONGEST).tolist()
    return found


def _do(road: Road, stop: Stop, text: Text, share: float, listener: Listener) -> None:
    """One stop, whose result, or the reason why there is none, is put into the record."""
    listener.begin(stop, share)
    try:
        if share < LEAST_SHARE_S:
            raise UsageError(f"{max(0.0, share):.1f} s of the budget were left for it: give a larger --budget and another --out")
        result = run_stop(stop, text, share, listener.tell)
    except UsageError as e:  # too little text or time for this one: the others go on
        road.left_out[stop.key] = str(e)
        listener.left_out(stop, str(e))
    else:
        order = [s.key for s in STOPS]
        road.results = sorted([*road.results, result], key=lambda r: order.index(r.key))
        listener.done(result)


def read_road(folder: Path) -> Road:
    """The record of a folder; UsageError if it holds none that can be read."""
    file = folder / RECORD
    try:
        return from_record(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise UsageError(f"{file}: is no record of a road ({type(e).__name__}): choose another --out, or remove it") from e


def from_record(values: dict[str, Any]) -> Road:
    """A road from its fields as plain JSON types; what else there is, as in a benchmark's result file, is left."""
    known = {f.name: values[f.name] for f in fields(Road) if f.name in values}
    results = [Result(**{**r, "interval": r["interval"] and tuple(r["interval"])}) for r in values["results"]]
    return Road(**known | {"results": results, "compressed": [Compressed(**c) for c in values["compressed"]]})


def _opened(folder: Path, text: Text, budget_s: float) -> Road:
    """The folder's record where it is of the same text and budget; a new one where there is none."""
    if not (folder / RECORD).exists():
        return Road(
            text.name, text.digest, text.n_bytes, budget_s, len(text.test), environment("cpu") | {"load_average": os.getloadavg()[0]}
        )
    road = read_road(folder)
    if (road.digest, road.budget_s) != (text.digest, budget_s):
        raise UsageError(f"{folder} holds a road of another text or budget: choose another --out, or remove it")
    return road
