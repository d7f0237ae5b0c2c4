"""``groundup tokenizer``: the tokenizer alone, for those who came for it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional

from groundup.errors import UsageError
from groundup.tokenizer import Tokenizer, baselines
from groundup.tokenizer.formats.rank_files import PatternMissing

if TYPE_CHECKING:
    from groundup.evaluate.tokenizers import Coding, Comparison

STANDARD_INPUT = "-"
ANY_PATTERN = "any"


@dataclass(frozen=True)
class TrainTokenizer:
    """Learns a byte-level BPE vocabulary from text."""

    data: Positional[tuple[str, ...]] = ()
    """Files, folders, .jsonl or .parquet files, hub:owner/name[:subset]; none: the Python standard library of this machine."""
    vocab_size: int = 32_000
    """Ids wanted: 256 bytes, the merges and the special tokens."""
    out: Path = Path("tokenizer.json")
    """Where to write; a folder gets a tokenizer.json. Names that end in .tiktoken or vocab.json choose these formats."""
    pattern: str = "gpt2"
    """How text is cut before merging: gpt2, cl100k, o200k, qwen2, deepseek-v3, smollm, or a regular expression."""
    special_tokens: tuple[str, ...] = ("<|endoftext|>",)
    """Texts that are one token each."""
    ties: Literal["greatest", "huggingface"] = "greatest"
    """Which of equally frequent pairs is merged first: the lexicographically greater, or as Hugging Face's trainer has it."""
    memory_gb: float = 8.0
    """What different pre-tokens may take; beyond it the rarest do not count, as it then says."""
    text_field: str = "text"
    """Field of the text in JSONL and Parquet files."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Trains with a progress line, and writes the file whole."""
        from groundup.data import open_corpus
        from groundup.terminal import training_tokenizer

        corpus = open_corpus(self.data, text_field=self.text_field)
        texts = (document.text for document in corpus.documents())
        with training_tokenizer() as progress:
            tokenizer = Tokenizer.train(
                texts,
                self.vocab_size,
                pattern=self.pattern,
                special_tokens=self.special_tokens,
                ties=self.ties,
                memory_bytes=int(self.memory_gb * 1e9),
                progress=progress,
            )
        tokenizer.save(self.out)
        print(f"wrote {self.out}: {tokenizer.vocab_size:,} tokens; next: groundup tokenizer show {self.out} --text 'Hello, world!'")


@dataclass(frozen=True)
class Encode:
    """Prints the ids of a text, or writes them to a file of little-endian uint32."""

    tokenizer: Positional[Path]
    """A tokenizer.json, .tiktoken, vocab.json or SentencePiece .model, or a folder that holds one, such as a run."""
    file: Positional[str] = STANDARD_INPUT
    """The text; - is standard input."""
    out: Path | None = None
    """Write the ids here instead of printing them."""
    pattern: str | None = None
    """How text is cut, for a file that does not say it."""
    special: bool = False
    """Take the texts of special tokens as these tokens; otherwise they are text like any other."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Encodes all of the text."""
        tokenizer, text = _load(self.tokenizer, self.pattern), _read(self.file)
        ids = tokenizer.encode(text, allowed_special="all") if self.special else tokenizer.encode_ordinary(text)
        if self.out is None:
            print(*ids.tolist())
        else:
            from groundup.files import write_bytes

            write_bytes(self.out, ids.astype("<u4").tobytes())
            print(f"wrote {self.out}: {len(ids):,} ids")


@dataclass(frozen=True)
class Decode:
    """Writes the bytes of some ids to standard output."""

    tokenizer: Positional[Path]
    """A tokenizer.json, .tiktoken, vocab.json or SentencePiece .model, or a folder that holds one, such as a run."""
    ids: Positional[tuple[int, ...]] = ()
    """The ids; none reads them from standard input, as text."""
    file: Path | None = None
    """Read the ids from what ``encode --out`` wrote instead."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Decodes exactly: bytes that are no text come out as they were."""
        sys.stdout.buffer.write(_load(self.tokenizer, ANY_PATTERN).decode_bytes(self._ids()))
        sys.stdout.buffer.flush()

    def _ids(self) -> Sequence[int] | np.ndarray:
        if self.ids and self.file is not None:
            raise UsageError("give the ids or --file, not both")
        if self.file is not None:
            data = _read(str(self.file))
            if len(data) % 4:
                raise UsageError(f"{self.file}: {len(data):,} bytes are no whole number of uint32 ids")
            return np.frombuffer(data, "<u4")
        words = self.ids or sys.stdin.read().split()
        try:
            return [int(word) for word in words]
        except ValueError as e:
            raise UsageError(f"standard input: {str(e).rpartition(': ')[2]} is no id; give whole numbers between spaces") from None


