"""Byte-pair merges: learning them from counted pre-tokens, and applying them to one pre-token.

A word, meaning a pre-token on its way to tokens, is a ``str`` whose characters are token ids: ``chr(id)``. It starts as its bytes, since
ids 0..255 are the bytes in order, and a merge is ``word.replace(left + right, new)``: leftmost first, without overlap, as byte-pair
encoding prescribes, at the speed of C. Ids end at 0x10FFFF, room for a million merges.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from operator import add
from typing import Literal

import numpy as np

from groundup.tokenizer.patterns import to_bytes

MAX_VOCAB_SIZE = 0x110000
"""As many ids as a character can hold."""

Ties = Literal["greatest", "huggingface"]
"""Which of several pairs that are seen equally often is merged first: the lexicographically greater pair of byte strings, as textbooks have
it, or the one that was made first, as ``tokenizers``' BpeTrainer has it."""

_INVERTED = bytes(range(255, -1, -1))


def to_word(pretoken: str) -> str:
    """The word of single bytes that a pre-token starts as."""
    return to_bytes(pretoken).decode("latin-1")


def merge(word: str, new_of: Mapping[str, str], pair_of: Mapping[str, str]) -> str:
    """Applies learned merges to a word of bytes, always the earliest learned that fits.

    ``new_of`` maps two characters to the one they merge into and ``pair_of`` is its inverse. Later merges have greater ids, and a merge
    can make room only for later ones, so a heap of the merges in sight is visited once each, and a word of a megabyte is no trouble.
    """
    heap = sorted({new for pair in map(add, word, word[1:]) if (new := new_of.get(pair))})
    waiting = set(heap)
    while heap:
        new = heapq.heappop(heap)
        waiting.remove(new)
        pair = pair_of[new]
        parts = word.split(pair)
        word = new.join(parts)
        for _, made in _changed_pairs(parts, pair, new):
            follower = new_of.get(made)
            if follower and follower not in waiting:
                waiting.add(follower)
                heapq.heappush(heap, follower)
    return word


def byte_order() -> np.ndarray:
    """The place of each byte in Hugging Face's byte-level alphabet, which is sorted by the characters that stand for bytes."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    places = np.empty(256, np.int64)
    places[printable + [b for b in range(256) if b not in printable]] = np.arange(256)
    return places


def learn(
    counts: Mapping[str, int], n_merges: int, progress: Callable[[int, int], object], ties: Ties = "greatest"
) -> list[tuple[int, int]]:
    """Learns up to ``n_merges`` merges from counted pre-tokens: each joins the pair of neighbours that is seen most often then.

    Between pairs seen equally often ``ties`` decides, so that the answer depends on the counts alone.
    Only the words that hold the merged pair are touched (``holders``), only the pairs beside it are recounted, and the heap is lazy:
    counts only fall, save for pairs with the new token, which are pushed; an entry that says too much goes back with what is true.

    Returns the merges as pairs of ids, the k-th making id 256 + k. There are fewer merges than asked for when no pair is left.
    A merge costs time in proportion to the bytes of the words that hold its pair: text without any boundaries (base64) is slow.
    """
    words, frequencies = [to_word(pretoken) for pretoken in counts], list(counts.values())
    pair_counts: dict[str, int] = defaultdict(int)
    holders: dict[str, list[int]] = defaultdict(list)  # may name a word that no longer holds the pair
    for index, (word, frequency) in enumerate(zip(words, frequencies, strict=True)):
        for pair in map(add, word, word[1:]):
            pair_counts[pair] += frequency
            holders[pair].append(index)
    token_bytes = [bytes([byte]) for byte in range(256)]
    places = byte_order().tolist()
    order = [_descending(token) for token in token_bytes] if ties == "greatest" else [chr(place) for place in places]
    heap = [(-count, order[ord(pair[0])] + order[ord(pair[1])], pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges: list[tuple[int, int]] = []
    while heap and len(merges) < n_merges:
        count, descending, pair = heapq.heappop(heap)
        if pair_counts[pair] != -count:
            if pair_counts[pair]:
                heapq.heappush(heap, (-pair_counts[pair], descending, pair))
            continue
        left, right = ord(pair[0]), ord(pair[1])
        new = chr(256 + len(merges))
        merges.append((left, right))
        token_bytes.append(token_bytes[left] + token_bytes[right])
        order.append(_descending(token_bytes[-1]) if ties == "greatest" else new)
        made = set()
        for index in dict.fromkeys(holders.pop(pair)):
            parts = words[index].split(pair)
            words[index] = new.join(parts)
            frequency = frequencies[index]
            for before, after in _changed_pairs(parts, pair, new):
                pair_counts[before] -= frequency
                pair_counts[after] += frequency
                holders[after].append(index)
                made.add(after)
        pair_counts[pair] = 0
        for after in made:
            heapq.heappush(heap, (-pair_counts[after], order[ord(after[0])] + order[ord(after[1])], after))
        progress(len(merges), n_merges)
    return merges


def _changed_pairs(parts: list[str], pair: str, new: str) -> Iterator[tuple[str, str]]:
    """Yields (pair before, pair after) for each neighbour of each occurrence of ``pair``, given the word split at it."""
    left, right = pair
    for i in range(1, len(parts)):
        before, after = parts[i - 1], parts[i]
        if before:
            yield before[-1] + left, before[-1] + new
        elif i > 1:  # two occurrences touch
            yield right + left, new + new
        if after:
            yield right + after[0], new + after[0]


def _descending(token: bytes) -> str:
    """A key that sorts byte strings greatest first, also when joined to a second key: no key begins another, for each ends in U+0100."""
    return token.translate(_INVERTED).decode("latin-1") + "\u0100"
