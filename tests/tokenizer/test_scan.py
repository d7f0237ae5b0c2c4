"""Compiled pre-tokenization says what the patterns say: of every code point, in every position, across every kind of bound."""

from itertools import product

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from groundup.tokenizer.classes import class_table
from groundup.tokenizer.machine import SOURCES
from groundup.tokenizer.patterns import PATTERNS, to_bytes, to_text
from groundup.tokenizer.pretokens import pretoken_ends
from groundup.tokenizer.scan import CHUNK, KINDS

NAMES = sorted(PATTERNS)
WHOLE = {name: regex.compile(pattern) for name, pattern in PATTERNS.items()}
FEW = [
    "a",
    "B",
    "é",
    "É",
    "ǅ",
    "ʰ",
    "中",
    "か",
    "・",
    "1",
    "²",
    "١",
    " ",
    "\t",
    "\n",
    "\r",
    "\x85",
    "\xa0",
    "\u3000",
    "'",
    "s",
    "ſ",
    "(",
    "/",
]
FEW += ["“", "—", "😀", "\u0301", "\ufe0f", "\u200b", "\x00", "\x7f", "\ue000", "\U000e0001", "\U000e0100"]
RUNS = [
    " ",
    "  ",
    "\n  \n",
    "\r\n",
    "'s",
    "'LL",
    "'re",
    "'ſt",
    "1234567",
    "1" * 70,
    "((",
    "//",
    "word",
    "Word",
    "WORD",
    "слово",
    "中文",
    "हिन्दी",
    "👩‍💻",
]
BROKEN = [b"\xff", b"\x80", b"\xe4\xbd", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xf0\x9f\x98"]


def expected_ends(data: bytes, pattern: str) -> np.ndarray:
    pretokens = WHOLE[pattern].findall(to_text(data))
    assert sum(map(len, pretokens)) == len(to_text(data))
    return np.cumsum([len(to_bytes(pretoken)) for pretoken in pretokens])


def assert_splits(data: bytes, pattern: str) -> None:
    found, expected = pretoken_ends(data, pattern), expected_ends(data, pattern)
    if not np.array_equal(found, expected):
        at = int(min(set(found.tolist()) ^ set(expected.tolist())))
        raise AssertionError(f"{pattern} differs at byte {at}: {data[max(0, at - 40) : at]!r} | {data[at : at + 20]!r}")


@pytest.mark.parametrize("pattern", NAMES)
def test_every_code_point(pattern: str) -> None:
    points = [*range(0xD800), *range(0xE000, 0x40000), *range(0x40000, 0x110000, 97), *range(0xE0000, 0xE1000)]
    for first in range(0, len(points), 1 << 16):
        text = "".join(f"a{chr(point)}B {chr(point)}b1({chr(point)}" for point in points[first : first + (1 << 16)])
        assert_splits(text.encode(), pattern)


@pytest.mark.parametrize("pattern", NAMES)
def test_what_no_category_has_members_of_is_classed_as_nothing(pattern: str) -> None:
    beyond = "".join(map(chr, [*range(0x40000, 0xE0000), *range(0xE1000, 0x110000)]))
    assert regex.search(r"[\p{L}\p{M}\p{N}\p{P}\p{S}\s]", beyond) is None
    assert len(set(class_table(pattern)[0x40000:0xE0000])) == 1


@pytest.mark.parametrize("pattern", NAMES)
def test_few_characters_in_every_order(pattern: str) -> None:
    for a in FEW:
        assert_splits("".join(f"{a}{b}{c}x {a}{b}{c} " for b, c in product(FEW, FEW)).encode(), pattern)


@pytest.mark.parametrize("pattern", NAMES)
@given(st.lists(st.sampled_from([*map(str.encode, FEW + RUNS), *BROKEN]), max_size=30).map(b"".join))
def test_any_text_of_what_patterns_look_at(pattern: str, data: bytes) -> None:
    assert_splits(data, pattern)


@pytest.mark.parametrize("pattern", NAMES)
@given(st.text() | st.text(st.characters(max_codepoint=0x2FF)) | st.binary())
def test_any_text(pattern: str, text: str | bytes) -> None:
    assert_splits(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), pattern)


@pytest.mark.parametrize("pattern", NAMES)
@given(
    st.integers(0, 200), st.sampled_from(["a", " ", "é", "x ", "\n", "1", "(", "é "]), st.lists(st.sampled_from(FEW + RUNS), max_size=20)
)
def test_chunks_meet_without_a_seam(pattern: str, before: int, filling: str, text: list[str]) -> None:
    n = (CHUNK - before) // len(filling.encode())
    assert_splits((filling * n + "".join(text) + filling * n + "".join(text)).encode(), pattern)


def test_every_pattern_is_compiled_and_every_source_watched() -> None:
    assert KINDS.keys() == PATTERNS.keys()
    assert {
        "scan.py",
        "pretokens.py",
        "engine.py",
        "rules.py",
        "matching.py",
        "merge_loops.py",
        "crossings.py",
        "machine.py",
        "classes.py",
    } == set(SOURCES)
