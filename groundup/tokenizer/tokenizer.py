"""``Tokenizer``: byte-level byte-pair encoding with special tokens, from training to decoding."""

from __future__ import annotations

import codecs
import hashlib
import heapq
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from groundup.errors import UsageError
from groundup.tokenizer import huggingface
from groundup.tokenizer.merging import MAX_VOCAB_SIZE, Ties, learn, merge, to_word
from groundup.tokenizer.parallel import batched, map_batches
from groundup.tokenizer.patterns import check_pattern, pieces, splitter, to_text

END_OF_TEXT = "<|endoftext|>"
"""The special token that stands before every document."""

Some = Collection[str] | Literal["all"]
"""A choice of special tokens: by name, or all."""

Part = bytes | int
"""A stretch of a text: ordinary bytes, or the id of a special token."""

_PIECE_BYTES = 1 << 16  # so a stretch of ASCII in a text that is not all ASCII is split the fast way
_SAMPLE_BYTES = 1 << 14
_BATCH_BYTES = 1 << 19
_COMPILED_FROM = 1_000_000  # symbols of distinct pre-tokens: fewer are merged before numba has compiled


@runtime_checkable
class Progress(Protocol):
    """Told how far training has come: bytes counted (their total unknown, None), then merges learned."""

    def __call__(self, stage: Literal["count", "merge"], done: int, total: int | None) -> object: ...


