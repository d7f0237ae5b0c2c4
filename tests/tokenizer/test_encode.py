"""Encoding and decoding lose no byte, follow the special-token policy, and agree however the work is spread."""

import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import groundup
from groundup import ahead
from groundup.errors import UsageError
from groundup.tokenizer import END_OF_TEXT, PATTERNS, Tokenizer
from groundup.tokenizer.patterns import splitter, to_bytes, to_text
from groundup.tokenizer.reference import ReferenceTokenizer

SOURCES = [path.read_bytes() for path in sorted(Path(groundup.__file__).parent.glob("tokenizer/*.py"))]
TOKENIZERS = [
    Tokenizer.train([*SOURCES, "Grüße, мир! 你好 🌍 é".encode() * 3], 700, pattern=pattern, special_tokens=(END_OF_TEXT, "<|a|>", "<|a|>b"))
    for pattern in PATTERNS
]
TOKENIZER = TOKENIZERS[0]
for each in TOKENIZERS:
    each.encode("a")  # compiles, or finds compiled, what would take a test over its deadline
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


def test_encoding_is_what_the_reference_does() -> None:
    for tokenizer in TOKENIZERS:
        reference = ReferenceTokenizer(tokenizer.merges, tokenizer.pattern)
        for text in SOURCES:
            assert np.array_equal(tokenizer.encode_ordinary(text), reference.encode_ordinary(text))


@given(ANY, st.one_of(st.binary(), st.text().map(str.encode), TEXT.map(str.encode)))
def test_any_input_is_encoded_as_by_the_reference(tokenizer: Tokenizer, data: bytes) -> None:
    assert np.array_equal(tokenizer.encode_ordinary(data), ReferenceTokenizer(tokenizer.merges, tokenizer.pattern).encode_ordinary(data))


