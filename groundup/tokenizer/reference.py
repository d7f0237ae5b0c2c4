"""The tokenizer in plain Python, short enough to be read at a sitting: the oracle that the compiled one is tested against.

A text is split by its pattern (``patterns``), and each pre-token's merges are applied in the order they were learned (``merging``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from groundup.tokenizer.merging import merge, to_word
from groundup.tokenizer.patterns import splitter, to_text


class ReferenceTokenizer:
    """Byte-level BPE of ordinary text: ids 0..255 are the bytes in order, then come the merges in the order learned.

    Args:
        merges: pairs of ids, the k-th making id 256 + k.
        pattern: name of the pre-tokenization pattern, a key of ``PATTERNS``.
    """

    def __init__(self, merges: Sequence[tuple[int, int]], pattern: str = "gpt2") -> None:
        self._split = splitter(pattern)
        self._pair_of = {chr(256 + k): chr(left) + chr(right) for k, (left, right) in enumerate(merges)}
        self._new_of = {pair: new for new, pair in self._pair_of.items()}
        self._merge = lru_cache(1 << 18)(lambda pretoken: merge(to_word(pretoken), self._new_of, self._pair_of))

    def encode_ordinary(self, text: bytes) -> np.ndarray:
        """The ids of a text, uint32, shape [n]; a byte that is not UTF-8 is a character of its own."""
        words = map(self._merge, self._split(to_text(text)))
        return np.array([ord(token) for word in words for token in word], np.uint32)
