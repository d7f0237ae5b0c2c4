"""What the ids of a byte-level tokenizer stand for, checked: tokens, merges, special tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from groundup.errors import UsageError
from groundup.tokenizer.merging import MAX_VOCAB_SIZE


class Vocabulary:
    """Tokens by id, and the merges that make them.

    Args:
        merges: pairs of ids in order of rank; None for tiktoken's rule, by which any two neighbours that are a token together merge, the
            lowest id first.
        special_tokens: texts that are one token each, and their ids; a sequence of them gets the ids that follow.
        tokens: the bytes of each id; none for an id that is a special token or stands for nothing. Without them ids 0..255 are the bytes
            in order, and merge k makes id 256 + k.

    Raises UsageError naming the entry that makes no sense.
    """

    def __init__(
        self, merges: Sequence[tuple[int, int]] | None, special_tokens: Sequence[str] | Mapping[str, int], tokens: Sequence[bytes] | None
    ) -> None:
        self.merges = None if merges is None else [(int(left), int(right)) for left, right in merges]
        if tokens is None:
            if self.merges is None:
                raise UsageError("a tokenizer is made of merges, or of a vocabulary, or of both: give one")
            self.ordinary = _tokens_of(self.merges)
        else:
            self.ordinary = list(tokens)
        self._ids = _by_bytes(self.ordinary)
        self.special_tokens = self._special(special_tokens)
        size = max([len(self.ordinary), *(token + 1 for token in self.special_tokens.values())])
        if size > MAX_VOCAB_SIZE:
            raise UsageError(f"vocab_size can be at most {MAX_VOCAB_SIZE}")
        self.token_bytes = self.ordinary + [b""] * (size - len(self.ordinary))
        for text, token in self.special_tokens.items():
            if self.token_bytes[token] not in (b"", text.encode()):
                raise UsageError(f"special token {text!r} has id {token}, which is {self.token_bytes[token]!r}")
            if token < len(self.ordinary):
                self._ids.pop(self.ordinary[token], None)
                self.ordinary[token] = b""
            self.token_bytes[token] = text.encode()

    def _special(self, special_tokens: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
        if isinstance(special_tokens, Mapping):
            found = {text: int(token) for text, token in special_tokens.items()}
        else:
            for text in special_tokens:
                if not text or special_tokens.count(text) > 1:
                    raise UsageError(f"special token {text!r} is empty or there twice: give each a text of its own")
            found = {text: len(self.ordinary) + i for i, text in enumerate(special_tokens)}
        text_of: dict[int, str] = {}
        for text, token in found.items():
            if not text or token < 0:
                raise UsageError(f"special token {text!r} with id {token}: give it a text, and an id from 0")
            if token in text_of:
                raise UsageError(f"special tokens {text_of[token]!r} and {text!r} both have id {token}")
            text_of[token] = text
        return found

    def pairs(self) -> np.ndarray:
        """Ids left, right and new of each merge, int64, shape [n, 3], in order of rank; raises UsageError for one that makes no token."""
        if self.merges is None:
            return np.array(self._all_pairs(), np.int64).reshape(-1, 3)
        found = []
        for rank, (left, right) in enumerate(self.merges):
            if not (0 <= left < len(self.ordinary) and 0 <= right < len(self.ordinary)):
                raise UsageError(f"merge {rank} joins ids {left} and {right}, but there are only {len(self.ordinary)}")
            new = self._ids.get(self.ordinary[left] + self.ordinary[right])
            if new is None:
                raise UsageError(f"merge {rank} makes {self.ordinary[left] + self.ordinary[right]!r}, which is no token")
            found.append((left, right, new))
        return np.array(found, np.int64).reshape(-1, 3)

    def _all_pairs(self) -> list[tuple[int, int, int]]:
        ids = self._ids
        pairs = []
        for new, token in enumerate(self.ordinary):
            for i in range(1, len(token)):
                left = ids.get(token[:i])
                if left is not None and (right := ids.get(token[i:])) is not None:
                    pairs.append((left, right, new))
        return pairs


def _tokens_of(merges: list[tuple[int, int]]) -> list[bytes]:
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


def _by_bytes(tokens: list[bytes]) -> dict[bytes, int]:
    ids: dict[bytes, int] = {}
    for i, token in enumerate(tokens):
        if token in ids:
            raise UsageError(f"ids {ids[token]} and {i} are both {token!r}: a vocabulary has each token once")
        if token:
            ids[token] = i
    for byte in range(256):
        if bytes([byte]) not in ids:
            raise UsageError(f"the vocabulary lacks the byte {bytes([byte])!r}: a byte-level tokenizer has all 256")
    return ids
