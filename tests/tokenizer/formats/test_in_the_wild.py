"""A ``tokenizer.json`` made by Hugging Face's ``tokenizers``, with the components that models have, gives the ids that it gives there."""

import json
from pathlib import Path
from unicodedata import ucd_3_2_0

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

import groundup
from groundup.tokenizer import Tokenizer

TEXTS = [path.read_text() for path in sorted(Path(groundup.__file__).parent.glob("tokenizer/*.py"))]
MIXED = "Grüße, мир! DON'T don't 你好世界 🌍🌍 ١٢٣ 12345 café cafe\u0301 naïve Ω≈ç√ हिन्दी ภาษาไทย 각각\r\n\t the  cat   sat 2024 "

# Libraries follow different versions of Unicode, so only what all of them know is compared.
KNOWN = st.characters(exclude_categories=["Cn", "Cs"]).filter(lambda character: ucd_3_2_0.category(character) != "Cn")
WORDS = st.lists(
    st.sampled_from(
        [
            *[
                "a",
                "the",
                " def",
                "self",
                "é",
                "e\u0301",
                "\u0301",
                "각",
                "\u1100\u1161",
                "你",
                "'s",
                "12",
                "٣",
                "Ⅷ",
                "🌍",
                "!",
                "__",
                "▁",
                "Å",
            ],
            *[" ", "  ", "    ", "\t", "\n", "\r\n", "\u3000", "\x85", "\x1c", "\x00", "<0x41>"],
            *["<s>", "</s>", "<left>", "<right>", "<both>", "<word>", "<plain>", "<caf\u00e9>", "<cafe\u0301>"],
        ]
    ),
    max_size=30,
).map("".join)
TEXT = st.one_of(st.text(alphabet=KNOWN), WORDS)

ADDED = [
    AddedToken("<s>", special=True, normalized=False),
    AddedToken("</s>", special=True, normalized=False),
    AddedToken("<left>", lstrip=True, normalized=False),
    AddedToken("<right>", rstrip=True, normalized=False),
    AddedToken("<both>", lstrip=True, rstrip=True, special=True, normalized=False),
    AddedToken("<word>", single_word=True, normalized=False),
    AddedToken("<plain>", normalized=True),
    AddedToken("    ", normalized=True),
    AddedToken("<caf\u00e9>", normalized=True),
]


def split(expression: str, behavior: str = "isolated", invert: bool = False) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(expression), behavior, invert)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
PRE_TOKENIZERS = {
    "gpt2": [GPT2],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), GPT2],
    "digits together": [pre_tokenizers.Digits(individual_digits=False), GPT2],
    "bytes alone": [BYTES],
    "words": [split(r"\w+|[^\w\s]+"), BYTES],
    "one by one": [split(r"\d"), split(r"[a-e]+", "merged_with_previous"), BYTES],
    "with next": [split(r"\s", "merged_with_next"), BYTES],
    "contiguous": [split(r"[\p{L}\s]", "contiguous"), BYTES],
    "inverted": [split(r"\p{L}+", "merged_with_next", invert=True), BYTES],
    "literal": [pre_tokenizers.Split(" ", "merged_with_next"), split(r"\p{N}{1,2}"), GPT2],
}


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """Byte-level, normalized, with added tokens of every kind and a template."""
    theirs = tokenizers.Tokenizer(models.BPE(ignore_merges=request.param == "words"))
    if request.param not in ("digits together", "literal"):
        theirs.normalizer = normalizers.Sequence([normalizers.NFC()])
    theirs.pre_tokenizer = pre_tokenizers.Sequence(PRE_TOKENIZERS[request.param])
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False, special_tokens=["<s>"], min_frequency=2
    )
    theirs.train_from_iterator([*TEXTS, MIXED * 20], trainer)
    theirs.add_tokens(ADDED)
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", theirs.token_to_id("</s>"))])
    theirs.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    path = tmp_path_factory.mktemp("wild") / "tokenizer.json"
    theirs.save(str(path))
    return Tokenizer.load(path), theirs


@pytest.fixture(scope="module")
def again(pair: tuple[Tokenizer, tokenizers.Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """What was loaded, saved, and loaded by both."""
    path = tmp_path_factory.mktemp("again") / "tokenizer.json"
    pair[0].save(path)
    return Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))


@settings(max_examples=100)
@given(text=TEXT)
def test_the_same_ids(pair: tuple[Tokenizer, tokenizers.Tokenizer], text: str) -> None:
    ours, theirs = pair
    expected = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text, allowed_special="all").tolist() == expected.ids
    assert ours.encode(text, allowed_special="all", add_special_tokens=True).tolist() == theirs.encode(text).ids
    if "<caf\u00e9>" not in [ours.token_bytes[token].decode("utf-8", "replace") for token in expected.ids]:  # theirs takes its é for a byte
        assert ours.decode(expected.ids) == theirs.decode(expected.ids, skip_special_tokens=False)


