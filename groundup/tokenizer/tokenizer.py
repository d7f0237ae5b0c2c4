"""``Tokenizer``: byte-level byte-pair encoding with special tokens, from training to decoding."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import astuple
from functools import cached_property, lru_cache
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from groundup import ahead
from groundup.errors import UsageError
from groundup.tokenizer.added import AddedToken, Template, any_of, search
from groundup.tokenizer.byte_fallback import PieceCutter, Pieces, PieceVocabulary
from groundup.tokenizer.decoding import StreamDecoder
from groundup.tokenizer.idfile import mapped, write_ids
from groundup.tokenizer.merging import MAX_VOCAB_SIZE, Ties
from groundup.tokenizer.normalizing import Normalizer
from groundup.tokenizer.parallel import batched, map_threads, resolve_threads
from groundup.tokenizer.patterns import CUT_AT_SPACE, PATTERNS, Pattern, check_pattern, cut_at, pretoken_ends_of
from groundup.tokenizer.reference import ReferenceTokenizer
from groundup.tokenizer.segments import Part, Segmenter, Text, as_bytes
from groundup.tokenizer.training import MEMORY_BYTES, Progress, learn_merges, sample
from groundup.tokenizer.vocabulary import Special, Vocabulary

if TYPE_CHECKING:
    from groundup.tokenizer.encoder import Encoder

END_OF_TEXT = "<|endoftext|>"
"""The special token that stands before every document."""

Some = Collection[str] | Literal["all"]
"""A choice of special tokens: by name, or all."""

_PIECE_BYTES = 1 << 19  # of a long text, for a thread at a time
_BATCH_BYTES = 1 << 19
_CALL_BYTES = 256  # that could be encoded in the time that a call takes
_NONE: frozenset[str] = frozenset()
_FEW = 64  # ids that are decoded sooner than compiled code is called

COMPILED = "groundup.tokenizer.engine"
"""The module that takes longest to compile: while a process does that (see ``groundup.ahead``), the plain twin encodes."""


class Offsets(NamedTuple):
    """The ids of a text and where in it they stand."""

    ids: np.ndarray
    """uint32, shape [n]."""
    bytes: np.ndarray
    """First byte of each and the byte behind its last, int64, shape [n, 2]."""
    characters: np.ndarray
    """The same in characters, int64, shape [n, 2]: those that the token holds any byte of."""


class Tokenizer:
    """BPE of bytes, or of characters that fall back to bytes, with special tokens.

    By default ids 0..255 are the bytes in order, then come the merges in the order learned, the special tokens last.

    Args:
        merges: pairs of ids in order of rank, the k-th making id 256 + k; with a vocabulary, the token that its two are together; None for
            tiktoken's rule, by which any two neighbours merge that are a token of the vocabulary together, the lowest id first.
        special_tokens: texts that are one token each, matched before anything else; of two that fit, the longer. Their ids too, or they
            follow the others; or ``AddedToken`` each, which can be found always, or with the white space around them.
        pattern: how a text is cut before merging: a key of ``PATTERNS``, a regular expression, or several steps. With pieces it is not
            used: they are cut at spaces.
        vocabulary: the bytes of each id, where ids are not as above; none for an id that stands for nothing or for a special token.
            With merges it may lack single bytes; a text that holds one is then a UsageError.
            Or ``Pieces``, for characters with byte fallback.
        whole: whether a pre-token that is a token becomes that token, whatever merges make of it (``ignore_merges`` in a tokenizer.json);
            by default only under tiktoken's rule.
        normalizer: what is done to a text first; with it, bytes counted and decoded are those of the text after it.
        template: ids that ``encode(..., add_special_tokens=True)`` puts around a text.

    Raises UsageError for a pattern, token, merge or special token that makes no sense, naming it.
    """

    pattern: Pattern
    """How a text is cut into pre-tokens."""
    merges: list[tuple[int, int]] | None
    """Pairs of ids, in order of rank."""
    special_tokens: dict[str, int]
    """Id by text."""
    added_tokens: list[AddedToken]
    """Those, and others that are found always."""
    token_bytes: list[bytes]
    """The bytes each id stands for; a special token's are its text."""

    def __init__(
        self,
        merges: Sequence[tuple[int, int]] | None,
        special_tokens: Special = (END_OF_TEXT,),
        pattern: Pattern = "gpt2",
        *,
        vocabulary: Sequence[bytes] | Pieces | None = None,
        whole: bool | None = None,
        normalizer: Normalizer | None = None,
        template: Template | None = None,
    ) -> None:
        self.pattern, self.normalizer, self.template = check_pattern(pattern), normalizer, template or Template()
        self.pieces = vocabulary if isinstance(vocabulary, Pieces) else None
        if self.pieces is not None:
            self.vocabulary: Vocabulary = PieceVocabulary(merges, special_tokens, self.pieces)
        else:
            self.vocabulary = Vocabulary(merges, special_tokens, vocabulary)
        self.pairs = self.vocabulary.pairs()
        self.whole = self.pieces is None and self.vocabulary.merges is None if whole is None else whole
        self._given = vocabulary if vocabulary is None or self.pieces else list(vocabulary)
        self.merges, self.special_tokens = self.vocabulary.merges, self.vocabulary.special_tokens
        self.added_tokens, self.token_bytes = self.vocabulary.added_tokens, self.vocabulary.token_bytes
        self._cutter = None if self.pieces is None else PieceCutter(self.vocabulary, self.pieces)
        where = cut_at(pattern) if self._cutter is None else CUT_AT_SPACE if self._cutter.at_spaces else None
        self._segmenter = Segmenter(self.added_tokens, normalizer, self.pieces, where)
        self._check()

    def _check(self) -> None:
        """Raises UsageError for what does not go together."""
        if self._given is None:
            names = set(self.vocabulary.names())
            if taken := [token for token in self.special_tokens if token in names]:
                raise UsageError(f"special token {taken[0]!r} is also an ordinary token: choose a text such as '<|{taken[0]}|>'")
        if self.pieces is not None and self.whole:
            raise UsageError("pieces are made by merges alone: whole is for pre-tokens of bytes")
        if outside := [token for token in (*self.template.before, *self.template.behind) if not 0 <= token < self.vocab_size]:
            raise UsageError(f"the template has id {outside[0]}, which is outside this tokenizer's 0..{self.vocab_size - 1}")

    def __reduce__(self) -> tuple:
        given = {"merges": self.merges, "special_tokens": self.added_tokens, "pattern": self.pattern, "vocabulary": self._given}
        return _rebuilt, (given | {"whole": self.whole, "normalizer": self.normalizer, "template": self.template},)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, pattern={self.pattern!r}, special_tokens={list(self.special_tokens)})"

    @classmethod
    def train(
        cls,
        texts: Iterable[bytes | str],
        vocab_size: int,
        *,
        pattern: Pattern = "gpt2",
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        ties: Ties = "greatest",
        n_workers: int | None = None,
        max_bytes: int | None = None,
        memory_bytes: int = MEMORY_BYTES,
        progress: Progress | None = None,
    ) -> Tokenizer:
        """Learns the merges of a corpus (Sennrich et al. 2016), the same for any order of the texts and any number of workers.

        Each merge joins the pair of neighbouring tokens that is seen most often; of pairs seen equally often, that which ``ties`` says.
        No token crosses a pre-token's bounds or a special token's text, which is not learned from.
        The corpus streams past: memory holds its distinct pre-tokens (and, with ``max_bytes``, the sample), not itself. Where these
        would take more than ``memory_bytes``, the rarest are left out, as it then says: the one case in which the result is not exact.

        Args:
            texts: the corpus, one document each.
            vocab_size: ids wanted: 256 bytes, the merges and the special tokens. The result has fewer (its ``vocab_size`` says how
                many) when the corpus has no pair left to merge.
            ties: "greatest", the lexicographically greater pair of byte strings, or "huggingface", whose ``BpeTrainer`` takes the pair
                that was made first: its merges, then, in its order.
            n_workers: processes, or for much text threads; by default one a core (see ``parallel.resolve_workers``).
            max_bytes: learn from a sample of about so many bytes: of the corpus cut into blocks of 16 KiB, those with the smallest
                hashes, hence spread evenly, and the same for any order of the texts.
            memory_bytes: what distinct pre-tokens may take.
            progress: called as the work goes on.

        Raises UsageError for a ``vocab_size`` below 256 plus the special tokens, or a corpus without text.
        """
        if isinstance(texts, bytes | str):
            raise UsageError("train takes many texts, not one: pass a list of texts")
        check_pattern(pattern)
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0 or vocab_size > MAX_VOCAB_SIZE:
            least = 256 + len(special_tokens)
            raise UsageError(f"vocab_size is {vocab_size}: ask for {least} (256 bytes and the special tokens) to {MAX_VOCAB_SIZE}")
        report = progress or (lambda stage, done, total: None)
        separator = any_of(special_tokens)
        segments = chain.from_iterable(separator.split(as_bytes(text)) if special_tokens else [as_bytes(text)] for text in texts)
        if max_bytes is not None:
            segments = sample(segments, max_bytes, pattern)
        merges = learn_merges(segments, pattern, n_merges, ties=ties, n_workers=n_workers, progress=report, memory_bytes=memory_bytes)
        if merges is None:
            raise UsageError("there is no text to train a tokenizer on: give a corpus that is not empty")
        return cls(merges, special_tokens, pattern)

    @classmethod
    def load(cls, path: str | PathLike[str], *, pattern: Pattern | None = None, special_tokens: Special | None = None) -> Tokenizer:
        """Reads a tokenizer from a file, or from what a folder holds.

        Files: ``tokenizer.json`` (Hugging Face), ``*.tiktoken``, ``vocab.json`` with ``merges.txt`` beside it (GPT-2), ``*.model``
        (SentencePiece BPE with byte fallback), ``*.gguf`` (llama.cpp). See ``formats`` for what is supported; anything else is an error
        that names it.

        Args:
            pattern: for a format that does not say it (``.tiktoken`` of an unknown name, ``vocab.json``).
            special_tokens: likewise.
        """
        from groundup.tokenizer import formats

        return cls.made_of(Path(path), formats.read(Path(path), pattern, special_tokens))

    @classmethod
    def made_of(cls, path: Path, arguments: dict[str, Any]) -> Tokenizer:
        """A tokenizer of what a reader of ``formats`` found in a file; an error names the file."""
        try:
            return cls(**arguments)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a ``tokenizer.json`` that Hugging Face's ``tokenizers`` opens and encodes alike; into a folder, under that name.

        A path that ends in ``.tiktoken`` is written in tiktoken's format, one that ends in ``vocab.json`` in GPT-2's, with ``merges.txt``
        beside it. Each is whole or not there. Raises UsageError for a tokenizer that the format cannot hold, GroundupError for a path
        that cannot be written.
        """
        from groundup.tokenizer import formats

        formats.write(self, Path(path))

    @property
    def vocab_size(self) -> int:
        """Number of ids: bytes, merges and special tokens."""
        return len(self.token_bytes)

    @property
    def end_of_text(self) -> int:
        """Id of ``<|endoftext|>``; raises UsageError when the tokenizer was made without."""
        if END_OF_TEXT not in self.special_tokens:
            raise UsageError(f"this tokenizer has no {END_OF_TEXT}: train one with it among the special tokens")
        return self.special_tokens[END_OF_TEXT]

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hexadecimal, of all that decides the ids: merges, special tokens, pattern."""
        parts: list = [self.merges, list(self.special_tokens), self.pattern]
        if self._given is not None or self.normalizer or any(added != AddedToken(added.text, added.id) for added in self.added_tokens):
            given = None if self._given is None else astuple(self.pieces) if self.pieces else [token.hex() for token in self._given]
            parts += [given, [astuple(added) for added in self.added_tokens], self.whole, self.normalizer]
        return hashlib.sha256(json.dumps(parts, default=astuple).encode()).hexdigest()

    def encode(
        self,
        text: str | bytes,
        *,
        allowed_special: Some = (),
        disallowed_special: Some = "all",
        add_special_tokens: bool = False,
        n_workers: int | None = None,
    ) -> np.ndarray:
        """The ids of a text, uint32, shape [n].

        Bytes that are not UTF-8 are encoded byte for byte; a lone surrogate in a ``str`` becomes U+FFFD, as in tiktoken.

        Args:
            allowed_special: special tokens to recognize in the text.
            disallowed_special: special tokens whose text is an error, less those allowed; what is in neither is ordinary text.
            add_special_tokens: whether the model's ``template`` is put around them.
            n_workers: threads that share a long text; by default one a core.

        Raises UsageError where a disallowed special token stands in the text: text from outside must not pass for a control token.
        """
        data = as_bytes(text)
        parts = self._parts(data, allowed_special, disallowed_special)
        if len(data) < _PIECE_BYTES and not allowed_special and self._segmenter.is_plain:
            ids = self._encode(data, 0, len(data))
        else:
            ids = self._encode_parts(list(parts), n_workers)
        return self._around(ids) if add_special_tokens else ids

    def encode_ordinary(self, text: str | bytes, *, n_workers: int | None = None) -> np.ndarray:
        """The ids of a text, uint32, shape [n], special tokens' texts taken as ordinary: for training data."""
        return self.encode(text, disallowed_special=(), n_workers=n_workers)

    def encode_with_offsets(self, text: str | bytes, *, allowed_special: Some = (), disallowed_special: Some = "all") -> Offsets:
        """What ``encode`` gives, and where in the text each token stands, in bytes of its UTF-8 and in characters.

        A byte of invalid UTF-8 between 0x80 and 0xBF counts as a part of the character before it.
        """
        data = as_bytes(text)
        parts = list(self._parts(data, allowed_special, disallowed_special))
        encoded = list(map(self._encode_one, parts))
        found = [
            part.origins(part.start + np.cumsum(self._lengths[ids]) if part.token is None else np.array([part.stop]))
            for part, ids in zip(parts, encoded, strict=True)
        ]
        ids = np.concatenate(encoded)
        starts, ends = (np.concatenate(places).astype(np.int64) for places in zip(*found, strict=True))
        array = np.frombuffer(data, np.uint8)
        characters = np.concatenate(([0], np.cumsum((array & 0xC0) != 0x80)))  # that have begun before each byte
        first = np.maximum(characters[np.minimum(starts + 1, array.size)] - 1, 0)
        return Offsets(ids, np.stack((starts, ends), axis=1), np.stack((first, characters[ends]), axis=1))

    def encode_iterable(
        self,
        texts: Iterable[str | bytes],
        *,
        allowed_special: Some = (),
        disallowed_special: Some = "all",
        add_special_tokens: bool = False,
        n_workers: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields what ``encode`` gives for each text, in order and bounded memory, by ``n_workers`` threads, one a core by default.

        A long text is spread over the threads too.
        """
        lengths: deque[int] = deque()

        def all_parts() -> Iterator[Part]:
            for text in texts:
                parts = list(self._parts(as_bytes(text), allowed_special, disallowed_special))
                lengths.append(len(parts))
                yield from parts

        encode_one = self._encode_one
        batches = batched(all_parts(), _BATCH_BYTES, lambda part: part.stop - part.start + _CALL_BYTES)
        encoded = chain.from_iterable(map_threads(lambda parts: list(map(encode_one, parts)), batches, resolve_threads(n_workers)))
        for first in encoded:
            rest = list(islice(encoded, lengths.popleft() - 1))
            ids = np.concatenate([first, *rest]) if rest else first
            yield self._around(ids) if add_special_tokens else ids

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        allowed_special: Some = (),
        disallowed_special: Some = "all",
        add_special_tokens: bool = False,
        n_workers: int | None = None,
    ) -> list[np.ndarray]:
        """``encode_iterable`` as a list."""
        chosen = {"allowed_special": allowed_special, "disallowed_special": disallowed_special, "add_special_tokens": add_special_tokens}
        return list(self.encode_iterable(texts, **chosen, n_workers=n_workers))

    def encode_ordinary_batch(self, texts: Iterable[str | bytes], *, n_workers: int | None = None) -> list[np.ndarray]:
        """``encode_ordinary`` of each text, worked out by ``n_workers`` threads."""
        return self.encode_batch(texts, disallowed_special=(), n_workers=n_workers)

    def encode_file(
        self,
        path: str | PathLike[str],
        out: str | PathLike[str],
        *,
        allowed_special: Some = (),
        disallowed_special: Some = (),
        n_workers: int | None = None,
    ) -> int:
        """Encodes a file as one text into ``out``, a ``.npy`` array that ``numpy.load(out, mmap_mode="r")`` opens; returns how many ids.

        They are uint16 where all of the vocabulary's are below 65536, else uint32. Memory is bounded, however large the file is.
        Raises UsageError for a file that cannot be read, GroundupError for one that cannot be written; ``out`` is whole or not there.
        """
        with mapped(Path(path)) as data:
            parts = self._parts(data, allowed_special, disallowed_special)
            return write_ids(Path(out), map_threads(self._encode_one, parts, resolve_threads(n_workers)), self.vocab_size)

    def count(
        self, text: str | bytes, *, allowed_special: Some = (), disallowed_special: Some = "all", n_workers: int | None = None
    ) -> int:
        """How many tokens ``encode`` would give, without holding them all."""
        parts = self._parts(as_bytes(text), allowed_special, disallowed_special)
        return sum(ids.size for ids in map_threads(self._encode_one, parts, resolve_threads(n_workers)))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of some ids, exactly; special tokens give their text. Raises UsageError for an id out of range.

        A tokenizer that puts a space before a text takes it away again.
        """
        data = self._joined(ids)
        return data[1:] if self._drops_space and data.startswith(b" ") else data

    @property
    def _drops_space(self) -> bool:
        return self.pieces is not None and self.pieces.prefix != "never"

    def _joined(self, ids: Sequence[int] | np.ndarray) -> bytes:
        array = self._checked(ids)
        if array.size < _FEW or ahead.pending(COMPILED):
            return b"".join(map(self.token_bytes.__getitem__, array.tolist()))
        return compiled_room().decode(array, *self._blob)

    def decoder(self) -> StreamDecoder:
        """A decoder for ids that arrive one by one."""
        return StreamDecoder(self._joined, self._drops_space)

    def n_bytes(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """How many bytes of source text each id stands for, int64, in the shape of ``ids``; special tokens stand for none.

        Summed over ``encode_ordinary(text)`` it is the length of the text, which bits per byte rests on.
        """
        return self._n_bytes[self._checked(ids)]

    @cached_property
    def _n_bytes(self) -> np.ndarray:
        lengths = self._lengths.copy()
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(token) for token in self.token_bytes], dtype=np.int64)

    @cached_property
    def _blob(self) -> tuple[np.ndarray, np.ndarray]:
        """All tokens' bytes, uint8, and where each begins, int64, shape [vocab_size + 1]."""
        return np.frombuffer(b"".join(self.token_bytes) + bytes(64), np.uint8), np.concatenate(([0], np.cumsum(self._lengths)))

    @cached_property
    def _encoder(self) -> Encoder:
        split: str | Callable[[bytes], np.ndarray] = self._cutter.ends if self._cutter is not None else pretoken_ends_of(self.pattern)
        return compiled_room().Encoder(self.vocabulary.ordinary, self.pairs, self.vocabulary.byte_ids, split, self.whole)

    @cached_property
    def _twin(self) -> ReferenceTokenizer | None:
        """The same in plain Python, a third as fast; None where there is none, for ids in another order or rules beside merges."""
        plain = self._given is None and self.merges is not None and not self.whole and self.pattern in PATTERNS
        return ReferenceTokenizer(self.merges, self.pattern) if plain else None

    @cached_property
    def _without_meaning(self) -> np.ndarray | None:
        """Whether each id stands for nothing, if any does."""
        without = self._lengths == 0
        return without if without.any() else None

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(ids)
        if array.size == 0:
            return array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise UsageError(f"ids are whole numbers, not {array.dtype}")
        if array.min() < 0 or array.max() >= self.vocab_size:
            outside = array[(array < 0) | (array >= self.vocab_size)]
            raise UsageError(f"id {outside[0]} is outside this tokenizer's 0..{self.vocab_size - 1}")
        if self._without_meaning is not None and self._without_meaning[array].any():
            raise UsageError(f"id {array[self._without_meaning[array]][0]} stands for nothing in this tokenizer")
        return array

    def _parts(self, data: Text, allowed_special: Some, disallowed_special: Some) -> Iterator[Part]:
        """Yields a text's parts and the added tokens in it, after the check for disallowed ones."""
        allowed = self._chosen(allowed_special) if allowed_special else _NONE
        disallowed = self._chosen(disallowed_special) - allowed if disallowed_special else _NONE
        if disallowed and (found := search(disallowed, data, 0, len(data))):
            name = found[0].decode()
            raise UsageError(
                f"the text holds the special token {name!r} at byte {found.start()}: "
                f"pass allowed_special={{{name!r}}} to make it that token, or disallowed_special=() to take it as ordinary text"
            )
        return self._segmenter.parts(data, allowed, _PIECE_BYTES)

    def _chosen(self, choice: Some) -> frozenset[str]:
        if choice == "all":
            return self._all_special
        if isinstance(choice, str):
            raise UsageError(f"special tokens are chosen by a set of them or 'all', not by {choice!r}: write {{{choice!r}}}")
        if unknown := sorted(set(choice) - set(self.special_tokens)):
            raise UsageError(f"{unknown[0]!r} is not a special token here: choose from {', '.join(self.special_tokens) or 'none'}")
        return frozenset(choice)

    @cached_property
    def _all_special(self) -> frozenset[str]:
        return frozenset(self.special_tokens)

    def _encode_one(self, part: Part) -> np.ndarray:
        if part.token is not None:
            return np.array([part.token], np.uint32)
        return self._encode(part.data, part.start, part.stop)

    def _encode(self, data: Text, start: int, stop: int) -> np.ndarray:
        if ahead.pending(COMPILED) and self._twin is not None:
            return self._twin.encode_ordinary(bytes(data[start:stop]))
        ids = self._encoder.encode(data, start, stop)
        if self.vocabulary.lacking and ids.size and int(ids.max()) == self.vocab_size:
            at = next(i for i in range(start, stop) if data[i] in self.vocabulary.lacking)
            raise UsageError(f"the text holds the byte {bytes([data[at]])!r}, for which this tokenizer has no token: take it out")
        return ids if self._cutter is None else self._cutter.take_apart(ids)

    def _around(self, ids: np.ndarray) -> np.ndarray:
        return np.concatenate([np.array(self.template.before, np.uint32), ids, np.array(self.template.behind, np.uint32)])

    def _encode_parts(self, parts: list[Part], n_workers: int | None) -> np.ndarray:
        """All ids of all parts. Each is written where the last one was, and then copied twice: new memory would cost more."""
        if len(parts) == 1:
            return self._encode_one(parts[0])
        n_threads = resolve_threads(n_workers) if sum(part.stop - part.start for part in parts) >= 2 * _PIECE_BYTES else 1
        encoded = list(map_threads(self._encode_one, parts, n_threads))
        if n_threads == 1:
            return np.concatenate(encoded)
        ends = np.cumsum([ids.size for ids in encoded])
        joined = np.empty(ends[-1], np.uint32)
        places = (joined[end - ids.size : end] for ids, end in zip(encoded, ends, strict=True))
        deque(map_threads(lambda both: np.copyto(*both), zip(places, encoded, strict=True), n_threads), maxlen=0)
        return joined


def _rebuilt(made_of: dict) -> Tokenizer:
    return Tokenizer(**made_of)


@lru_cache(maxsize=1)
def compiled_room() -> ModuleType:
    """The module ``encoder``, which numba compiles or finds compiled when it is first needed; says so where that takes time."""
    said = "compiling the tokenizer, once for this machine: about ten seconds"
    timer = threading.Timer(1.5, print, (said,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        from groundup.tokenizer import encoder
    finally:
        timer.cancel()
    return encoder
