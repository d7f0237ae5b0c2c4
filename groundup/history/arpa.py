"""ARPA files: the field's text format of back-off models (Stolcke 2002), as KenLM reads and writes it.

    \\data\\
    ngram 1=...                     how many n-grams of each length

    \\1-grams:
    log10 p <tab> words [<tab> log10 backoff]

    \\end\\
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import numpy as np
from jaxtyping import Float64, Int64

from groundup.errors import UsageError
from groundup.files import disk_errors, settle
from groundup.history.counts import index_type
from groundup.history.ngram import NgramModel
from groundup.history.symbols import BEGIN, END, UNKNOWN, Symbols, Words, split_words
from groundup.kernels import arpa_lines

IMPOSSIBLE = -99.0
"""log10 of what is never seen, as SRILM writes it: an ARPA file has no -inf."""
LINES_AT_ONCE = 1 << 18
UNIGRAM_TOLERANCE = 0.01
"""How far above one the sum of a file's 1-grams may be: some are written with two decimals. Below it, scores are only worse."""


def write_arpa(model: NgramModel, path: str | os.PathLike[str]) -> None:
    """Writes a model whose symbols have names without white space.

    The begin symbol's own probability is written as 1, as lmplz does. Numbers have 7 decimals, so a score of n numbers is within n / 2
    10^-7 of the model's. Raises UsageError for one that normalizes each context apart (stupid backoff), which the format cannot say;
    GroundupError where the file cannot be written.
    """
    if len(model.scale):
        raise UsageError(f"{model.name}: an ARPA file cannot say what each context is normalized by; write a Kneser-Ney model")
    names = [name.encode("utf-8", "surrogateescape") for name in model.symbols.names]
    if bad := [name for name in model.symbols.names if split_words(name) != [name]]:
        raise UsageError(f"an ARPA file cannot hold the symbol {bad[0]!r}, for it is empty or has white space in it")
    lengths = np.array([len(name) for name in names])
    blob, name_starts = np.frombuffer(b"".join(names), np.uint8), np.concatenate([[0], np.cumsum(lengths)])
    partial = Path(f"{os.fspath(path)}.partial")
    with disk_errors(Path(path)):
        with partial.open("wb") as file:
            sizes = np.diff(model.levels[1:])
            file.write(b"\\data\\\n" + b"".join(b"ngram %d=%d\n" % (k, n) for k, n in enumerate(sizes, 1)))
            for k in range(1, model.order + 1):
                file.write(b"\n\\%d-grams:\n" % k)
                for begin in range(model.levels[k], model.levels[k + 1], LINES_AT_ONCE):
                    _write(model, k, begin, min(begin + LINES_AT_ONCE, model.levels[k + 1]), blob, name_starts, file)
            file.write(b"\n\\end\\\n")
        settle(partial, Path(path))


def _write(model: NgramModel, k: int, begin: int, end: int, blob: np.ndarray, name_starts: np.ndarray, file: BinaryIO) -> None:
    """Lines of the nodes begin .. end - 1, which are n-grams of k tokens."""
    nodes, columns = np.arange(begin, end), []
    for _ in range(k):
        columns.append(model.token[nodes])
        nodes = np.searchsorted(model.first, nodes, side="right") - 1  # parents
    grams = np.stack(columns[::-1], axis=1).astype(np.int64)
    prob = model.prob[begin:end].astype(np.float64)
    if k == 1:
        prob[model.begin] = 1
    backoff = model.backoff[begin:end] if k < model.order else model.backoff[:0]
    name_bytes = int(np.diff(name_starts)[grams].sum())
    out = np.empty(name_bytes + len(grams) * (k + 2 * arpa_lines.NUMBER_BYTES + 2), np.uint8)
    size = arpa_lines.write_lines(grams, _log10(prob), _log10(backoff.astype(np.float64)), blob, name_starts, out)
    file.write(out[:size].data)


