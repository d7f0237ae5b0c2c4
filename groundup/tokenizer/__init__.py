"""Bytes to tokens and back: byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019).

    from groundup.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([b"the cat in the hat"], vocab_size=260)
    ids = tokenizer.encode("the quick brown fox")

To understand it, read ``patterns`` (what splits a text into pre-tokens), ``merging`` (what turns each into tokens) and ``reference``,
which is the two together in plain Python. What runs is their compiled twin, with the same answers: ``classes`` and ``rules`` and
``matching`` in ``scan`` split, ``crossings`` cut again where no token reaches across, ``merge_loops`` merge, and ``engine`` does it all
with a cache before the merging. They are made of the instructions in ``machine``; ``encoder`` holds their memory.

What models have beside merges stands around that: ``added`` tokens, ``normalizing``, ``segments`` (a text on its way to the encoder),
``byte_fallback`` for vocabularies of characters. ``formats`` reads and writes other people's files.
"""

from groundup.tokenizer.added import AddedToken, Template
from groundup.tokenizer.byte_fallback import Pieces
from groundup.tokenizer.decoding import StreamDecoder
from groundup.tokenizer.patterns import PATTERNS, Split
from groundup.tokenizer.tokenizer import END_OF_TEXT, Offsets, Progress, Tokenizer

__all__ = [
    "END_OF_TEXT",
    "PATTERNS",
    "AddedToken",
    "Offsets",
    "Pieces",
    "Progress",
    "Split",
    "StreamDecoder",
    "Template",
    "Tokenizer",
]
