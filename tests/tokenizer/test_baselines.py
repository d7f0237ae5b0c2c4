"""Bytes, characters and words as tokens, on the examples that lectures use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import UsageError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.baselines import UNKNOWN, ByteTokenizer, character_tokenizer, word_tokenizer
from groundup.tokenizer.merging import learn, merge

GREETING = "Hello, 🌍! 你好!"


def test_a_greeting_is_twenty_bytes_and_thirteen_characters():
    assert len(ByteTokenizer().encode_ordinary(GREETING)) == len(GREETING.encode()) == 20
    characters = character_tokenizer([GREETING]).encode_ordinary(GREETING)
    assert len(characters) == 13 and round(20 / len(characters), 2) == 1.54


def test_three_merges_of_the_cat_in_the_hat():
    """Without pre-tokens, as the example is told: each merge may cross a space."""
    merges = learn({"the cat in the hat": 1}, 3, lambda done, total: None)
    assert merges == [(ord("t"), ord("h")), (256, ord("e")), (257, ord(" "))], "th, the, 'the '"
    new_of = {chr(left) + chr(right): chr(256 + i) for i, (left, right) in enumerate(merges)}
    word = merge("the quick brown fox", new_of, {new: pair for pair, new in new_of.items()})
    assert [ord(token) for token in word][:2] == [258, ord("q")]


@given(text=st.text(min_size=1))
def test_what_was_learned_from_decodes_to_itself(text):
    text = text.encode("utf-8", "replace").decode()
    for tokenizer in (ByteTokenizer(), character_tokenizer([text]), word_tokenizer([text])):
        assert tokenizer.decode(tokenizer.encode_ordinary(text)) == text
        assert tokenizer.encode_ordinary(text).tolist() == tokenizer.encode_ordinary(text.encode()).tolist()


def test_what_was_not_seen_or_has_no_room_is_unknown():
    words = word_tokenizer(["a a a b b c"], vocab_size=3)
    assert words.symbols == [" ", "a", UNKNOWN]
    ids = words.encode_ordinary("a b d")
    assert ids.tolist() == [1, 0, 2, 0, 2] and words.unknown_id == 2
    assert words.decode(ids) == f"a {UNKNOWN} {UNKNOWN}"
    assert character_tokenizer(["ab"]).encode_ordinary("abc").tolist() == [0, 1, 2]


def test_each_has_the_interface_that_is_compared():
    from groundup.evaluate.tokenizers import compare

    text = ("the cat in the hat " * 50).encode()
    compared = compare(
        {
            "bytes": ByteTokenizer(),
            "characters": character_tokenizer([text]),
            "words": word_tokenizer([text]),
            "bpe": Tokenizer.train([text], 270),
        },
        [text],
    )
    lengths = [c.bytes_per_token for c in compared]
    assert lengths[0] == lengths[1] == 1 < lengths[2] and lengths[3] > 2
    assert [c.unknown_rate for c in compared] == [0, 0, 0, 0]


def test_nothing_to_learn_from_and_no_room_are_refused():
    with pytest.raises(UsageError, match="no text"):
        character_tokenizer([""])
    with pytest.raises(UsageError, match="vocab_size is 1"):
        word_tokenizer(["a"], vocab_size=1)