class Tokenizer:
    """Byte-level BPE. Ids 0..255 are the bytes in order, then come the merges in the order learned, the special tokens last.

    Args:
        merges: pairs of ids, the k-th making id 256 + k.
        special_tokens: texts that are one token each, matched before anything else; of two that fit, the longer.
        pattern: name of the pre-tokenization pattern, a key of ``PATTERNS``.

    Raises UsageError for a pattern, merge or special token that makes no sense, naming it.
    """

    pattern: str
    """Name of the pre-tokenization pattern."""
    merges: list[tuple[int, int]]
    """Pairs of ids, in the order learned."""
    special_tokens: dict[str, int]
    """Id by text."""
    token_bytes: list[bytes]
    """The bytes each id stands for; a special token's are its text."""

    def __init__(self, merges: Sequence[tuple[int, int]], special_tokens: Sequence[str] = (END_OF_TEXT,), pattern: str = "gpt2") -> None:
        self.pattern = check_pattern(pattern)
        _check_special_tokens(special_tokens)
        self.merges = [(int(left), int(right)) for left, right in merges]
        if 256 + len(self.merges) + len(special_tokens) > MAX_VOCAB_SIZE:
            raise UsageError(f"vocab_size can be at most {MAX_VOCAB_SIZE}")
        self.token_bytes = _token_bytes(self.merges)
        names = set(huggingface.token_names(self.merges))
        if taken := [token for token in special_tokens if token in names]:
            raise UsageError(f"special token {taken[0]!r} is also an ordinary token: choose a text such as '<|{taken[0]}|>'")
        self.special_tokens = {token: len(self.token_bytes) + i for i, token in enumerate(special_tokens)}
        self.token_bytes += [token.encode() for token in special_tokens]
        self._words = _Words(self.merges)

    def __reduce__(self) -> tuple:
        return Tokenizer, (self.merges, tuple(self.special_tokens), self.pattern)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, pattern={self.pattern!r}, special_tokens={list(self.special_tokens)})"

    @classmethod
    def train(
        cls,
        texts: Iterable[bytes | str],
        vocab_size: int,
        *,
        pattern: str = "gpt2",
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        ties: Ties = "greatest",
        n_workers: int | None = None,
        max_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> Tokenizer:
        """Learns the merges of a corpus (Sennrich et al. 2016), the same for any order of the texts and any number of workers.

        Each merge joins the pair of neighbouring tokens that is seen most often; of pairs seen equally often, that which ``ties`` says.
        No token crosses a pre-token's bounds or a special token's text, which is not learned from.
        The corpus streams past: memory holds its distinct pre-tokens (and, with ``max_bytes``, the sample), not itself.

        Args:
            texts: the corpus, one document each.
            vocab_size: ids wanted: 256 bytes, the merges and the special tokens. The result has fewer (its ``vocab_size`` says how
                many) when the corpus has no pair left to merge.
            ties: "greatest", the lexicographically greater pair of byte strings, or "huggingface", whose ``BpeTrainer`` takes the pair
                that was made first: its merges, then, in its order.
            n_workers: processes; by default one a core (see ``parallel.resolve_workers``).
            max_bytes: learn from a sample of about so many bytes: of the corpus cut into blocks of 16 KiB, those with the smallest
                hashes, hence spread evenly, and the same for any order of the texts.
            progress: called as the work goes on.

        Raises UsageError for a ``vocab_size`` below 256 plus the special tokens, or a corpus without text.
        """
        if isinstance(texts, bytes | str):
            raise UsageError("train takes many texts, not one: pass a list of texts")
        check_pattern(pattern)
        _check_special_tokens(special_tokens)
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0 or vocab_size > MAX_VOCAB_SIZE:
            least = 256 + len(special_tokens)
            raise UsageError(f"vocab_size is {vocab_size}: ask for {least} (256 bytes and the special tokens) to {MAX_VOCAB_SIZE}")
        report = progress or (lambda stage, done, total: None)
        separator = _any_of(special_tokens)
        segments = chain.from_iterable(separator.split(_as_bytes(text)) if special_tokens else [_as_bytes(text)] for text in texts)
        if max_bytes is not None:
            segments = _sample(chain.from_iterable(pieces(segment, _SAMPLE_BYTES) for segment in segments), max_bytes)
        counts: Counter[str] = Counter()
        n_bytes = 0
        parts = chain.from_iterable(pieces(segment, _PIECE_BYTES) for segment in segments)
        for batch_counts, batch_bytes in map_batches(partial(_count, pattern), batched(parts, _BATCH_BYTES, len), n_workers):
            counts.update(batch_counts)
            n_bytes += batch_bytes
            report("count", n_bytes, None)
        if not counts:
            raise UsageError("there is no text to train a tokenizer on: give a corpus that is not empty")
        merges, words = _learner(counts)(counts, n_merges, lambda done, total: report("merge", done, total), ties)
        tokenizer = cls(merges, special_tokens, pattern)
        tokenizer._words.remember(zip(counts, words, strict=True))
        return tokenizer

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Tokenizer:
        """Reads a ``tokenizer.json``, or the one in a folder; see ``huggingface.read`` for what it takes and raises."""
        path = Path(path)
        return cls(*huggingface.read(path / "tokenizer.json" if path.is_dir() else path))

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a ``tokenizer.json`` that Hugging Face's ``tokenizers`` opens and encodes alike; into a folder, under that name."""
        path = Path(path)
        parts = huggingface.Parts(self.merges, list(self.special_tokens), self.pattern)
        huggingface.write(parts, path / "tokenizer.json" if path.is_dir() else path)

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
        parts = [self.merges, list(self.special_tokens), self.pattern]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def encode(self, text: str | bytes, *, allowed_special: Some = (), disallowed_special: Some = "all") -> np.ndarray:
        """The ids of a text, uint32, shape [n].

        Bytes that are not UTF-8 are encoded byte for byte; a lone surrogate in a ``str`` becomes U+FFFD, as in tiktoken.

        Args:
            allowed_special: special tokens to recognize in the text.
            disallowed_special: special tokens whose text is an error, less those allowed; what is in neither is ordinary text.

        Raises UsageError where a disallowed special token stands in the text: text from outside must not pass for a control token.
        """
        return _ids([self._encode_parts(self._parts(text, allowed_special, disallowed_special))])

    def encode_ordinary(self, text: str | bytes) -> np.ndarray:
        """The ids of a text, uint32, shape [n], special tokens' texts taken as ordinary: for training data."""
        return self.encode(text, disallowed_special=())

    def encode_iterable(
        self,
        texts: Iterable[str | bytes],
        *,
        allowed_special: Some = (),
        disallowed_special: Some = "all",
        n_workers: int | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields what ``encode`` gives for each text, in order, in bounded memory, worked out by ``n_workers`` processes.

        A long text is spread over the workers too. By default there is one a core (see ``parallel.resolve_workers``).
        """
        lengths: deque[int] = deque()

        def all_parts() -> Iterator[Part]:
            for text in texts:
                parts = self._parts(text, allowed_special, disallowed_special)
                lengths.append(len(parts))
                yield from parts

        batches = batched(all_parts(), _BATCH_BYTES, lambda part: len(part) if isinstance(part, bytes) else 1)
        encoded = chain.from_iterable(map_batches(self._encode_each, batches, n_workers))
        for first in encoded:
            yield _ids([first, *islice(encoded, lengths.popleft() - 1)])

    def encode_batch(
        self,
        texts: Iterable[str | bytes],
        *,
        allowed_special: Some = (),
        disallowed_special: Some = "all",
        n_workers: int | None = None,
    ) -> list[np.ndarray]:
        """``encode_iterable`` as a list."""
        chosen = {"allowed_special": allowed_special, "disallowed_special": disallowed_special}
        return list(self.encode_iterable(texts, **chosen, n_workers=n_workers))

    def encode_ordinary_batch(self, texts: Iterable[str | bytes], *, n_workers: int | None = None) -> list[np.ndarray]:
        """``encode_ordinary`` of each text, worked out by ``n_workers`` processes."""
        return self.encode_batch(texts, disallowed_special=(), n_workers=n_workers)

    def count(self, text: str | bytes, *, allowed_special: Some = (), disallowed_special: Some = "all") -> int:
        """How many tokens ``encode`` would give."""
        return len(self._encode_parts(self._parts(text, allowed_special, disallowed_special)))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of some ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of some ids, exactly; special tokens give their text. Raises UsageError for an id out of range."""
        return b"".join(map(self.token_bytes.__getitem__, self._checked(ids).tolist()))

    def decoder(self) -> StreamDecoder:
        """A decoder for ids that arrive one by one."""
        return StreamDecoder(self)

    def n_bytes(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """How many bytes of source text each id stands for, int64, in the shape of ``ids``; special tokens stand for none.

        Summed over ``encode_ordinary(text)`` it is the length of the text, which bits per byte rests on.
        """
        return self._n_bytes[self._checked(ids)]

    @cached_property
    def _n_bytes(self) -> np.ndarray:
        ordinary = self.vocab_size - len(self.special_tokens)
        return np.array([len(token) for token in self.token_bytes[:ordinary]] + [0] * len(self.special_tokens), dtype=np.int64)

    def _checked(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(ids)
        if array.size == 0:
            return array.astype(np.int64)
        if array.dtype.kind not in "iu":
            raise UsageError(f"ids are whole numbers, not {array.dtype}")
        outside = array[(array < 0) | (array >= self.vocab_size)]
        if outside.size:
            raise UsageError(f"id {outside[0]} is outside this tokenizer's 0..{self.vocab_size - 1}")
        return array

    def _parts(self, text: str | bytes, allowed_special: Some, disallowed_special: Some) -> list[Part]:
        """The text cut into pieces and special tokens' ids, after the check for disallowed ones."""
        allowed = self._chosen(allowed_special)
        disallowed = self._chosen(disallowed_special) - allowed
        data = _as_bytes(text)
        if disallowed and (found := _any_of(disallowed).search(data)):
            name = found[0].decode()
            raise UsageError(
                f"the text holds the special token {name!r} at byte {found.start()}: "
                f"pass allowed_special={{{name!r}}} to make it that token, or disallowed_special=() to take it as ordinary text"
            )
        if not allowed:
            return list(pieces(data, _PIECE_BYTES))
        parts: list[Part] = []
        start = 0
        for match in _any_of(allowed).finditer(data):
            parts += [*pieces(data[start : match.start()], _PIECE_BYTES), self.special_tokens[match[0].decode()]]
            start = match.end()
        return [*parts, *pieces(data[start:], _PIECE_BYTES)]

    def _chosen(self, choice: Some) -> set[str]:
        if choice == "all":
            return set(self.special_tokens)
        if isinstance(choice, str):
            raise UsageError(f"special tokens are chosen by a set of them or 'all', not by {choice!r}: write {{{choice!r}}}")
        if unknown := sorted(set(choice) - set(self.special_tokens)):
            raise UsageError(f"{unknown[0]!r} is not a special token here: choose from {', '.join(self.special_tokens) or 'none'}")
        return set(choice)

    def _encode_parts(self, parts: Iterable[Part]) -> str:
        """All ids of all parts, as characters."""
        split, word_of = splitter(self.pattern), self._words.__getitem__
        return "".join(chr(part) if isinstance(part, int) else "".join(map(word_of, split(to_text(part)))) for part in parts)

    def _encode_each(self, parts: list[Part]) -> list[str]:
        return [self._encode_parts([part]) for part in parts]


class StreamDecoder:
    """Decodes ids one by one into text that is valid at every step; what is pushed and finished, joined, equals ``Tokenizer.decode``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Takes the next id and gives the characters that it completes, perhaps none."""
        return self._utf8.decode(self._tokenizer.decode_bytes([token]))

    def finish(self) -> str:
        """Gives U+FFFD for a character left incomplete, else nothing; the decoder is then as new."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class _Words(dict[str, str]):
    """Finished words by pre-token: made when first asked for, forgotten all at once when there are too many."""

    limit = 1 << 18
    longest = 128  # characters; longer pre-tokens are rare and would let few entries hold much memory

    def __init__(self, merges: list[tuple[int, int]]) -> None:
        super().__init__()
        self._pair_of = {chr(256 + k): chr(left) + chr(right) for k, (left, right) in enumerate(merges)}
        self._new_of = {pair: new for new, pair in self._pair_of.items()}

    def __missing__(self, pretoken: str) -> str:
        word = merge(to_word(pretoken), self._new_of, self._pair_of)
        self.remember([(pretoken, word)])
        return word

    def remember(self, words: Iterable[tuple[str, str]]) -> None:
        """Keeps words for their pre-tokens."""
        for pretoken, word in words:
            if len(pretoken) <= self.longest:
                if len(self) >= self.limit:
                    self.clear()
                self[pretoken] = word


def _ids(words: Sequence[str]) -> np.ndarray:
    """Words to ids: a character's number is its id."""
    return np.frombuffer(bytearray("".join(words).encode("utf-32-le", "surrogatepass")), dtype="<u4").astype(np.uint32, copy=False)


def _as_bytes(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise UsageError(f"a text is str or bytes, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates become U+FFFD, pairs of them the character they stand for
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _any_of(special_tokens: Collection[str]) -> re.Pattern[bytes]:
    """Matches any of the special tokens, the longest that fits."""
    return re.compile(b"|".join(re.escape(token.encode()) for token in sorted(special_tokens, key=len, reverse=True)))


def _check_special_tokens(special_tokens: Sequence[str]) -> None:
    for token in special_tokens:
        if not token or special_tokens.count(token) > 1:
            raise UsageError(f"special token {token!r} is empty or there twice: give each a text of its own")


def _token_bytes(merges: list[tuple[int, int]]) -> list[bytes]:
    tokens = [bytes([byte]) for byte in range(256)]
    known = set(tokens)
    for k, (left, right) in enumerate(merges):
        if not (0 <= left < 256 + k and 0 <= right < 256 + k):
            raise UsageError(f"merge {k} joins ids {left} and {right}, but only ids below {256 + k} stand before it")
        token = tokens[left] + tokens[right]
        if token in known:
            raise UsageError(f"merge {k} makes {token!r}, which is a token already")
        tokens.append(token)
        known.add(token)
    return tokens


def _count(pattern: str, texts: list[bytes]) -> tuple[Counter[str], int]:
    """How often each pre-token occurs in some texts, and how many bytes these have."""
    split = splitter(pattern)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(to_text(text)))
    return counts, sum(map(len, texts))


def _learner(counts: Mapping[str, int]) -> Callable:
    """The merge loop for so many pre-tokens: plain where they are few, else compiled; both give the same merges and words."""
    if sum(map(len, counts)) < _COMPILED_FROM:
        return learn
    from groundup.tokenizer import merge_training  # here, for numba takes half a second to import

    return merge_training.learn


def _sample(blocks: Iterable[bytes], max_bytes: int) -> list[bytes]:
    """The blocks with the smallest hashes, as few as reach ``max_bytes`` (bottom-k sampling, Cohen & Kaplan 2007)."""
    if max_bytes < 1:
        raise UsageError(f"max_bytes is {max_bytes}: ask for at least 1")
    kept: list[tuple[int, bytes]] = []  # a heap with the greatest hash on top
    total = 0
    for block in blocks:
        heapq.heappush(kept, (-int.from_bytes(hashlib.blake2b(block, digest_size=8).digest(), "big"), block))
        total += len(block)
        while total - len(kept[0][1]) >= max_bytes:
            total -= len(heapq.heappop(kept)[1])
    return [block for _, block in sorted(kept)]
