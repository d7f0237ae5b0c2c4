"""The saved file opens in Hugging Face's ``tokenizers`` with the same ids, comes back whole, and bad files are refused by name."""

import json
import os
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from unicodedata import ucd_3_2_0

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

import groundup
from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import END_OF_TEXT, PATTERNS, Tokenizer
from groundup.tokenizer.formats.json_writing import to_json
from groundup.tokenizer.pretokens import pretoken_ends

SOURCES = [path.read_bytes() for path in sorted(Path(groundup.__file__).parent.glob("tokenizer/*.py"))]
MIXED = "Grüße, мир! DON'T don't 你好世界 🌍🌍 ١٢٣ 12345 café naïve Ω≈ç√ हिन्दी ภาษาไทย\r\n\t" * 5


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    ours = Tokenizer.train([*SOURCES, MIXED], 900, pattern=request.param, special_tokens=(END_OF_TEXT, "<|a|>", "<|a|>b"))
    path = tmp_path_factory.mktemp("saved") / "tokenizer.json"
    ours.save(path)
    return ours, tokenizers.Tokenizer.from_file(str(path))


def _with_tiktoken(pattern: str) -> tuple[Tokenizer, tiktoken.Encoding]:
    trained = Tokenizer.train([*SOURCES, MIXED], 900, pattern=pattern, special_tokens=())
    ranks = {token: i for i, token in enumerate(trained.token_bytes)}
    special = {END_OF_TEXT: 1000, "<|a|>": 1001}
    ours = Tokenizer(None, special, pattern, vocabulary=trained.token_bytes)
    return ours, tiktoken.Encoding(pattern, pat_str=PATTERNS[pattern], mergeable_ranks=ranks, special_tokens=special)


TIKTOKEN = {pattern: _with_tiktoken(pattern) for pattern in ("gpt2", "cl100k", "o200k", "qwen2")}


# Libraries follow different versions of Unicode (ours is the regex module's), so only what all of them know is compared.
KNOWN = st.characters(exclude_categories=["Cn", "Cs"]).filter(lambda character: ucd_3_2_0.category(character) != "Cn")
WORDS = st.lists(
    st.sampled_from(
        [
            *["a", "Z", "é", "e\u0301", "你", "ǅ", "ʰ", "self", " def", "'s", "'S", "'ſ", "'LL", "'", "1", "٣", "Ⅷ", "²", "🌍", "//", "!"],
            *[" ", "  ", "\t", "\n", "\r\n", "\u3000", "\x85", "\x1c", "\u180e", "\u200d", "\ufeff", "\x00"],
            *["<|a|>", "<|a|>b", END_OF_TEXT],
        ]
    ),
    max_size=30,
).map("".join)


@settings(max_examples=300)
@given(text=st.one_of(st.text(alphabet=KNOWN), WORDS))
def test_tokenizers_gives_the_same_ids(pair: tuple[Tokenizer, tokenizers.Tokenizer], text: str) -> None:
    ours, theirs = pair
    ids = ours.encode(text, allowed_special="all").tolist()
    assert ids == theirs.encode(text, add_special_tokens=False).ids
    assert theirs.decode(ids, skip_special_tokens=False) == text == ours.decode(ids)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
IN_THE_WILD = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    ),
    "deepseek-v3": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}"), "isolated"),
            pre_tokenizers.Split(tokenizers.Regex("[一-龥\u3040-ゟ゠-ヿ]+"), "isolated"),
            pre_tokenizers.Split(
                tokenizers.Regex(
                    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
                    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
                ),
                "isolated",
            ),
            BYTES,
        ]
    ),
}
"""Pre-tokenizers as the tokenizer.json of these models have them, in several steps where ours is one pattern."""


@settings(max_examples=300)
@given(pattern=st.sampled_from(sorted(IN_THE_WILD)), text=st.one_of(st.text(alphabet=KNOWN), WORDS))
def test_one_pattern_splits_as_the_steps_of_the_model_it_is_named_after(pattern: str, text: str) -> None:
    lengths = [len(pretoken) for pretoken, _ in IN_THE_WILD[pattern].pre_tokenize_str(text)]  # a character for each byte
    assert pretoken_ends(text.encode(), pattern).tolist() == list(accumulate(lengths))


@settings(max_examples=300)
@given(pattern=st.sampled_from(["gpt2", "cl100k", "o200k", "qwen2"]), text=st.one_of(st.text(alphabet=KNOWN), WORDS))
def test_tiktoken_gives_the_same_ids(pattern: str, text: str) -> None:
    ours, theirs = TIKTOKEN[pattern]
    assert ours.encode(text, allowed_special="all").tolist() == theirs.encode(text, allowed_special="all")
    assert ours.encode_ordinary(text).tolist() == theirs.encode_ordinary(text)


