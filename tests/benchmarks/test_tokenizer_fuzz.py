"""The fuzz run compares what it says it compares, and a difference ends it."""

import json
from pathlib import Path

import pytest

from benchmarks import tokenizer_fuzz
from benchmarks.tokenizer_fuzz import Strings, compare, contestants, main
from groundup.errors import GroundupError
from groundup.tokenizer import Tokenizer


def test_a_run_compares_with_both_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = tmp_path / "bytes.tiktoken"
    tokens = [*(bytes([byte]) for byte in range(256)), b"he", b"th", b"the", b" the"]
    Tokenizer(None, (), "gpt2", vocabulary=tokens).save(vocabulary)
    main(["--strings", "80", "--vocabulary", str(vocabulary), "--out", str(tmp_path / "fuzz.json")])
    found = json.loads((tmp_path / "fuzz.json").read_text())
    assert found["differences"] == 0 and found["strings"]["o200k"] == {"tiktoken": 20, "tokenizers": 2}
    assert json.loads(capsys.readouterr().out)["seed"] == 0


def test_a_difference_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = tmp_path / "bytes.tiktoken"
    Tokenizer([], (), "gpt2").save(vocabulary)
    peers = contestants(vocabulary, "gpt2")
    monkeypatch.setattr(tokenizer_fuzz, "contestants", lambda *_: {"groundup": peers["groundup"], "tiktoken": lambda text: [1, 2, 3]})
    with pytest.raises(GroundupError, match="gpt2: tiktoken gives other ids than groundup for"):
        compare(Strings(0), 5, vocabulary, "gpt2")


def test_strings_are_the_same_for_a_seed() -> None:
    first, again, other = Strings(1), Strings(1), Strings(2)
    made = [first.make() for _ in range(20)]
    assert made == [again.make() for _ in range(20)] != [other.make() for _ in range(20)]
