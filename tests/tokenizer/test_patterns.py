"""Pre-tokenization loses nothing, says the same for ASCII either way, and may be cut where it says it may."""

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import UsageError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.patterns import PATTERNS, _say_that_it_is_slow, pieces, splitter, to_bytes, to_text
from groundup.tokenizer.reference import ReferenceTokenizer

NAMES = st.sampled_from(sorted(PATTERNS))
CODE = st.text(alphabet="aZſé中1٣ '\"!/_.\t\n\r\x1c\x85\u3000\u0301sS😀", max_size=40)


@given(NAMES, st.one_of(st.binary(), CODE.map(str.encode)))
def test_pretokens_joined_are_the_text(pattern: str, data: bytes) -> None:
    assert to_bytes("".join(splitter(pattern)(to_text(data)))) == data


@given(NAMES, st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_spelling_splits_as_the_pattern(pattern: str, text: str) -> None:
    assert splitter(pattern)(text) == regex.findall(PATTERNS[pattern], text)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_ascii_spelling_agrees_on_every_pair_of_characters(pattern: str) -> None:
    for a in range(128):
        text = "".join(f"x{chr(a)}{chr(b)}1 {chr(b)}{chr(a)}'S " for b in range(128))
        assert splitter(pattern)(text) == regex.findall(PATTERNS[pattern], text)


@given(NAMES, st.one_of(CODE, st.text(alphabet="aBж学다 \t\r\n'\"{,、。，．\u0301", max_size=40)), st.integers(0, 10))
def test_pieces_pretokenize_as_the_whole(pattern: str, text: str, size: int) -> None:
    split = splitter(pattern)
    cut = list(pieces(text.encode(), size))
    assert b"".join(cut) == text.encode()
    assert [pretoken for piece in cut for pretoken in split(to_text(piece))] == split(text)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("gpt2", ["I", "'ll", " say", " 12345", "  ", " OK", "!!", "\n", "\n", "é", "\n"]),
        ("cl100k", ["I", "'ll", " say", " ", "123", "45", "  ", " OK", "!!\n\n", "é", "\n"]),
        ("o200k", ["I'll", " say", " ", "123", "45", "  ", " OK", "!!\n\n", "é", "\n"]),
        ("qwen2", ["I", "'ll", " say", " ", "1", "2", "3", "4", "5", "  ", " OK", "!!\n\n", "é", "\n"]),
    ],
)
def test_what_each_pattern_is_known_for(pattern: str, expected: list[str]) -> None:
    assert splitter(pattern)("I'll say 12345   OK!!\n\né\n") == expected


def test_unknown_pattern_is_named() -> None:
    with pytest.raises(UsageError, match=r"'gpt9' is not known.*gpt2"):
        splitter("gpt9")


OWN = [Tokenizer([(97, 98), (256, 99)], pattern=expression) for expression in (r"\w+|\s+", r"[a-z]{2}", r"\p{Lu}?\p{L}+", r"x*")]


@settings(max_examples=200)
@given(text=st.one_of(st.text(), st.text(alphabet="abcx é")), tokenizer=st.sampled_from(OWN))
def test_a_regular_expression_of_ones_own_loses_nothing(text: str, tokenizer: Tokenizer) -> None:
    pretokens = splitter(tokenizer.pattern)(text)
    assert "".join(pretokens) == text and "" not in pretokens
    ids = tokenizer.encode_ordinary(text)
    assert tokenizer.decode(ids) == text
    assert ids.tolist() == ReferenceTokenizer(tokenizer.merges, tokenizer.pattern).encode_ordinary(text.encode()).tolist()


def test_a_tokenizer_is_trained_with_an_expression_of_ones_own(capfd: pytest.CaptureFixture[str]) -> None:
    _say_that_it_is_slow.cache_clear()
    tokenizer = Tokenizer.train(["abab ab", "ab12"] * 4, 258, pattern=r"\p{L}+|\s|\d", n_workers=1)
    assert tokenizer.merges == [(97, 98)]
    assert capfd.readouterr().err.count("goes through the regex module") == 1
    with pytest.raises(UsageError, match="is no regular expression"):
        Tokenizer([], pattern="(a")