def test_the_same_ids_of_real_text_however_it_is_asked(pair: tuple[Tokenizer, tokenizers.Tokenizer], tmp_path: Path) -> None:
    ours, theirs = pair
    text = MIXED.join(TEXTS[:5])
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, allowed_special="all", n_workers=2).tolist() == expected
    assert ours.count(text, allowed_special="all") == len(expected)
    (tmp_path / "text").write_text(text, encoding="utf-8", newline="")
    assert ours.encode_file(tmp_path / "text", tmp_path / "ids.npy", allowed_special="all") == len(expected)
    batch = ours.encode_batch([MIXED, "", text], allowed_special="all", add_special_tokens=True)
    assert [ids.tolist() for ids in batch] == [theirs.encode(each).ids for each in (MIXED, "", text)]


@settings(max_examples=50)
@given(text=TEXT)
def test_what_is_saved_is_what_was_loaded(
    pair: tuple[Tokenizer, tokenizers.Tokenizer], again: tuple[Tokenizer, tokenizers.Tokenizer], text: str
) -> None:
    (ours, theirs), (ours_again, theirs_again) = pair, again
    assert ours_again.hash == ours.hash
    expected = theirs.encode(text).ids
    assert ours_again.encode(text, allowed_special="all", add_special_tokens=True).tolist() == expected
    assert theirs_again.encode(text).ids == expected


@settings(max_examples=100)
@given(text=TEXT)
def test_offsets_point_at_the_text_before_it_was_normalized(pair: tuple[Tokenizer, tokenizers.Tokenizer], text: str) -> None:
    ours, _ = pair
    found = ours.encode_with_offsets(text, allowed_special="all")
    data = text.encode()
    assert found.ids.tolist() == ours.encode(text, allowed_special="all").tolist()
    covered = sorted({place for begin, end in found.bytes.tolist() for place in range(begin, end)})
    assert covered == list(range(len(data)))
    assert (found.bytes[:, 0] <= found.bytes[:, 1]).all()
    for token, (begin, end) in zip(found.ids.tolist(), found.bytes.tolist(), strict=True):
        if data[begin:end].isascii() and token not in {added.id for added in ours.added_tokens}:
            assert data[begin:end] == ours.token_bytes[token]


BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]
REPLACE = normalizers.Replace(" ", "▁")
SPACES = {
    "Llama 2": (normalizers.Sequence([normalizers.Prepend("▁"), REPLACE]), None),
    "Gemma": (REPLACE, pre_tokenizers.Split(" ", "merged_with_previous")),
    "Metaspace first": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "Metaspace always": (None, pre_tokenizers.Metaspace(prepend_scheme="always", split=True)),
    "Metaspace never": (None, pre_tokenizers.Metaspace(prepend_scheme="never", split=True)),
}


@pytest.fixture(scope="module", params=SPACES)
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """Characters that fall back to bytes."""
    theirs = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    normalizer, pre_tokenizer = SPACES[request.param]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *BYTE_NAMES], limit_alphabet=110, min_frequency=2
    )
    theirs.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    theirs.train_from_iterator([*TEXTS, MIXED * 20], trainer)
    content = json.loads(theirs.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in BYTE_NAMES]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    theirs.pre_tokenizer, theirs.normalizer = pre_tokenizer, normalizer
    theirs.add_tokens([added for added in ADDED if added.content != "    " and (normalizer is None or not added.normalized)])
    strip = [decoders.Strip(" ", 1, 0)] if "Gemma" not in request.param and "never" not in request.param else []
    theirs.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    theirs.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.json"
    theirs.save(str(path))
    return Tokenizer.load(path), theirs


@settings(max_examples=150)
@given(text=TEXT)
def test_characters_fall_back_to_the_same_bytes(pieces: tuple[Tokenizer, tokenizers.Tokenizer], text: str) -> None:
    ours, theirs = pieces
    expected = theirs.encode(text, add_special_tokens=False).ids
    assert ours.encode(text, allowed_special="all").tolist() == expected
    assert ours.encode(text, allowed_special="all", add_special_tokens=True).tolist() == theirs.encode(text).ids
    assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False)
    stream = ours.decoder()
    assert "".join([*map(stream.push, expected), stream.finish()]) == ours.decode(expected)


def test_pieces_of_real_text(pieces: tuple[Tokenizer, tokenizers.Tokenizer], tmp_path: Path) -> None:
    ours, theirs = pieces
    ours.save(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).hash == ours.hash
    text = MIXED.join(TEXTS[:5])
    assert again.encode(text).ids == theirs.encode(text).ids
    assert ours.encode(text, allowed_special="all", n_workers=2).tolist() == theirs.encode(text, add_special_tokens=False).ids
    data = "\udcff".encode("utf-8", "surrogateescape") + "é𝒳".encode()[:-1]
    assert ours.decode_bytes(ours.encode_ordinary(data)) == data


@settings(max_examples=100)
@given(text=TEXT)
def test_offsets_of_pieces_cover_the_text(pieces: tuple[Tokenizer, tokenizers.Tokenizer], text: str) -> None:
    ours, _ = pieces
    found = ours.encode_with_offsets(text, allowed_special="all")
    covered = sorted({place for begin, end in found.bytes.tolist() for place in range(begin, end)})
    assert covered == list(range(len(text.encode())))
