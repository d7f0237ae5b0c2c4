"""What the ids of a byte-level tokenizer stand for, checked: tokens, merges, special tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from groundup.errors import UsageError
from groundup.tokenizer.added import AddedToken
from groundup.tokenizer.merging import MAX_VOCAB_SIZE

Special = Sequence[str] | Mapping[str, int] | Sequence[AddedToken]
"""Special tokens: by text alone, which get the ids that follow, with their ids, or with all that there is to say of them."""


class Vocabulary:
    """Tokens by id, and the merges that make them.

    Args:
        merges: pairs of ids in order of rank; None for tiktoken's rule, by which any two neighbours that are a token together merge, the
            lowest id first.
        special_tokens: texts that are one token each.
        tokens: the bytes of each id; none for an id that is a special token or stands for nothing. Without them ids 0..255 are the bytes
            in order, and merge k makes id 256 + k.

    Raises UsageError naming the entry that makes no sense.
    """

    merges: list[tuple[int, int]] | None
    """As given."""
    ordinary: list[bytes]
    """The bytes of each id that is no special token."""
    added_tokens: list[AddedToken]
    """Texts that are one token each."""
    special_tokens: dict[str, int]
    """Those of them that are found only where they are allowed, and their ids."""
    token_bytes: list[bytes]
    """What each id stands for; an added token's are its text."""
    lacking: frozenset[int] = frozenset()
    """Bytes without a token, such as SmolLM2 has (its text never held them): they get the id behind all others, which no text may keep."""

    def __init__(self, merges: Sequence[tuple[int, int]] | None, special_tokens: Special, tokens: Sequence[bytes] | None) -> None:
        self.merges = None if merges is None else [(int(left), int(right)) for left, right in merges]
        if tokens is None:
            if self.merges is None:
                raise UsageError("a tokenizer is made of merges, or of a vocabulary, or of both: give one")
            self.ordinary = _tokens_of(self.merges)
        else:
            self.ordinary = list(tokens)
        self._ids = _by_bytes(self.ordinary)
        self.set_added(resolved(special_tokens, len(self.ordinary)))
        for added in self.added_tokens:
            if added.special and self.merges is None and added.id < len(self.ordinary):
                self._ids.pop(self.ordinary[added.id], None)
                self.ordinary[added.id] = b""
        self.byte_ids = np.array([self._ids.get(bytes([byte]), -1) for byte in range(256)], np.int32)
        self.lacking = frozenset(np.flatnonzero(self.byte_ids < 0).tolist())
        if self.lacking and (self.merges is None or len(self.lacking) == 256):
            raise UsageError(f"the vocabulary lacks the byte {bytes([min(self.lacking)])!r}: a byte-level tokenizer has all 256")
        self.byte_ids[list(self.lacking)] = len(self.token_bytes)

    def set_added(self, added_tokens: Sequence[AddedToken]) -> None:
        """Puts added tokens beside the ordinary ones; raises UsageError for those that make no sense."""
        by_id: dict[int, AddedToken] = {}
        for added in added_tokens:
            if not added.text or added.id < 0:
                raise UsageError(f"special token {added.text!r} with id {added.id}: give it a text, and an id from 0")
            if added.id in by_id:
                raise UsageError(f"special tokens {by_id[added.id].text!r} and {added.text!r} both have id {added.id}")
            by_id[added.id] = added
        size = max([len(self.ordinary), *(token + 1 for token in by_id)])
        if size > MAX_VOCAB_SIZE:
            raise UsageError(f"vocab_size can be at most {MAX_VOCAB_SIZE}")
        self.token_bytes = self.ordinary + [b""] * (size - len(self.ordinary))
        for token, added in by_id.items():
            if self.token_bytes[token] not in (b"", added.text.encode()):
                raise UsageError(f"special token {added.text!r} has id {token}, which is {self.token_bytes[token]!r}")
            self.token_bytes[token] = added.text.encode()
        self.added_tokens = list(added_tokens)
        self.special_tokens = {added.text: added.id for added in added_tokens if added.special}

    def names(self) -> list[str | None]:
        """What each id is called in files, byte by byte a character; None for one that is no ordinary token."""
        alphabet = dict(enumerate(byte_alphabet()))
        return [token.decode("latin-1").translate(alphabet) if token else None for token in self.ordinary]

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

    def merging_pairs(self) -> np.ndarray:
        """``pairs`` that a file has to list."""
        return self.pairs()

    def _all_pairs(self) -> list[tuple[int, int, int]]:
        ids = self._ids
        pairs = []
        for new, token in enumerate(self.ordinary):
            for i in range(1, len(token)):
                left = ids.get(token[:i])
                if left is not None and (right := ids.get(token[i:])) is not None:
                    pairs.append((left, right, new))
        return pairs


def byte_alphabet() -> list[str]:
    """The visible character that stands for each byte in files (GPT-2's ``bytes_to_unicode``).

    Printable Latin-1 characters stand for themselves, the 68 other bytes for U+0100 and on, in order.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x100 + 256 - len(visible)))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def byte_names(merges: Sequence[tuple[int, int]]) -> list[str]:
    """The names in files of each byte and each merge, by id, where merge k makes id 256 + k; as far as each joins ids before it."""
    names = byte_alphabet()
    for left, right in merges:
        if not (0 <= left < len(names) and 0 <= right < len(names)):
            break
        names.append(names[left] + names[right])
    return names


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


def resolved(special_tokens: Special, first: int) -> list[AddedToken]:
    """Special tokens with ids, those that have none from ``first`` on."""
    if isinstance(special_tokens, Mapping):
        return [AddedToken(text, int(token)) for text, token in special_tokens.items()]
    given = list(special_tokens)
    for text in given:
        if not text or given.count(text) > 1:
            raise UsageError(f"special token {text!r} is empty or there twice: give each a text of its own")
    return [added if isinstance(added, AddedToken) else AddedToken(added, first + i) for i, added in enumerate(given)]


def _by_bytes(tokens: list[bytes]) -> dict[bytes, int]:
    ids: dict[bytes, int] = {}
    for i, token in enumerate(tokens):
        if token in ids:
            raise UsageError(f"ids {ids[token]} and {i} are both {token!r}: a vocabulary has each token once")
        if token:
            ids[token] = i
    return ids
