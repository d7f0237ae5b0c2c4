"""Tokenizers as files: read from and written to the formats that others use.

| file | whose | read | written |
|-|-|-|-|
| ``tokenizer.json`` | Hugging Face ``tokenizers`` | byte-level BPE, and BPE with byte fallback | both |
| ``*.tiktoken`` | tiktoken | tokens in order of rank; pattern and special tokens of the known ones, or as given | tokens |
| ``vocab.json``, ``merges.txt`` | GPT-2 | tokens that no merge makes are special | yes |
| ``*.model`` | SentencePiece | BPE with byte fallback, without normalization rules | no |
| ``*.gguf`` | llama.cpp | what its header says: byte-level BPE, and SentencePiece's | no |

What a file asks for and is not supported is a UsageError that names it; a file that is broken is a GroundupError.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.errors import UsageError
from groundup.files import disk_errors
from groundup.gguf_file import GGUFFile
from groundup.tokenizer.formats import gguf, json_reading, json_writing, rank_files, sentencepiece
from groundup.tokenizer.patterns import Pattern
from groundup.tokenizer.vocabulary import Special

if TYPE_CHECKING:
    from groundup.tokenizer.tokenizer import Tokenizer


def read(path: Path, pattern: Pattern | None, special_tokens: Special | None) -> dict[str, Any]:
    """The arguments of the ``Tokenizer`` that a file, or what a folder holds, describes.

    ``pattern`` and ``special_tokens`` are for formats that do not say them.
    """
    if path.is_dir():
        path = _in_folder(path)
    is_complete = path.suffix not in (".tiktoken",) and path.name not in ("vocab.json", "merges.txt")
    if is_complete and (pattern is not None or special_tokens is not None):
        raise UsageError(f"{path} says its pattern and special tokens itself: leave them out")
    if path.suffix == ".tiktoken":
        return rank_files.read_tiktoken(path, pattern, special_tokens)
    if path.name in ("vocab.json", "merges.txt"):
        return rank_files.read_gpt2(path.parent, pattern, special_tokens)
    if path.suffix == ".model":
        return sentencepiece.read(path)
    if path.suffix == ".gguf":
        return gguf.read(GGUFFile(path))
    return json_reading.read(path)


def write(tokenizer: Tokenizer, path: Path) -> None:
    """Writes a tokenizer in the format that the name asks for; into a folder, as ``tokenizer.json``."""
    if path.is_dir():
        path /= "tokenizer.json"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tiktoken":
        rank_files.write_tiktoken(tokenizer, path)
    elif path.name in ("vocab.json", "merges.txt"):
        rank_files.write_gpt2(tokenizer, path.parent)
    elif path.suffix in (".model", ".gguf"):
        raise UsageError(f"{path}: this format is read, not written; choose a name that ends in .json")
    else:
        json_writing.write(tokenizer, path)


def _in_folder(folder: Path) -> Path:
    """The file in a folder that describes a tokenizer."""
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json"):
        if (folder / name).exists():
            return folder / name
    ranks = sorted(folder.glob("*.tiktoken"))
    if len(ranks) == 1:
        return ranks[0]
    return folder / "tokenizer.json"
