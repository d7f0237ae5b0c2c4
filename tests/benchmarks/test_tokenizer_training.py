"""The training benchmark on a small text: what must be equal is compared before anything is timed."""

import json

import pytest

from benchmarks import tokenizer_training
from groundup.errors import GroundupError

TEXT = "the cat in the hat sat on the mat, and that was that: the cat's hat, the mat's cat.\n" * 30


@pytest.fixture
def peers(monkeypatch):
    """Those that are a dependency of the tests anyway."""
    kept = {name: trainer for name, trainer in tokenizer_training.TRAINERS.items() if name.startswith("groundup") or name == "tokenizers"}
    monkeypatch.setattr(tokenizer_training, "TRAINERS", kept)
    return kept


def test_it_measures_and_keeps_what_other_texts_gave(peers, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    out = tmp_path / "out.json"
    for name in ("one", "two"):
        given = ["--data", str(tmp_path / "text.txt"), "--vocab-size", "280", "--rounds", "1", "--name", name, "--out", str(out)]
        tokenizer_training.main(given)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(said["summary"]) == set(peers) and said["summary"]["groundup"]["equal"] == 1
    assert set(json.loads(out.read_text())["texts"]) == {"one, 280", "two, 280"}


def test_other_merges_end_the_run(peers, monkeypatch):
    monkeypatch.setitem(peers, "tokenizers", lambda texts, vocab_size: [b"other"])
    with pytest.raises(GroundupError, match="tokenizers learned other merges"):
        tokenizer_training.measure(list(peers), [TEXT.encode()], 280, 1)
