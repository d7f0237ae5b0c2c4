"""``groundup tokenizer``, from training to showing."""

import io
import json
import sys

import numpy as np
import pytest

from groundup import cli
from groundup.tokenizer import Tokenizer

TEXT = "the cat in the hat, été 🌍\n"


@pytest.fixture
def here(tmp_path, monkeypatch, capfdbinary):
    """A working folder with a text and the tokenizer that the command learned from it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT * 50)
    cli.main(["tokenizer", "train", "text.txt", "--vocab-size", "270", "--out", "t.json"])
    assert b"270 tokens" in capfdbinary.readouterr().out
    return tmp_path


def said(capfdbinary, *arguments):
    cli.main(["tokenizer", *arguments])
    return capfdbinary.readouterr().out


def test_what_is_encoded_decodes_to_the_same_bytes(here, capfdbinary, monkeypatch):
    (here / "odd.bin").write_bytes(TEXT.encode() + b"\xff\x00<|endoftext|>")
    ids = said(capfdbinary, "encode", "t.json", "odd.bin").split()
    assert said(capfdbinary, "decode", "t.json", *[i.decode() for i in ids]) == (here / "odd.bin").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.StringIO(" ".join(i.decode() for i in ids)))
    assert said(capfdbinary, "decode", "t.json") == (here / "odd.bin").read_bytes()
    said(capfdbinary, "encode", "t.json", "odd.bin", "--out", "ids")
    assert np.fromfile(here / "ids", "<u4").tolist() == [int(i) for i in ids]
    assert said(capfdbinary, "decode", "t.json", "--file", "ids") == (here / "odd.bin").read_bytes()


def test_a_special_token_is_one_only_when_asked_for(here, capfdbinary):
    (here / "special.txt").write_text("a<|endoftext|>")
    assert said(capfdbinary, "encode", "t.json", "special.txt", "--special").split()[1:] == [b"269"]
    assert len(said(capfdbinary, "encode", "t.json", "special.txt").split()) > 2


def test_tokenizers_are_compared_and_shown(here, capfdbinary):
    Tokenizer([]).save(here / "bytes.json")
    compared = ["compare", "text.txt", "--json", "--tokenizers"]
    bytewise, learned = json.loads(said(capfdbinary, *compared, "bytes.json", "t.json").splitlines()[-1])
    assert bytewise["bytes_per_token"] == 1 < learned["bytes_per_token"]
    *_, words = json.loads(said(capfdbinary, *compared, "bytes", "characters", "words").splitlines()[-1])
    assert words["bytes_per_token"] > 1 and words["unknown_rate"] == 0
    assert "🌍".encode() in said(capfdbinary, "show", "t.json", "text.txt")
    said(capfdbinary, "show", "t.json", "--text", TEXT, "--html", "page.html")
    assert "été" in (here / "page.html").read_text()


def test_other_formats_are_written_and_read(here, capfdbinary):
    cli.main(["tokenizer", "train", "text.txt", "--vocab-size", "270", "--out", "own.tiktoken", "--pattern", r"\w+|\W"])
    capfdbinary.readouterr()
    cli.main(["tokenizer", "encode", "own.tiktoken", "text.txt", "--pattern", r"\w+|\W"])
    ids = capfdbinary.readouterr().out.split()
    cli.main(["tokenizer", "decode", "own.tiktoken", *map(bytes.decode, ids)])
    assert capfdbinary.readouterr().out == (here / "text.txt").read_bytes()
    with pytest.raises(SystemExit):
        cli.main(["tokenizer", "show", "own.tiktoken", "--text", "a"])
    assert b"add --pattern cl100k" in capfdbinary.readouterr().err


REFUSED = {
    "no tokenizer": ("show nowhere --text a", "nowhere"),
    "no text": ("encode t.json nowhere.txt", "nowhere.txt"),
    "an id out of range": ("decode t.json 270", "270"),
    "ids twice": ("decode t.json 1 --file ids", "not both"),
    "half an id": ("decode t.json --file text.txt", "whole number"),
    "too small a vocabulary": ("train text.txt --vocab-size 100", "vocab_size is 100"),
    "nothing to learn from": ("train nothing.txt", "nothing.txt"),
    "nothing to compare on": ("compare nothing.txt --tokenizers t.json", "no text"),
}


@pytest.mark.parametrize(("command", "names"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_one_sentence_and_two(here, capfdbinary, command, names):
    (here / "nothing.txt").write_text("")
    (here / "text.txt").write_text(TEXT * 3)  # 29 bytes each: no multiple of four
    with pytest.raises(SystemExit) as ended:
        cli.main(["tokenizer", *command.split()])
    *progress, error = capfdbinary.readouterr().err.decode().splitlines()
    assert ended.value.code == 2 and error.startswith("groundup: ") and names in error
    assert not progress or command.startswith("train")
    assert not (here / "tokenizer.json").exists()
