"""The Kneser-Ney benchmark on a small text, without KenLM's estimator."""

import json

import pytest

from benchmarks import kneser_ney
from groundup.errors import GroundupError, UsageError


def test_it_measures_and_keeps_what_it_found(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the cat sat on the mat\nthe dog sat on the cat\na mat is a mat\n" * 40)
    out = tmp_path / "out.json"
    kneser_ney.main(["--data", str(tmp_path / "text.txt"), "--megabytes", "0.002", "--order", "3", "--rounds", "1", "--out", str(out)])
    said, kept = json.loads(capsys.readouterr().out.splitlines()[-1]), json.loads(out.read_text())
    assert set(said["estimation"]) == {"groundup"} and kept["estimation"]["groundup"]["peak_bytes"] > 1e7
    assert kept["agreement"]["n_words"] > 0
    assert kept["agreement"].get("largest difference, groundup", 0) < 1e-5
    assert any("fallback" in note or "single" in note for note in kept["letters"]["groundup"])


def test_what_fails_is_said():
    with pytest.raises(GroundupError, match="sh ended with 3 and said: no"):
        kneser_ney.launched(["/bin/sh", "-c", "echo no >&2; exit 3"])
    with pytest.raises(UsageError, match="--data names the text"):
        kneser_ney.main([])
