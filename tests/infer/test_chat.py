"""The terminal loop, with strings for a terminal."""

import io

import pytest

from groundup.errors import UsageError
from groundup.infer import chat as room
from groundup.infer.chat import CONTINUES, chat
from groundup.infer.generate import generate
from groundup.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([b"the cat sat on the mat and the rat sat on the cat " * 5], 280, n_workers=1)


@pytest.fixture
def model(tiny):
    return tiny(vocab_size=300, context_length=128)


def said(model, tokenizer, typed: str, **settings) -> str:
    sink = io.StringIO()
    chat(model, tokenizer, io.StringIO(typed), sink, **{"max_tokens": 12, "temperature": 0.0, **settings})
    text = sink.getvalue()
    assert text.startswith(CONTINUES)
    return text.removeprefix(CONTINUES)


def continuation(model, tokenizer, ids: list[int], **settings) -> list[int]:
    stop = tokenizer.end_of_text
    options = {"max_tokens": 12, "temperature": 0.0, "stop_ids": (stop,), "vocab_size": tokenizer.vocab_size, **settings}
    return list(generate(model, [stop, *ids], **options))


def test_it_says_that_it_continues_texts():
    assert "continues texts, it does not answer" in CONTINUES


def test_a_line_is_continued_and_the_end_of_input_leaves(model, tokenizer):
    new = continuation(model, tokenizer, tokenizer.encode_ordinary("the cat").tolist())
    assert said(model, tokenizer, "the cat\n") == f"> {tokenizer.decode(new)}\n> \n"


def test_the_text_grows_by_lines_and_by_the_models_own_words(model, tokenizer):
    text = tokenizer.encode_ordinary("the cat").tolist()
    outs = []
    for added in ("", "\nsat", ""):
        text += tokenizer.encode_ordinary(added).tolist()
        new = continuation(model, tokenizer, text)
        assert len(new) == 12
        outs.append(tokenizer.decode(new))
        text += new
    assert said(model, tokenizer, "the cat\nsat\n\n") == "".join(f"> {out}\n" for out in outs) + "> \n"


def test_reset_starts_a_new_text(model, tokenizer):
    once = said(model, tokenizer, "the cat\n/quit\n")
    assert said(model, tokenizer, "the cat\n/reset\nthe cat\n/quit\n") == f"{once}A new text.\n{once}"


def test_temperature_is_set_and_a_wrong_one_is_refused(model, tokenizer):
    text = said(model, tokenizer, "/temperature 0.5\n/temperature warm\n/temperature -1\nthe\n", seed=7)
    new = continuation(model, tokenizer, tokenizer.encode_ordinary("the").tolist(), temperature=0.5, seed=7)
    assert "The temperature is 0.5." in text
    assert text.count("it stays 0.5.") == 2
    assert tokenizer.decode(new) in text


def test_an_unknown_command_is_named_and_two_slashes_are_text(model, tokenizer):
    assert "'/rest' is no command" in said(model, tokenizer, "/rest\n")
    new = continuation(model, tokenizer, tokenizer.encode_ordinary("/usr").tolist())
    assert said(model, tokenizer, "//usr") == f"> {tokenizer.decode(new)}\n> \n"


def test_a_text_longer_than_the_context_is_said_to_be_forgotten(model, tokenizer):
    context = model.config.context_length
    short, long = "a\n", "a " * context + "\n"
    assert "it has forgotten the beginning" not in said(model, tokenizer, short)
    assert f"the model sees {context}: it has forgotten the beginning]" in said(model, tokenizer, long)


def test_the_models_end_of_text_ends_the_text(model, tokenizer, monkeypatch):
    seen = []

    def ends_at_once(model, prompt, **settings):
        seen.append(list(prompt))
        return iter(tokenizer.encode_ordinary("cat").tolist())

    monkeypatch.setattr(room, "generate", ends_at_once)
    assert "the text ends here" in said(model, tokenizer, "the\nmat\n")
    assert seen == [[tokenizer.end_of_text, *tokenizer.encode_ordinary(word)] for word in ("the", "mat")]


def test_ctrl_c_stops_the_continuation_and_keeps_what_came(model, tokenizer, monkeypatch):
    seen = []

    def interrupted(model, prompt, **settings):
        seen.append(tokenizer.decode(prompt[1:]))
        yield from tokenizer.encode_ordinary(" cat").tolist()
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "generate", interrupted)
    assert said(model, tokenizer, "the\nsat\n").count(" cat\n[stopped]\n") == 2
    assert seen == ["the", "the cat\nsat"]


def test_ctrl_c_while_typing_asks_again(model, tokenizer):
    class Interrupting(io.StringIO):
        hits = 0

        def readline(self, *size):
            self.hits += 1
            if self.hits == 1:
                raise KeyboardInterrupt
            return super().readline(*size)

    sink = io.StringIO()
    chat(model, tokenizer, Interrupting("/quit\n"), sink)
    assert sink.getvalue().endswith("> \n(Ctrl-D leaves)\n> ")


def test_a_character_of_several_tokens_is_shown_whole(model, tokenizer, monkeypatch):
    monkeypatch.setattr(room, "generate", lambda *args, **settings: iter(tokenizer.encode_ordinary("é€").tolist()))
    assert "> é€\n" in said(model, tokenizer, "x\n")


def test_settings_that_make_no_sense_are_refused(model, tokenizer):
    with pytest.raises(UsageError, match="top_p"):
        said(model, tokenizer, "", top_p=2.0)