def test_tokenizers_gives_the_same_ids_on_real_text(pair: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    ours, theirs = pair
    for text in [*SOURCES, MIXED.encode()]:
        assert ours.encode(text, allowed_special="all").tolist() == theirs.encode(text.decode()).ids
    assert theirs.get_vocab_size() == ours.vocab_size
    assert {token: theirs.token_to_id(token) for token in ours.special_tokens} == ours.special_tokens


def test_it_comes_back_whole(pair: tuple[Tokenizer, tokenizers.Tokenizer], tmp_path: Path) -> None:
    ours, theirs = pair
    ours.save(tmp_path)  # into a folder, twice: the second replaces the first
    ours.save(tmp_path)
    assert os.listdir(tmp_path) == ["tokenizer.json"]
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert (loaded.merges, loaded.special_tokens, loaded.pattern) == (ours.merges, ours.special_tokens, ours.pattern)
        assert loaded.hash == ours.hash
    theirs.save(str(tmp_path / "theirs.json"))
    assert Tokenizer.load(tmp_path / "theirs.json").hash == ours.hash


def test_a_tokenizer_of_bytes_alone(tmp_path: Path) -> None:
    Tokenizer([], special_tokens=()).save(tmp_path / "bytes.json")
    assert Tokenizer.load(tmp_path / "bytes.json").vocab_size == 256
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "bytes.json")).encode("é").ids == list("é".encode())


def change(*keys: str | int, to: object) -> Callable[[dict], None]:
    def apply(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change("normalizer", to={"type": "NFKC"}), r"its normalizer is not supported.*NFKC"),
        (change("pre_tokenizer", to={"type": "Whitespace"}), "pre_tokenizer.*not supported.*Whitespace"),
        (change("pre_tokenizer", to=None), "pre_tokenizer.*is not supported"),
        (change("pre_tokenizer", "pretokenizers", 0, "behavior", to="Removed"), "pre_tokenizer is not supported.*Removed"),
        (change("pre_tokenizer", "pretokenizers", 0, to={"type": "Punctuation"}), "pre_tokenizer is not supported.*Punctuation"),
        (change("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", to="(x"), r"\(x' is no regular expression"),
        (change("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", to=True), "add_prefix_space is not supported"),
        (change("post_processor", to={"type": "TemplateProcessing"}), "post_processor is not supported.*TemplateProcessing"),
        (change("post_processor", to={"type": "RobertaProcessing"}), "post_processor is not supported.*RobertaProcessing"),
        (change("decoder", to={"type": "Metaspace"}), "Metaspace"),
        (change("decoder", to=None), "decoder is not supported"),
        (change("truncation", to={"max_length": 3}), "truncation"),
        (change("surprise", to=1), "surprise"),
        (change("model", "surprise", to=1), "model surprise"),
        (change("model", "type", to="Unigram"), "Unigram"),
        (change("model", "dropout", to=0.1), "model dropout"),
        (change("model", "end_of_word_suffix", to="</w>"), "model end_of_word_suffix"),
        (change("model", "byte_fallback", to=True), "normalizer is not supported"),
        (change("added_tokens", 0, "content", to="a"), "added token 'a' has id 261 and 97"),
        (change("added_tokens", 0, to={}), "lacks its content or id"),
        (change("model", "merges", 1, to="a b c"), "merge 1"),
        (change("model", "merges", 0, to=["zz", "a"]), "merge 0"),
        (change("model", "merges", 0, to=["a", "b"]), "merge 0 makes 'ab'"),
        (change("model", "vocab", "a", to=5), "both have id 5"),
        (change("model", "vocab", "a", to="b"), "token 'a' has id 'b'"),
        (change("model", "vocab", "zz", to=900), "no token has id 262"),
        (change("model", "vocab", "你", to=262), "token '你' has the character '你', which stands for no byte"),
        (change("model", "vocab", to=None), "no vocab"),
        (change("model", to=None), "no tokenizer.json"),
    ],
)
def test_what_is_not_supported_is_named(damage: Callable[[dict], None], says: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    Tokenizer.train([b"the cat in the hat"], 262).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    damage(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(GroundupError, match=says) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)


def test_missing_truncated_and_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UsageError, match="cannot be read"):
        Tokenizer.load(path)
    Tokenizer([]).save(path)
    whole = path.read_bytes()
    for content in (whole[:1000], b"\xff\xfe\x00", b""):
        path.write_bytes(content)
        with pytest.raises(GroundupError, match="is broken"):
            Tokenizer.load(path)
    path.write_bytes(b"[]")
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        Tokenizer.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    old = Tokenizer([(97, 98)])
    old.save(path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GroundupError, match="the disk is full"):
        Tokenizer([]).save(path)
    assert Tokenizer.load(path).hash == old.hash
    assert os.listdir(tmp_path) == ["tokenizer.json"]


@settings(max_examples=100)
@given(st.lists(st.text(alphabet="abcé", min_size=2, max_size=6), unique=True, max_size=30), st.text(alphabet="abcé ", max_size=60))
def test_a_vocabulary_under_tiktokens_rule_opens_in_tokenizers(words: list[str], text: str) -> None:
    """Whose merges are listed in every way that makes a token, though a token is only ever made in one."""
    vocabulary = [bytes([byte]) for byte in range(256)] + [word.encode() for word in words]
    ours = Tokenizer(None, {END_OF_TEXT: 300}, "cl100k", vocabulary=vocabulary)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(to_json(ours, Path("tokenizer.json"))))
    text += END_OF_TEXT + text
    assert ours.encode(text, allowed_special="all").tolist() == theirs.encode(text).ids
