"""``groundup eval``, ``compress``, ``decompress`` as a person calls them, over a model that needs no training."""

import json
from pathlib import Path

import pytest
from protocol_models import TEXT, Bigram

from groundup import cli, cli_eval


@pytest.fixture(autouse=True)
def models(monkeypatch, tmp_path):
    made = {"good": Bigram(TEXT.encode(), "good"), "bad": Bigram(b"zzz", "bad")}
    monkeypatch.setattr(cli_eval, "open_language_model", lambda spec, **_: made[spec])
    monkeypatch.chdir(tmp_path)
    Path("text").mkdir()
    Path("text/a.txt").write_text(TEXT[:100])
    rows = [{"text": "the cat", "kind": "cats"}, {"text": "the dog", "kind": "dogs"}, {"text": "a cat", "kind": "cats"}]
    Path("text/b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("tasks").mkdir()
    items = [{"query": "the", "choices": ["cat", "zzz"], "gold": 0}, {"query": "the", "choices": ["cat", "dog"], "gold": 1}]
    Path("tasks/copa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))


def called(capsys, *arguments):
    cli.main(list(arguments))
    return capsys.readouterr().out


def failed(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    return left.value.code, capsys.readouterr().err


def test_a_text_by_domain_and_against_another_model(capsys):
    out = called(capsys, "eval", "good", "--data", "text/b.jsonl", "--domain-field", "kind", "--against", "bad", "--json")
    result = json.loads(out.splitlines()[-1])
    assert {name: own["documents"] for name, own in result["domains"].items()} == {"cats": 2, "dogs": 1}
    assert result["bytes"] == 19 and result["against"]["difference"] < 0 and "good - bad: -" in out
    files = json.loads(called(capsys, "eval", "good", "--data", "text", "--json").splitlines()[-1])
    assert list(files["domains"]) == ["a.txt", "b.jsonl"] and files["units"]["bits per byte"] == files["bits_per_byte"]["model"]


def test_tasks_with_samples_kept_answers_and_another_model(capsys):
    arguments = ["eval", "good", "--data", "tasks", "--tasks", "copa", "--against", "bad", "--out", "kept", "--samples", "1", "--json"]
    out = called(capsys, *arguments)
    result = json.loads(out.splitlines()[-1])
    assert result["tasks"]["copa"]["items"] == 2 and result["against"]["model"] == "bad" and "copa: right" in out
    assert sorted(str(p) for p in Path("kept").rglob("*.jsonl")) == ["kept/against/copa.jsonl", "kept/copa.jsonl"]
    assert called(capsys, *arguments) == out
    out = called(capsys, "eval", "good", "--data", "tasks", "--tasks", "core")
    assert "left out: jeopardy (--data tasks: no jeopardy_all.jsonl" in out and "CORE (" not in out


def test_a_file_is_coded_and_comes_back(capsys):
    assert "100 bytes became" in called(capsys, "compress", "good", "text/a.txt", "a.gu")
    called(capsys, "decompress", "good", "a.gu", "b.txt")
    assert Path("b.txt").read_bytes() == Path("text/a.txt").read_bytes()
    status, said = failed(capsys, "decompress", "bad", "a.gu", "c.txt")
    assert status == 1 and "not written by bad" in said and not Path("c.txt").exists()


def test_what_is_asked_wrongly_is_said(capsys, monkeypatch):
    for arguments, message in [
        (("eval", "good", "--data", "text", "--tasks", "nope"), "--tasks nope: there are blimp"),
        (("eval", "good", "--data", "text/a.txt", "--tasks", "copa"), "name the one folder"),
        (("compress", "good", "nothing", "x"), "nothing cannot be read"),
    ]:
        status, said = failed(capsys, *arguments)
        assert status == 2 and message in said, said
    monkeypatch.undo()
    status, said = failed(capsys, "eval", "http://localhost:1/v1", "--data", ".")
    assert status == 2 and "name the server's model after a #" in said
