"""Tokenizers compared on one text."""

import numpy as np
import pytest

from groundup.errors import UsageError
from groundup.evaluate.tokenizers import compare
from groundup.tokenizer import Tokenizer

TEXT = b"the cat in the hat sat on the mat. " * 40


class Halves:
    """One token for two bytes, the first half of them unknown."""

    vocab_size, unknown_id = 10, 7

    def encode_ordinary(self, text):
        ids = np.zeros(len(text) // 2, np.uint32)
        ids[: len(ids) // 2] = 7
        return ids


def test_what_is_counted_is_what_the_tokenizers_did():
    bpe = Tokenizer.train([TEXT], 280)
    bytewise, learned, halves = compare({"bytes": Tokenizer([]), "bpe": bpe, "halves": Halves()}, [TEXT, TEXT])
    assert (bytewise.n_tokens, bytewise.bytes_per_token, bytewise.unknown_rate) == (2 * len(TEXT), 1.0, 0.0)
    assert learned.n_tokens == 2 * len(bpe.encode_ordinary(TEXT)) < bytewise.n_tokens / 2
    assert learned.bytes_per_token == pytest.approx(2 * len(TEXT) / learned.n_tokens)
    assert (halves.bytes_per_token, halves.unknown_rate, halves.vocab_size) == (2.0, 0.5, 10)
    assert all(c.megabytes_per_s > 0 for c in (bytewise, learned, halves))


def test_fewer_tokens_cost_fewer_flops_of_training():
    bytewise, halves = compare({"bytes": Tokenizer([]), "halves": Halves()}, [TEXT])
    assert 0.4 < halves.training_flops / bytewise.training_flops < 0.5, "half the tokens, shorter windows in tokens, a smaller head"


def test_no_text_is_refused():
    with pytest.raises(UsageError, match="no text"):
        compare({"bytes": Tokenizer([])}, [b""])
