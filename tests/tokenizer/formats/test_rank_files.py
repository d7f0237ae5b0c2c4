"""tiktoken's and GPT-2's files: read as their libraries read them, written so that these read them, and bad ones named."""

import base64
import json
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

import groundup
from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import END_OF_TEXT, PATTERNS, AddedToken, Tokenizer

SOURCES = [path.read_bytes() for path in sorted(Path(groundup.__file__).parent.glob("tokenizer/*.py"))]
TRAINED = Tokenizer.train([*SOURCES, "Grüße, мир! 你好 🌍 é".encode() * 9], 900, pattern="cl100k", special_tokens=(END_OF_TEXT, "<|a|>"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    TRAINED.save(folder / "ours.tiktoken")
    TRAINED.save(folder / "vocab.json")
    return folder


@settings(max_examples=150)
@given(text=st.text())
def test_tiktoken_reads_what_is_written(folder: Path, text: str) -> None:
    ranks = load_tiktoken_bpe(str(folder / "ours.tiktoken"))
    theirs = tiktoken.Encoding("ours", pat_str=PATTERNS["cl100k"], mergeable_ranks=ranks, special_tokens=TRAINED.special_tokens)
    again = Tokenizer.load(folder / "ours.tiktoken", pattern="cl100k", special_tokens=TRAINED.special_tokens)
    text = text.replace("<|", "")
    assert TRAINED.encode(text).tolist() == theirs.encode(text) == again.encode(text).tolist()


def test_tokenizers_reads_gpt2_files(folder: Path) -> None:
    model = tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for load_from in (folder / "vocab.json", folder / "merges.txt"):
        again = Tokenizer.load(load_from, pattern="cl100k")
        assert again.special_tokens == TRAINED.special_tokens
        assert all(again.encode_ordinary(text).tolist() == TRAINED.encode_ordinary(text).tolist() for text in SOURCES)
    for token in (b" the", b"self", b"xyz"):
        assert theirs.encode(token.decode()).ids == TRAINED.encode(token).tolist()


def test_a_folder_is_searched(folder: Path, tmp_path: Path) -> None:
    assert Tokenizer.load(folder).merges == TRAINED.merges  # vocab.json
    (tmp_path / "cl100k_base.tiktoken").write_bytes((folder / "ours.tiktoken").read_bytes())
    known = Tokenizer.load(tmp_path)
    assert known.pattern == "cl100k" and known.special_tokens["<|endofprompt|>"] == 100276
    with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path / "..")


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"abc", b"ab"]
    late = Tokenizer([(97, 98), (257, 99)], (), vocabulary=vocabulary)  # its first merge has the greater id
    with pytest.raises(UsageError, match=r"tiktoken's rule, the lowest id first, would give other ids"):
        late.save(tmp_path / "late.tiktoken")
    with pytest.raises(UsageError, match="bytes and merges alone"):
        Tokenizer(None, (), vocabulary=vocabulary).save(tmp_path / "vocab.json")
    with pytest.raises(UsageError, match="read, not written"):
        late.save(tmp_path / "late.model")
    with pytest.raises(UsageError, match="says its pattern and special tokens itself"):
        Tokenizer.load(tmp_path / "tokenizer.json", pattern="gpt2")
    for name in ("t.json", "t.tiktoken", "vocab.json"):
        with pytest.raises(GroundupError, match="cannot be written"):
            TRAINED.save(Path(__file__) / name)
        TRAINED.save(tmp_path / "new" / "folders" / name)
    late.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode("abcab").tolist() == [256, 257]


def test_added_tokens_and_template_come_back(tmp_path: Path) -> None:
    added = [AddedToken("<a>", 300, lstrip=True), AddedToken("<b>", 260, special=False, single_word=True)]
    ours = Tokenizer([(97, 98)], added)
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.added_tokens == sorted(added, key=lambda token: token.id)
    assert again.encode("ab <a>x<b> <b>", allowed_special="all").tolist() == [256, 300, *b"x<b>", 32, 260]
    with pytest.raises(UsageError, match="id 259 stands for nothing"):
        again.decode([259])


LINE = base64.b64encode(b"a").decode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("YQ== 0\nYg== x\n", "line 2: b'Yg== x' is no token"),
        ("YQ== 0\n$$ 1\n", "line 2"),
        ("YQ==\n", "line 1"),
        ("YQ== 0\nYQ== 1\n", r"line 2: token b'a' is there twice"),
        ("YQ== 0\nYg== 0\n", "both have id 0"),
        ("YQ== 0\nYg== 2\n", "no token has id 1"),
        ("YQ== 0\n", "lacks the byte"),
        ("", "lacks the byte"),
    ],
)
def test_a_bad_tiktoken_file_is_named(content: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.tiktoken"
    path.write_text(content)
    with pytest.raises(GroundupError, match=says) as caught:
        Tokenizer.load(path, pattern="gpt2")
    assert str(path) in str(caught.value)
    with pytest.raises(UsageError, match="does not say its pattern"):
        Tokenizer.load(path)


def test_bad_gpt2_files_are_named(folder: Path, tmp_path: Path) -> None:
    vocab = json.loads((folder / "vocab.json").read_text())
    merges = (folder / "merges.txt").read_text()
    for change, bad_merges, says in (
        ({}, merges + "a b c\n", "merges.txt, line"),
        ({}, merges + "q q\n", "does not join two tokens"),
        ({"a": 5}, merges, "both have id 5"),
        ({"zz": 5000}, merges, "no token has id"),
    ):
        (tmp_path / "vocab.json").write_text(json.dumps(vocab | change))
        (tmp_path / "merges.txt").write_text(bad_merges)
        with pytest.raises(GroundupError, match=says):
            Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("[")
    with pytest.raises(GroundupError, match="is broken"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(UsageError, match=r"merges\.txt cannot be read"):
        Tokenizer.load(tmp_path)
