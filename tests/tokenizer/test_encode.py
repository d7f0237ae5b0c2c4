"""Encoding and decoding lose no byte, follow the special-token policy, and agree however the work is spread."""

import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import groundup
from groundup.errors import UsageError
from groundup.tokenizer import END_OF_TEXT, PATTERNS, Tokenizer
from groundup.tokenizer.patterns import splitter

SOURCES = [path.read_bytes() for path in sorted(Path(groundup.__file__).parent.glob("tokenizer/*.py"))]
TOKENIZERS = [
    Tokenizer.train([*SOURCES, "Grüße, мир! 你好 🌍 é".encode() * 3], 700, pattern=pattern, special_tokens=(END_OF_TEXT, "<|a|>", "<|a|>b"))
    for pattern in PATTERNS
]
TOKENIZER = TOKENIZERS[0]
ANY = st.sampled_from(TOKENIZERS)
TEXT = st.lists(st.sampled_from(["the ", "def ", "    ", "\n", "é", "你好", "🌍", "'ll", "12", "<|a|>", END_OF_TEXT, "x"])).map("".join)


def by_rank(tokenizer: Tokenizer, pretoken: bytes) -> list[int]:
    """The textbook's encoder: find the earliest merge that fits, join its leftmost place, look again."""
    ids = list(pretoken)
    rank = {pair: k for k, pair in enumerate(tokenizer.merges)}
    while True:
        found = [(rank[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in rank]
        if not found:
            return ids
        k, i = min(found)
        ids[i : i + 2] = [256 + k]


@given(ANY, st.one_of(st.binary(), TEXT.map(str.encode)))
def test_every_input_comes_back_byte_for_byte(tokenizer: Tokenizer, data: bytes) -> None:
    ids = tokenizer.encode_ordinary(data)
    assert ids.dtype == np.uint32
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")
    assert tokenizer.n_bytes(ids).sum() == len(data)
    assert tokenizer.count(data, disallowed_special=()) == len(ids)


@given(st.text(alphabet="abdefinrstu_ =(", max_size=80).map(lambda text: "x" + text.replace(" ", "_")))
def test_merges_apply_by_rank(text: str) -> None:
    tokenizer = Tokenizer(TOKENIZER.merges)  # nothing remembered from training
    words = splitter("gpt2")(text)
    assert tokenizer.encode(text).tolist() == [token for word in words for token in by_rank(tokenizer, word.encode())]


@pytest.mark.parametrize("unit", ["a", " ", "ab", "selfdef", "\n ", "=-"])
def test_long_runs_apply_merges_by_rank(unit: str) -> None:
    tokenizer = Tokenizer.train([unit.encode() * n for n in range(1, 40)], 290, n_workers=1)
    text = unit * 301
    words = splitter("gpt2")(text)
    assert tokenizer.encode(text).tolist() == [token for word in words for token in by_rank(tokenizer, word.encode())]


def test_what_training_remembers_is_what_encoding_makes() -> None:
    fresh = Tokenizer(TOKENIZER.merges, list(TOKENIZER.special_tokens))
    for text in SOURCES:
        assert np.array_equal(TOKENIZER.encode_ordinary(text), fresh.encode_ordinary(text))


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = TOKENIZER.encode_ordinary(SOURCES[0])
    tokenizer = Tokenizer(TOKENIZER.merges, list(TOKENIZER.special_tokens))
    monkeypatch.setattr(type(tokenizer._words), "limit", 10)
    assert np.array_equal(tokenizer.encode_ordinary(SOURCES[0]), expected)
    tokenizer.encode("y" * 1000)
    assert len(tokenizer._words) <= 10 and "y" * 1000 not in tokenizer._words


@pytest.mark.parametrize("n_workers", [1, 2, 3, None])
def test_batches_agree_with_single_texts(n_workers: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [b"", *SOURCES, b"", "é".encode() * 100, b"\xff\xfe", b"<|a|>b", b""]
    expected = [TOKENIZER.encode(text, allowed_special="all") for text in texts]
    monkeypatch.setattr("groundup.tokenizer.tokenizer._PIECE_BYTES", 500)
    monkeypatch.setattr("groundup.tokenizer.tokenizer._BATCH_BYTES", 3000)
    got = TOKENIZER.encode_batch(texts, allowed_special="all", n_workers=n_workers)
    assert len(got) == len(texts)
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    ordinary = TOKENIZER.encode_ordinary_batch(texts, n_workers=n_workers)
    assert [TOKENIZER.decode_bytes(ids) for ids in ordinary] == texts
    assert TOKENIZER.encode_ordinary_batch([], n_workers=n_workers) == []


def test_an_endless_stream_is_encoded_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.tokenizer.tokenizer._BATCH_BYTES", 100)
    endless = (b"text number %d" % i for i in iter(int, 1))
    stream = TOKENIZER.encode_iterable(endless, n_workers=2)
    assert TOKENIZER.decode(next(stream)) == "text number 0"
    stream.close()


def test_special_tokens_by_policy() -> None:
    text = f"a {END_OF_TEXT}<|a|>b"
    eot, a, ab = TOKENIZER.special_tokens.values()
    with pytest.raises(UsageError, match=r"'<\|endoftext\|>' at byte 2: pass allowed_special=.*disallowed_special=\(\)"):
        TOKENIZER.encode(text)
    with pytest.raises(UsageError, match=r"'<\|a\|>b' at byte 15"):
        TOKENIZER.encode(text, allowed_special={END_OF_TEXT})
    assert TOKENIZER.encode(text, allowed_special="all").tolist()[-2:] == [eot, ab]
    some = TOKENIZER.encode(text, allowed_special={"<|a|>"}, disallowed_special=())
    assert a in some and eot not in some and ab not in some
    assert TOKENIZER.encode_ordinary(text).max() < eot
    assert TOKENIZER.end_of_text == eot == TOKENIZER.vocab_size - 3
    assert TOKENIZER.decode([eot, 65]) == END_OF_TEXT + "A"
    assert TOKENIZER.n_bytes(np.array([[eot, 65], [ab, 66]])).tolist() == [[0, 1], [0, 1]]


def test_wrong_choices_of_special_tokens_are_named() -> None:
    with pytest.raises(UsageError, match=r"'<\|b\|>' is not a special token here"):
        TOKENIZER.encode("x", allowed_special={"<|b|>"})
    with pytest.raises(UsageError, match="by a set of them"):
        TOKENIZER.encode("x", allowed_special="<|a|>")
    with pytest.raises(UsageError, match=r"no <\|endoftext\|>"):
        _ = Tokenizer([], special_tokens=()).end_of_text


def test_lone_surrogates_in_a_str_become_replacement_characters() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b")) == "a\ufffdb"
    assert TOKENIZER.decode(TOKENIZER.encode("\ud83c\udf0d")) == "🌍"


@given(ANY, st.lists(st.integers(0, 500)) | TEXT)
def test_stream_decoder_equals_decode(tokenizer: Tokenizer, given_ids: list[int] | str) -> None:
    ids = tokenizer.encode_ordinary(given_ids).tolist() if isinstance(given_ids, str) else given_ids
    decoder = tokenizer.decoder()
    for _ in range(2):  # a finished decoder is as new
        pushed = [decoder.push(token) for token in ids]
        assert "".join(pushed) + decoder.finish() == tokenizer.decode(ids)


def test_stream_decoder_waits_for_whole_characters() -> None:
    decoder = TOKENIZER.decoder()
    assert [decoder.push(byte) for byte in "é🌍".encode()] == ["", "é", "", "", "", "🌍"]
    assert decoder.push(0xE4) == "" and decoder.finish() == "\ufffd"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("ids", [[-1], [700], np.array([3, 10**9], dtype=np.uint32)])
def test_ids_out_of_range_are_named(ids: list[int]) -> None:
    for ask in (TOKENIZER.decode, TOKENIZER.decode_bytes, TOKENIZER.n_bytes):
        with pytest.raises(UsageError, match=rf"id {ids[-1]} is outside this tokenizer's 0..699"):
            ask(ids)
    with pytest.raises(UsageError, match="whole numbers"):
        TOKENIZER.decode([0.5])


def test_no_ids_are_no_text() -> None:
    assert TOKENIZER.encode("").shape == (0,)
    assert TOKENIZER.decode([]) == "" and TOKENIZER.n_bytes([]).sum() == 0


def test_a_large_vocabulary_passes_through_the_surrogates() -> None:
    pairs = [(a, b) for a in range(256) for b in range(256) if (a, b) != (97, 98)][:57_000]
    pairs.insert(0xDABC - 256, (97, 98))
    tokenizer = Tokenizer(pairs)
    assert tokenizer.encode("ab").tolist() == [0xDABC]
    assert tokenizer.decode([0xDABC]) == "ab"


def test_hash_says_what_decides_the_ids() -> None:
    base = Tokenizer([(97, 98)])
    assert base.hash == Tokenizer([(97, 98)]).hash == pickle.loads(pickle.dumps(base)).hash
    others = [Tokenizer([(98, 97)]), Tokenizer([(97, 98)], ["<|x|>"]), Tokenizer([(97, 98)], pattern="qwen2")]
    assert len({base.hash, *(other.hash for other in others)}) == 4


def test_importing_it_loads_neither_torch_nor_numba() -> None:
    code = "import sys, groundup.tokenizer; sys.exit(bool({'torch', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
