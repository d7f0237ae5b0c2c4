"""The tokenizer benchmark gives everyone one vocabulary, refuses unequal ids, and compares round by round."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tokenizer
from benchmarks.tokenizer import Contestant, as_json, check, load, main, ranks_of, summarize
from groundup.errors import GroundupError
from groundup.tokenizer import Tokenizer

TEXT = b"the cat sat on the mat, and the rat sat on the cat's hat\n" * 40


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "small.tiktoken"
    Tokenizer.train([TEXT], 300, special_tokens=(), n_workers=1).save(path)
    return path


def test_everyone_gets_the_vocabulary_that_was_written(vocabulary: Path) -> None:
    tokens = list(Tokenizer.train([TEXT], 300, special_tokens=(), n_workers=1).token_bytes)
    assert list(ranks_of(vocabulary, "gpt2")) == list(load(vocabulary, "gpt2").token_bytes) == tokens
    assert list(Tokenizer.load(as_json(vocabulary, "gpt2")).token_bytes) == tokens


def test_unequal_ids_end_the_run(vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_json(vocabulary, "gpt2").exists()
    n = check(["groundup", "tokenizers"], TEXT, vocabulary, "gpt2")
    assert 0 < n < len(TEXT)
    wrong = Contestant(lambda data: np.zeros(3), None, None)
    monkeypatch.setitem(tokenizer.CONTESTANTS, "gigatoken", lambda vocabulary, pattern: wrong)
    with pytest.raises(GroundupError, match="gigatoken gives other ids than groundup, from id 0 on"):
        check(["groundup", "gigatoken"], TEXT, vocabulary, "gpt2")


def test_ratios_are_taken_round_by_round() -> None:
    summary = summarize({"warm": {"groundup": [2.0, 20.0, 2.0], "gigatoken": [1.0, 10.0, 1.0]}})
    assert summary["warm"]["groundup"] == {"per_second": 2.0, "over_gigatoken": 2.0}


def test_a_run_leaves_a_result_beside_the_others(
    vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tokenizer, "SHORT_CALLS", 2)
    (tmp_path / "text.txt").write_bytes(TEXT)
    out = tmp_path / "result.json"
    given = ["--data", str(tmp_path / "text.txt"), "--vocabulary", str(vocabulary), "--rounds", "1", "--out", str(out)]
    for name in ("one", "two"):
        main([*given, "--name", name, "--contestants", "groundup", "tokenizers"])
    found = json.loads(out.read_text())["texts"]
    assert found.keys() == {"one", "two"} and found["one"]["summary"]["warm"]["groundup"]["per_second"] > 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["name"] == "two"