@dataclass(frozen=True)
class Compare:
    """Vocabulary, compression, speed and the price of training of several tokenizers, on the same text."""

    files: Positional[tuple[Path, ...]]
    """The text."""
    tokenizers: tuple[str, ...]
    """Files or folders of tokenizers, or bytes, characters, words: the last two learned from the first half of each text."""
    json: bool = False
    """Print one machine-readable last line."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Prints a table; the first tokenizer is what lengths and FLOPs are compared with."""
        from groundup.config import to_dict
        from groundup.evaluate.tokenizers import compare
        from groundup.terminal import show_rows

        texts = [_read(str(file)) for file in self.files]
        compared = compare({name: _open(name, texts) for name in self.tokenizers}, texts)
        show_rows(_rows(compared))
        if self.json:
            print(json.dumps([to_dict(c) for c in compared]))


@dataclass(frozen=True)
class Show:
    """Colours the tokens of a text, in the terminal or as an HTML page."""

    tokenizer: Positional[Path]
    """A tokenizer.json, .tiktoken, vocab.json or SentencePiece .model, or a folder that holds one, such as a run."""
    file: Positional[str] = STANDARD_INPUT
    """The text; - is standard input."""
    text: str | None = None
    """The text itself, instead of a file."""
    pattern: str | None = None
    """How text is cut, for a file that does not say it."""
    html: Path | None = None
    """Write a page here instead, which shows each token's id and bytes when pointed at."""
    debug: bool = False
    """Show tracebacks."""

    def run(self) -> None:
        """Shows where one token ends and the next begins."""
        from groundup.terminal import show_tokens

        tokenizer = _load(self.tokenizer, self.pattern)
        ids = tokenizer.encode(_read(self.file) if self.text is None else self.text, allowed_special="all")
        tokens = [(i, tokenizer.token_bytes[i]) for i in ids.tolist()]
        if self.html is None:
            show_tokens(tokens)
        else:
            from groundup.files import write_file
            from groundup.report.tokens import token_page

            write_file(self.html, token_page("tokens of " + (self.file if self.text is None else "a text"), tokens))
            print(f"wrote {self.html}: {len(tokens):,} tokens")


def _rows(comparisons: Sequence[Comparison]) -> list[dict[str, str]]:
    """A table of tokenizers; lengths and FLOPs beside those of the first."""
    first = comparisons[0]
    return [
        {
            "tokenizer": c.name,
            "ids": f"{c.vocab_size:,}",
            "tokens": f"{c.n_tokens:,}",
            "bytes/id": f"{c.bytes_per_token:.2f}",
            "unknown": f"{c.unknown_rate:.2%}",
            "MB/s": f"{c.megabytes_per_s:.1f}",
            "length": f"x {c.n_tokens / first.n_tokens:.2f}",
            "FLOPs": f"x {c.training_flops / first.training_flops:.2f}",
        }
        for c in comparisons
    ]


def _open(name: str, texts: Sequence[bytes]) -> Coding:
    """The tokenizer of a file or folder, or a baseline by its name."""
    if name == "bytes":
        return baselines.ByteTokenizer()
    learners = {"characters": baselines.character_tokenizer, "words": baselines.word_tokenizer}
    return learners[name](text[: len(text) // 2] for text in texts) if name in learners else Tokenizer.load(name)


def _load(path: Path, pattern: str | None) -> Tokenizer:
    """The tokenizer of a file or folder; ANY_PATTERN for one that will not encode."""
    try:
        return Tokenizer.load(path, pattern=None if pattern == ANY_PATTERN else pattern)
    except PatternMissing as e:
        if pattern == ANY_PATTERN:
            return Tokenizer.load(path, pattern="gpt2")
        raise UsageError(str(e).replace("pass pattern=", "add --pattern ")) from None


def _read(file: str) -> bytes:
    """All bytes of a file, or of standard input."""
    if file == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as e:
        raise UsageError(f"{file}: cannot be read ({os.strerror(e.errno or 0)}); name a file that holds text") from e


Verb = (
    Annotated[TrainTokenizer, tyro.conf.subcommand("train")]
    | Annotated[Encode, tyro.conf.subcommand("encode")]
    | Annotated[Decode, tyro.conf.subcommand("decode")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Show, tyro.conf.subcommand("show")]
)


@dataclass(frozen=True)
class TokenizerRoom:
    """Trains, applies, compares and shows tokenizers."""

    verb: OmitSubcommandPrefixes[OmitArgPrefixes[Verb]]

    @property
    def debug(self) -> bool:
        """Whether to show tracebacks."""
        return self.verb.debug

    def run(self) -> None:
        """Runs the verb."""
        self.verb.run()
