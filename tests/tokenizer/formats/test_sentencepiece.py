"""SentencePiece's ``.model`` gives the ids and the text that the library gives, and the kinds that are not supported are named."""

import io
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

import groundup
from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import Tokenizer

LINES = [line for path in sorted(Path(groundup.__file__).parent.glob("tokenizer/*.py")) for line in path.read_text().split("\n")]
LINES += ["Grüße, мир! 你好世界 🌍 the cat  in   the hat. ▁ x▁y"] * 20
PLAIN = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
SETTINGS = {
    "Llama 2": {},
    "no space before": {"add_dummy_prefix": False},
    "symbols of the user's": {"user_defined_symbols": ["<tag>", "▁▁", "<b>"]},
    "Gemma": {"add_dummy_prefix": False, "user_defined_symbols": ["<tag>", "▁▁"]},
    "pieces across spaces": {"split_by_whitespace": False},
    "digits apart": {"split_digits": True, "split_by_unicode_script": False},
}
TEXT = st.one_of(
    st.text(),
    st.lists(st.sampled_from([*"abc thein  ▁\n\té你世🌍мир😀中𝒳{}", "<s>", "</s>", "<unk>", "<tag>", "<b>", " the", "<0x41>"])).map(
        "".join
    ),
)


def trained(**settings: object) -> bytes:
    out = io.BytesIO()
    lines, size = iter(LINES), {"vocab_size": 700, "minloglevel": 2, "character_coverage": 0.999}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=out, **(size | PLAIN | settings))
    return out.getvalue()


@pytest.fixture(scope="module", params=SETTINGS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, sentencepiece.SentencePieceProcessor]:
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    path.write_bytes(trained(**SETTINGS[request.param]))
    return Tokenizer.load(path.parent), sentencepiece.SentencePieceProcessor(model_file=str(path))


@settings(max_examples=150)
@given(text=TEXT)
def test_the_same_ids_and_the_same_text(pair: tuple[Tokenizer, sentencepiece.SentencePieceProcessor], text: str) -> None:
    ours, theirs = pair
    text = text.replace("\x00", "")  # where the library ends a text
    ids = theirs.encode(text)
    assert ours.encode_ordinary(text).tolist() == ids
    assert ours.decode(ids) == theirs.decode(ids)


def test_what_was_loaded_opens_in_tokenizers(
    pair: tuple[Tokenizer, sentencepiece.SentencePieceProcessor], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ours, theirs = pair
    if "symbols of the user's" in request.node.name:
        with pytest.raises(UsageError, match=r"more than tokenizer\.json can say"):
            ours.save(tmp_path)
        return
    ours.save(tmp_path)
    hub, again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), Tokenizer.load(tmp_path)
    assert again.hash == ours.hash
    for text in LINES[::20]:
        assert ours.encode_ordinary(text).tolist() == theirs.encode(text) == hub.encode(text, add_special_tokens=False).ids
    with_special = "<s>the cat</s> sat<tag>  there"
    assert ours.encode(with_special, allowed_special="all").tolist() == hub.encode(with_special, add_special_tokens=False).ids


def test_a_long_text_is_encoded_by_threads_as_by_one(pair: tuple[Tokenizer, sentencepiece.SentencePieceProcessor]) -> None:
    ours, theirs = pair
    text = "\n".join(LINES) * 4
    ids = ours.encode_ordinary(text, n_workers=3)
    assert ids.tolist() == theirs.encode(text)
    assert ours.count(text, disallowed_special=()) == ids.size


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_type": "unigram"}, "unigram kind"),
        ({"model_type": "char"}, "char kind"),
        ({"byte_fallback": False}, "no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "nmt_nfkc"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
    ],
)
def test_what_is_not_supported_is_named(settings: dict, says: str, tmp_path: Path) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(trained(**settings))
    with pytest.raises(UsageError, match=says) as caught:
        Tokenizer.load(path)
    assert str(path) in str(caught.value)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "broken.model"
    with pytest.raises(UsageError, match="cannot be read"):
        Tokenizer.load(path)
    whole = trained()
    for content, says in ((whole[:500], "is broken"), (b"", "holds no pieces"), (b"\xff" * 9, "is broken"), (b"text", "is broken")):
        path.write_bytes(content)
        with pytest.raises(GroundupError, match=says):
            Tokenizer.load(path)
