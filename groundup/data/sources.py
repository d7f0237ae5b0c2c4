"""Where text comes from: files, folders, the Hugging Face hub, and the library that every Python carries."""

from __future__ import annotations

import ast
import glob
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from groundup.data.formats import BinaryFileError, Document, read_documents, require
from groundup.errors import UsageError

STDLIB = "stdlib"
HUB = "hub:"
NOT_LIBRARY = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"})
"""Folders inside the standard library that hold compiled files, other people's packages, or tests."""
HUB_FILE = re.compile(r"\.(parquet|jsonl(\.gz|\.zst)?|txt(\.gz|\.zst)?)$")


class Source(NamedTuple):
    """One place that gives documents, as often as asked."""

    given: str
    """As the user wrote it."""
    name: str
    """A short name, for ids and titles."""
    read: Callable[[Counter[str]], Iterator[Document]]
    """Its documents; what is passed over is counted by reason in the argument."""


def open_source(given: str, text_field: str) -> Source:
    """Finds the source that the user named: ``stdlib``, ``hub:owner/name[:subset]``, a file or a folder.

    Raises UsageError when there is nothing of that name, an empty folder, or no way to reach the hub.
    """
    if given == STDLIB:
        return _stdlib(Path(sysconfig.get_paths()["stdlib"]))
    if given.startswith(HUB):
        return _hub(given, text_field)
    if not given:
        raise UsageError("--data '': an empty name, perhaps of a variable that is not set; name a file or a folder (. is this one)")
    try:
        path = Path(given).expanduser()
        path.stat()
    except FileNotFoundError:
        raise UsageError(f"--data {given}: does not exist; name a file, a folder, {STDLIB} or {HUB}owner/name") from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a home that nobody has; ValueError: a NUL
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise UsageError(f"--data {given[:80]}: cannot be opened ({reason}); name a file or a folder") from error
    if path.is_dir():
        files = _files_under(path)
        if not files:
            raise UsageError(f"--data {given}: the folder holds no files (hidden ones are not read): name one that does")
        return _folder(given, path, files, text_field)
    if path.is_file():
        return Source(given, path.name, lambda skipped: read_documents(path, path.name, text_field))
    raise UsageError(f"--data {given}: is neither a file nor a folder; name a file, a folder, {STDLIB} or {HUB}owner/name")


def _folder(given: str, folder: Path, files: Sequence[str], text_field: str) -> Source:
    def read(skipped: Counter[str]) -> Iterator[Document]:
        for file in files:
            try:
                yield from read_documents(folder / file, file, text_field)
            except BinaryFileError:
                skipped["binary"] += 1

    return Source(given, folder.resolve().name or "files", read)


def _files_under(folder: Path, skipped_folders: frozenset[str] = frozenset()) -> list[str]:
    """Every regular file under the folder, as a sorted list of relative paths with ``/``; nothing hidden, no folder through a link."""
    found = []
    for root, folders, files in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped_folders]
        paths = (Path(root, name) for name in files if not name.startswith("."))
        found += [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    return sorted(found)


def _raise_unreadable(error: OSError) -> None:
    raise UsageError(f"--data: the folder {error.filename} cannot be read ({error.strerror}): check its permissions") from error


def _stdlib(folder: Path) -> Source:
    """Every ``.py`` file of the running Python's standard library, and its documentation topics, each a document."""
    topics = "pydoc_data/topics.py"
    # An embedded Python keeps its library in a zip file of compiled code.
    files = [file for file in _files_under(folder, NOT_LIBRARY) if file.endswith(".py")] if folder.is_dir() else []
    if not files:
        raise UsageError(f"--data {STDLIB}: this Python has no library sources in {folder}: name a file or a folder instead")

    def read(skipped: Counter[str]) -> Iterator[Document]:
        for file in files:
            if file == topics:
                yield from _topic_documents(folder / file, file.removesuffix(".py"))
            else:
                yield from read_documents(folder / file, file, text_field="")

    return Source(STDLIB, STDLIB, read)


def _topic_documents(path: Path, id: str) -> Iterator[Document]:
    """The values of the dictionary ``topics`` that the file defines, found without running it."""
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for key, value in sorted(ast.literal_eval(statement.value).items()):
                yield Document(f"{id}/{key}", value.encode())


def _hub(given: str, text_field: str) -> Source:
    """The data files of a dataset on the hub, or those under its folder ``subset``, downloaded (again only what is missing)."""
    hub = require("huggingface_hub", f"--data {given}")
    errors = require("huggingface_hub.errors", f"--data {given}")
    repository, _, subset = given.removeprefix(HUB).partition(":")
    try:
        info = hub.HfApi().dataset_info(repository)
        files = [file.rfilename for file in info.siblings or () if HUB_FILE.search(file.rfilename)]
        chosen = sorted(file for file in files if not subset or f"/{subset}/" in f"/{file}" or file == subset)
        if not chosen:
            folders = sorted({file.rpartition("/")[0] or "(top)" for file in files})
            held = f"it has them in {', '.join(folders[:20])}" if files else "name another dataset"
            raise UsageError(f"--data {given}: no parquet, jsonl or txt files under {subset or repository!r}: {held}")
        # The commit, not the branch: every file is of one version, and a second download finds the first.
        folder = hub.snapshot_download(
            repository, repo_type="dataset", revision=info.sha, allow_patterns=[glob.escape(file) for file in chosen]
        )
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UsageError(f"--data {given}: the hub has no dataset {repository!r} that you may read: check owner/name and access") from error
    except (OSError, errors.HTTPError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(
            f"--data {given}: the download failed ({reason}): check the network and run again to go on, or name local files"
        ) from error
    return _folder(given, Path(folder), chosen, text_field)._replace(name=repository.rpartition("/")[2])
