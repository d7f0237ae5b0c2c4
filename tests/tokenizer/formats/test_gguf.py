"""The tokenizer in a GGUF header gives the ids of the one that it was made of."""

import io
from pathlib import Path

import gguf
import pytest
import sentencepiece

from groundup.errors import GroundupError, UsageError
from groundup.gguf_file import GGUFFile
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.formats import gguf as room

TEXTS = ("the cat sat", " é€ \n\n  def f(x): return 12345\t", "日本 12 ", "<s>the</s>", "")
NORMAL, CONTROL = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL


def write(path: Path, kind: str, names: list, kinds: list, **fields) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    if "scores" in fields:
        writer.add_token_scores(fields["scores"])
    if "merges" in fields:
        writer.add_token_merges(fields["merges"])
    for key, value in fields.get("ids", {}).items():
        writer.add_uint32(f"tokenizer.ggml.{key}", value)
    for key, value in fields.get("flags", {}).items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    if "pre" in fields:
        writer.add_tokenizer_pre(fields["pre"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level(path: Path, pattern: str, pre: str, **fields) -> Tokenizer:
    made = Tokenizer.train([b"the cat sat on the mat 12 12 and the rat " * 9], 280, pattern=pattern, special_tokens=("<s>", "</s>"))
    names = [name or made.token_bytes[i].decode() for i, name in enumerate([*made.vocabulary.names(), None, None])]
    merges = [f"{names[left]} {names[right]}" for left, right in made.merges]
    kinds = [CONTROL if i in made.special_tokens.values() else NORMAL for i in range(len(names))]
    write(path, "gpt2", names, kinds, merges=merges, pre=pre, **fields)
    return made


@pytest.mark.parametrize(("pre", "pattern"), [("gpt-2", "gpt2"), ("smollm", "smollm"), ("qwen2", "qwen2"), ("llama-bpe", "cl100k")])
def test_byte_level(pre, pattern, tmp_path):
    made = byte_level(tmp_path / "a.gguf", pattern, pre, ids={"bos_token_id": 0})
    found = Tokenizer.load(tmp_path / "a.gguf")
    assert found.pattern == pattern and found.special_tokens == made.special_tokens and found.token_bytes == made.token_bytes
    for text in TEXTS:
        assert found.encode_ordinary(text).tolist() == made.encode_ordinary(text).tolist()
        assert found.encode(text, allowed_special="all").tolist() == made.encode(text, allowed_special="all").tolist()
    assert found.template.before == ((0,) if pre == "llama-bpe" else ())  # Llama 3 begins a text with it where the header does not say


def test_sentencepiece(tmp_path):
    model = io.BytesIO()
    lines = iter(["the cat sat on the mat and the rat sat on the cat é 日本 1234 def f(x): return x" * 3] * 20)
    sizes = {"vocab_size": 330, "model_type": "bpe", "byte_fallback": True, "character_coverage": 1.0, "minloglevel": 2}
    plain = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **sizes, **plain)
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(theirs.get_piece_size())
    kinds = [
        *(gguf.TokenType.UNKNOWN if theirs.is_unknown(i) else CONTROL if theirs.is_control(i) else NORMAL for i in ids),
    ]
    kinds = [gguf.TokenType.BYTE if theirs.is_byte(i) else kinds[i] for i in ids]
    names, scores = [theirs.id_to_piece(i) for i in ids], [theirs.get_score(i) for i in ids]
    write(tmp_path / "a.gguf", "llama", names, kinds, scores=scores, ids={"bos_token_id": 1}, flags={"add_bos_token": False})
    found, wanted = Tokenizer.load(tmp_path / "a.gguf"), Tokenizer.load(tmp_path / "tokenizer.model")
    assert found.merges == wanted.merges and found.template.before == ()
    for text in TEXTS[:3]:
        assert found.encode_ordinary(text).tolist() == wanted.encode_ordinary(text).tolist() == theirs.encode(text)


def test_a_byte_that_a_vocabulary_lacks_is_refused_in_a_text(tmp_path):
    made = byte_level(tmp_path / "a.gguf", "gpt2", "gpt-2")
    file = GGUFFile(tmp_path / "a.gguf")
    kinds = file.metadata["tokenizer.ggml.token_type"].copy()
    kinds[made.encode_ordinary("\x04")[0]] = gguf.TokenType.UNUSED
    file.metadata["tokenizer.ggml.token_type"] = kinds
    found = Tokenizer.made_of(file.path, room.read(file))
    assert found.encode_ordinary("the cat").tolist() == made.encode_ordinary("the cat").tolist()
    with pytest.raises(UsageError, match=r"holds the byte b'\\x04', for which this tokenizer has no token"):
        found.encode_ordinary("the \x04 cat")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model", "bert", "kind 'bert', which is not supported"),
        ("pre", "poro-chat", "pre-tokenizer 'poro-chat' is not supported"),
        ("merges", ["the zebra"], r"merge 0 \('the zebra'\) does not join"),
        ("tokens", None, r"holds no tokenizer \(tokenizer.ggml.tokens"),
        ("token_type", [1], r"\d+ tokens and 1 types"),
    ],
)
def test_what_is_not_supported_or_does_not_fit_is_named(key, value, says, tmp_path):
    byte_level(tmp_path / "a.gguf", "gpt2", "gpt-2")
    file = GGUFFile(tmp_path / "a.gguf")
    file.metadata[f"tokenizer.ggml.{key}"] = value
    with pytest.raises(GroundupError, match=says):
        room.read(file)