@pytest.mark.parametrize("like", TOKENIZERS)
def test_while_it_is_compiled_the_plain_twin_answers(like: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"".join(SOURCES[:3]) + b"\xff\xfe <|a|> \xe4" + "Grüße, 你好".encode()
    expected = like.encode(text, allowed_special={"<|a|>"})
    fresh = Tokenizer(like.merges, list(like.special_tokens), like.pattern)
    monkeypatch.setattr(ahead, "pending", lambda module: True)
    monkeypatch.setattr("groundup.tokenizer.tokenizer.compiled_room", None)
    assert np.array_equal(fresh.encode(text, allowed_special={"<|a|>"}), expected)
    assert fresh.decode_bytes(expected) == text


def test_a_cache_of_hardly_any_room_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.tokenizer.encoder.NARROW_SETS", 2)
    monkeypatch.setattr("groundup.tokenizer.encoder.WIDE_SETS", 2)
    crowded = Tokenizer(TOKENIZER.merges, list(TOKENIZER.special_tokens))
    for text in [*SOURCES, "Данные, 你好 и ещё раз данные ".encode() * 50]:
        for _ in range(2):
            assert np.array_equal(crowded.encode_ordinary(text), TOKENIZER.encode_ordinary(text))


@pytest.mark.parametrize("unit", ["a", " ", "selfdef", "é", "中文", "\n", "=", "deadbeef"])
def test_a_long_stretch_without_bounds_is_encoded_as_by_the_reference(unit: str) -> None:
    data = ("x " + unit * (50_000 // len(unit)) + " y").encode()
    for tokenizer in TOKENIZERS[:3]:
        expected = ReferenceTokenizer(tokenizer.merges, tokenizer.pattern).encode_ordinary(data)
        assert np.array_equal(tokenizer.encode_ordinary(data), expected)


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_threads_share_one_text(n_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.tokenizer.tokenizer._PIECE_BYTES", 1000)
    data = b"".join([*SOURCES, "слово 深度学习 é ".encode() * 500, END_OF_TEXT.encode(), b"x" * 5000])
    expected = ReferenceTokenizer(TOKENIZER.merges).encode_ordinary(data)
    assert np.array_equal(TOKENIZER.encode_ordinary(data, n_workers=n_workers), expected)
    assert TOKENIZER.count(data, disallowed_special=(), n_workers=n_workers) == expected.size
    special = TOKENIZER.encode(data, allowed_special="all", n_workers=n_workers)
    assert TOKENIZER.decode_bytes(special) == data and (special == TOKENIZER.end_of_text).sum() == data.count(END_OF_TEXT.encode())


def by_bytes(ids: dict[bytes, int], pretoken: bytes) -> list[int]:
    """tiktoken's rule: of all neighbours that are a token together, join those with the lowest id, leftmost first."""
    parts = [bytes([byte]) for byte in pretoken]
    while found := [(ids[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ids]:
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [ids[part] for part in parts]


@given(st.lists(st.text(alphabet="abcde", min_size=2, max_size=6), unique=True, max_size=40), st.text(alphabet="abcde ", max_size=80))
def test_a_vocabulary_without_merges_follows_tiktoken(words: list[str], text: str) -> None:
    vocabulary = [bytes([byte]) for byte in range(255, -1, -1)] + [word.encode() for word in words]
    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(None, {END_OF_TEXT: 400}, vocabulary=vocabulary)
    pretokens = [word.encode() for word in splitter("gpt2")(text)]
    expected = [token for word in pretokens for token in ([ids[word]] if word in ids else by_bytes(ids, word))]
    assert tokenizer.encode(text).tolist() == expected
    merged = Tokenizer(None, {END_OF_TEXT: 400}, vocabulary=vocabulary, whole=False)
    assert merged.encode(text).tolist() == [token for word in pretokens for token in by_bytes(ids, word)]
    assert pickle.loads(pickle.dumps(tokenizer)).encode(text).tolist() == expected


PLANES = "你好吗的中文、。，かなカナー한국어다é ñßжя🌍😀👩‍🔬ไทย\u0301a b1\n"
FRAGMENTS = st.text(alphabet=PLANES, min_size=1, max_size=4).flatmap(
    lambda text: st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda cut: text.encode()[cut[0] : len(text.encode()) - cut[1]])
)
"""A few characters, of which the first and the last may lack bytes."""

TEXTS = st.one_of(st.text(alphabet=PLANES, max_size=80).map(str.encode), st.lists(FRAGMENTS, max_size=12).map(b"".join))


@given(st.lists(FRAGMENTS.filter(lambda token: len(token) > 1), unique=True, max_size=60), TEXTS, st.sampled_from(["gpt2", "cl100k"]))
def test_tokens_across_characters_and_of_parts_of_them(fragments: list[bytes], data: bytes, pattern: str) -> None:
    vocabulary = [bytes([byte]) for byte in range(256)] + fragments
    ids = {token: i for i, token in enumerate(vocabulary)}
    pretokens = [to_bytes(pretoken) for pretoken in splitter(pattern)(to_text(data))]
    merged = Tokenizer(None, (), pattern, vocabulary=vocabulary, whole=False)
    whole = Tokenizer(None, (), pattern, vocabulary=vocabulary)
    for _ in range(2):  # the second time all is in the cache
        assert merged.encode_ordinary(data).tolist() == [token for word in pretokens for token in by_bytes(ids, word)]
        expected = [token for word in pretokens for token in ([ids[word]] if word in ids else by_bytes(ids, word))]
        assert whole.encode_ordinary(data).tolist() == expected


@pytest.mark.parametrize("pair", [" 한", "한국", "かな", "éñ", "aé", "中文", "🌍😀", "中🌍", "é中", "中a"])
def test_a_token_of_parts_of_two_characters_reaches_across_wherever_they_stand(pair: str) -> None:
    left, right = (character.encode() for character in pair)
    some = "".join(chr(ord(right.decode()) ^ i) for i in range(64))
    for n in range(1, len(right) + 1):
        fragments = [right[:i] for i in range(2, n + 1)] + [left[-1:] + right[:n]]
        vocabulary = [bytes([byte]) for byte in range(256)] + fragments
        tokenizer = Tokenizer(None, (), "gpt2", vocabulary=vocabulary, whole=False)
        ids = {token: i for i, token in enumerate(vocabulary)}
        for text in (pair * 20, "".join(pair[0] + character for character in some)):
            for data in (
                text.encode(),
                text.encode() + left + right[:n],
                text.encode() + left + right[:n] + b"\xff" + left + right[:n] + b"a",
            ):
                pretokens = [to_bytes(pretoken) for pretoken in splitter("gpt2")(to_text(data))]
                assert tokenizer.encode_ordinary(data).tolist() == [token for word in pretokens for token in by_bytes(ids, word)]


def test_a_segment_is_not_taken_for_a_pretoken() -> None:
    pair = "你好".encode()  # a token that merges do not make
    tokenizer = Tokenizer(None, (), "cl100k", vocabulary=[*(bytes([byte]) for byte in range(256)), pair, "吗".encode()[:2]])
    for text in ("你好", "吗你好", "你好吗你好", "你好吗" * 30, "你好"):
        expected = [256] if text == "你好" else by_bytes({token: i for i, token in enumerate(tokenizer.token_bytes)}, text.encode())
        for _ in range(2):
            assert tokenizer.encode(text).tolist() == expected


@given(st.lists(st.text(alphabet=PLANES, min_size=40, max_size=400), min_size=3, max_size=3), st.integers(280, 500), ANY)
@settings(max_examples=30)
def test_text_in_scripts_without_spaces_is_encoded_as_by_the_reference(texts: list[str], size: int, like: Tokenizer) -> None:
    tokenizer = Tokenizer.train([text.encode()[i:] for i, text in enumerate(texts)], size, pattern=like.pattern, n_workers=1)
    reference = ReferenceTokenizer(tokenizer.merges, tokenizer.pattern)
    for text in texts:
        for data in (text.encode(), text.encode()[1:-1], text.replace(" ", "").encode()):
            assert np.array_equal(tokenizer.encode_ordinary(data), reference.encode_ordinary(data))


def test_of_the_ways_to_make_a_token_only_that_stays_which_merges_take() -> None:
    trained = TOKENIZERS[1]
    ranks = Tokenizer(None, (), trained.pattern, vocabulary=trained.token_bytes[: 256 + len(trained.merges)])
    kept = ranks._encoder.pairs.reshape(-1, 2)
    kept = kept[kept[:, 0] != np.uint64(2**64 - 1)][:, 0]
    assert len(ranks.pairs) > len(trained.merges)
    assert sorted(kept.tolist()) == sorted(left << 32 | right for left, right in trained.merges)


def test_merges_with_ids_of_their_own() -> None:
    vocabulary = [b"", *(bytes([byte]) for byte in range(256)), b"abc", b"bc", b"ab"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer([(ids[b"a"], ids[b"b"]), (ids[b"ab"], ids[b"c"])], {"<s>": 0}, vocabulary=vocabulary)
    assert tokenizer.encode("<s>abc", allowed_special="all").tolist() == [0, ids[b"abc"]]
    assert tokenizer.encode("abbc").tolist() == [ids[b"ab"], ids[b"b"], ids[b"c"]]
    assert tokenizer.decode([0, ids[b"bc"]]) == "<s>bc"


def test_entries_that_make_no_sense_are_named() -> None:
    single = [bytes([byte]) for byte in range(256)]
    with pytest.raises(UsageError, match=r"lacks the byte b'a'"):
        Tokenizer(None, vocabulary=[token for token in single if token != b"a"])
    with pytest.raises(UsageError, match=r"ids 97 and 256 are both b'a'"):
        Tokenizer(None, vocabulary=[*single, b"a"])
    with pytest.raises(UsageError, match=r"merge 0 makes b'ab', which is no token"):
        Tokenizer([(97, 98)], vocabulary=single)
    with pytest.raises(UsageError, match=r"merge 0 joins ids 97 and 300"):
        Tokenizer([(97, 300)], vocabulary=single)
    with pytest.raises(UsageError, match=r"'<a>' has id 98, which is b'b'"):
        Tokenizer(None, {"<a>": 98}, vocabulary=single)
    with pytest.raises(UsageError, match=r"'<a>' and '<b>' both have id 256"):
        Tokenizer(None, {"<a>": 256, "<b>": 256}, vocabulary=single)
    with pytest.raises(UsageError, match=r"id 256 stands for nothing"):
        Tokenizer(None, {"<a>": 257}, vocabulary=single).decode([256])
    with pytest.raises(UsageError, match="give one"):
        Tokenizer(None)


@given(ANY, TEXT | st.text())
def test_offsets_are_where_the_tokens_stand(tokenizer: Tokenizer, text: str) -> None:
    ids, in_bytes, in_characters = tokenizer.encode_with_offsets(text, allowed_special="all")
    assert np.array_equal(ids, tokenizer.encode(text, allowed_special="all"))
    data = text.encode()
    for token, (start, stop), (first, last) in zip(ids, in_bytes, in_characters, strict=True):
        assert data[start:stop] == tokenizer.token_bytes[token]
        assert len(text[:first].encode()) <= start and len(text[:last].encode()) >= stop
        assert first == last - 1 or len(text[: first + 1].encode()) > start


def test_a_file_becomes_an_array_of_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundup.tokenizer.tokenizer._PIECE_BYTES", 1000)
    text = tmp_path / "text"
    for data in (b"", b"".join(SOURCES)):
        text.write_bytes(data)
        n = TOKENIZER.encode_file(text, tmp_path / "ids.npy")
        ids = np.load(tmp_path / "ids.npy", mmap_mode="r")
        assert ids.dtype == np.uint16 and n == ids.size
        assert np.array_equal(ids, TOKENIZER.encode_ordinary(data))
    with pytest.raises(UsageError, match="cannot be read"):
        TOKENIZER.encode_file(tmp_path / "none", tmp_path / "ids.npy")
    text.write_bytes(b"a " + END_OF_TEXT.encode())
    with pytest.raises(UsageError, match="at byte 2"):
        TOKENIZER.encode_file(text, tmp_path / "other.npy", disallowed_special="all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.npy", "text"]


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