def _log10(p: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.log10(np.maximum(p, 10**IMPOSSIBLE))


def read_arpa(path: str | os.PathLike[str], *, symbols: Symbols | None = None) -> NgramModel:
    """Reads a model; its symbols are the words of the file (``<unk>``, ``<s>``, ``</s>`` first), unless others are given.

    Raises UsageError naming the line where the file is not what it says: wrong counts, words without a 1-gram, an n-gram twice or without
    the shorter ones that it is made of (a hole), numbers that are none, or no end; and for 1-grams of more than probability one.
    """
    name = os.fspath(path)
    try:
        with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = _Lines(name, file)
            sizes = _read_counts(lines)
            number = {word: i for i, word in enumerate((UNKNOWN, BEGIN, END) if symbols is None else symbols.names)}
            sections = [_read_section(lines, k, size, k == len(sizes), number, symbols is None) for k, size in enumerate(sizes, 1)]
            lines.expect("\\end\\")
    except OSError as e:
        raise UsageError(f"{name}: cannot be read as an ARPA file: {e.strerror}") from e
    return _Builder(name, sections, symbols or Words(tuple(number))).model()


class _Section(NamedTuple):
    """The n-grams of one length, in the order of the file."""

    grams: Int64[np.ndarray, "m k"]
    """Their words' numbers."""
    log_prob: Float64[np.ndarray, " m"]
    log_backoff: Float64[np.ndarray, " m"]
    line: Int64[np.ndarray, " m"]
    """The number of each one's line."""


class _Lines:
    """A file's lines with their numbers."""

    def __init__(self, name: str, file: TextIO):
        self.name, self._file, self.number = name, file, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            yield line.rstrip("\r\n")

    def filled(self) -> str:
        """The next line that is not blank; UsageError where there is none."""
        for line in self:
            if line and not line.isspace():
                return line
        raise UsageError(f"{self.name}: ends after line {self.number}, before \\end\\: the file was cut short, get it again")

    def expect(self, wanted: str) -> None:
        """The next line that is not blank must be this."""
        if (line := self.filled()).strip() != wanted:
            raise self.wrong(f"{wanted} should stand here, not {line[:60]!r}")

    def wrong(self, what: str) -> UsageError:
        """The error, with its place."""
        return UsageError(f"{self.name}: line {self.number}: {what}")


def _read_counts(lines: _Lines) -> list[int]:
    line = lines.filled()
    while line.startswith("#"):
        line = lines.filled()
    if line.strip() != "\\data\\":
        raise lines.wrong(f"an ARPA file starts with \\data\\, not {line[:60]!r}")
    sizes: list[int] = []
    for line in lines:
        if not line or line.isspace():
            break
        k, _, n = line.removeprefix("ngram ").partition("=")
        if not (line.startswith("ngram ") and k.strip() == str(len(sizes) + 1) and n.strip().isdecimal()):
            raise lines.wrong(f"'ngram {len(sizes) + 1}=' and a number should stand here, not {line[:60]!r}")
        sizes.append(int(n))
    if not sizes:
        raise lines.wrong("no line says how many n-grams there are ('ngram 1=...')")
    return sizes


def _read_section(lines: _Lines, k: int, size: int, longest: bool, number: dict[str, int], learn: bool) -> _Section:
    """Reads n-grams of k words; ``number`` says which word is which, and learns those of 1-grams if asked to."""
    lines.expect(f"\\{k}-grams:")
    grams, numbers, places = array("q"), array("d"), array("q")
    for row in range(size):
        line = lines.filled()
        fields = split_words(line)
        if line.startswith("\\") and len(fields) == 1:
            raise lines.wrong(f"{line.strip()} comes after {row:,} {k}-grams, the head of the file says {size:,}")
        if not k + 1 <= len(fields) <= k + 2 - longest:
            raise lines.wrong(f"a {k}-gram has a number, {k} words{'' if longest else ' and a number or none'}, not {len(fields)} fields")
        for word in fields[1 : k + 1]:
            if word not in number:
                if not (learn and k == 1):
                    raise lines.wrong(f"{word!r} has no 1-gram" if learn else f"{word!r} is not one of the symbols given")
                number[word] = len(number)
            grams.append(number[word])
        try:
            prob, backoff = float(fields[0]), float(fields[k + 1]) if len(fields) == k + 2 else 0.0
        except ValueError:
            prob = backoff = math.nan
        if not (prob <= 0 and abs(backoff) < math.inf):
            raise lines.wrong(
                f"{fields[0]} and {' '.join(fields[k + 1 :]) or 0} should be the log10 of a probability and of a back-off weight"
            )
        numbers.extend((prob, backoff))
        places.append(lines.number)
    both = np.array(numbers).reshape(-1, 2)
    return _Section(np.array(grams, np.int64).reshape(-1, k), both[:, 0], both[:, 1], np.array(places, np.int64))


class _Builder:
    """Makes a trie of sections. Numbers count from 0 within a length, in sorted order."""

    def __init__(self, name: str, sections: list[_Section], symbols: Symbols):
        self.name, self.sections, self.symbols = name, sections, symbols
        self.keys: list[np.ndarray] = []  # (number of the n-gram without its last token) * V + last token, sorted

    def model(self) -> NgramModel:
        v, order = self.symbols.vocab_size, len(self.sections)
        levels, missing = [self._unigrams()], [w for w, there in zip(self.symbols.names, self.seen, strict=True) if not there]
        for k in range(2, order + 1):
            levels.append(self._longer(k))
        starts = [0, 1, *(1 + np.cumsum([len(level[0]) for level in levels])).tolist()]
        n = starts[-1]
        first = np.full(starts[-2] + 1, n, index_type(n))
        first[0] = 1
        for k in range(1, order):
            parents = self.keys[k] // v
            sizes = np.bincount(parents, minlength=starts[k + 1] - starts[k])
            first[starts[k] : starts[k + 1]] = starts[k + 1] + np.cumsum(sizes) - sizes
        token, suffix, prob, backoff = (np.concatenate([level[i] for level in levels]) for i in range(4))
        suffix += np.repeat(starts[:-2], np.diff(starts[1:]))
        head = [np.zeros(1, token.dtype), np.zeros(1, suffix.dtype), np.full(1, 1 / (v - 1)), np.ones(1)]
        token, suffix, prob, backoff = (np.concatenate(pair) for pair in zip(head, (token, suffix, prob, backoff), strict=True))
        notes = (f"not in the file, so of probability 0: {' '.join(missing[:5])}",) if missing else ()
        return NgramModel(
            Path(self.name).name,
            order,
            tuple(starts),
            token.astype(np.uint32),
            first,
            suffix.astype(index_type(n)),
            prob.astype(np.float32),
            backoff[: starts[-2]].astype(np.float32),
            self.symbols.begin,
            self.symbols,
            notes=notes,
        )

    def _unigrams(self) -> tuple[np.ndarray, ...]:
        section, v = self.sections[0], self.symbols.vocab_size
        ids = section.grams[:, 0]
        self.seen = np.zeros(v, np.bool_)
        self.seen[ids] = True
        if not self.seen[self.symbols.begin]:
            raise UsageError(f"{self.name}: {self.symbols.names[self.symbols.begin]} has no 1-gram, so nothing says how sentences begin")
        self._sorted(section, ids)
        prob, backoff = np.zeros(v), np.ones(v)
        prob[ids], backoff[ids] = 10**section.log_prob, 10**section.log_backoff
        prob[self.symbols.begin] = 0
        if prob.sum() > 1 + UNIGRAM_TOLERANCE:
            raise UsageError(
                f"{self.name}: its 1-grams have a probability of {prob.sum():.4g} together, so its scores would promise too much"
            )
        self.keys.append(np.arange(v))
        return np.arange(v), np.zeros(v, np.int64), prob, backoff

    def _longer(self, k: int) -> tuple[np.ndarray, ...]:
        section = self.sections[k - 1]
        ids = section.grams
        parents = self._node(section, ids[:, :-1])
        keys = parents * self.symbols.vocab_size + ids[:, -1]
        order = self._sorted(section, keys)
        suffix = self._node(section, ids[:, 1:])
        self.keys.append(keys[order])
        return ids[order, -1], suffix[order], 10 ** section.log_prob[order], 10 ** section.log_backoff[order]

    def _node(self, section: _Section, ids: Int64[np.ndarray, "m j"]) -> Int64[np.ndarray, " m"]:
        """The numbers of these n-grams of j tokens, which must be there."""
        node = ids[:, 0] if self.seen.all() else np.where(self.seen[ids[:, 0]], ids[:, 0], -1)
        for j in range(ids.shape[1]):
            if j > 0:
                keys, wanted = self.keys[j], node * self.symbols.vocab_size + ids[:, j]
                place = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
                node = np.where(keys[place] == wanted, place, -1) if len(keys) else np.full(len(ids), -1)
            if (gone := node < 0).any():
                row = int(gone.argmax())
                words = " ".join(self.symbols.names[i] for i in ids[row, : j + 1])
                raise self._wrong(section, row, f"a part of this n-gram, {words!r}, is not in the file: it has a hole")
        return node

    def _sorted(self, section: _Section, keys: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        order = np.argsort(keys, kind="stable")
        if (twice := keys[order[1:]] == keys[order[:-1]]).any():
            row = int(order[1:][twice].min())
            raise self._wrong(
                section, row, f"{' '.join(self.symbols.names[i] for i in section.grams[row])!r} stands here for the second time"
            )
        return order

    def _wrong(self, section: _Section, row: int, what: str) -> UsageError:
        return UsageError(f"{self.name}: line {section.line[row]}: {what}")
