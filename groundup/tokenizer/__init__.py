"""Bytes to tokens and back: byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019) in plain Python.

    from groundup.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([b"the cat in the hat"], vocab_size=260)
    ids = tokenizer.encode("the quick brown fox")

The path of a text: ``patterns`` splits it into pre-tokens, ``merging`` turns each into tokens, ``parallel`` does so on every core,
and ``huggingface`` keeps the result in a ``tokenizer.json`` that Hugging Face's ``tokenizers`` opens.
"""

from groundup.tokenizer.patterns import PATTERNS
from groundup.tokenizer.tokenizer import END_OF_TEXT, Progress, StreamDecoder, Tokenizer

__all__ = ["END_OF_TEXT", "PATTERNS", "Progress", "StreamDecoder", "Tokenizer"]
