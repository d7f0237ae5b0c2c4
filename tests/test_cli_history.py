"""``groundup history`` as it is typed."""

import json

import pytest

from groundup.cli import main


def typed(*arguments: str) -> None:
    main(["history", *arguments])


def test_two_stops_from_the_command_line(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i} of a text that counts\n" for i in range(300)))
    out = tmp_path / "road"
    for _ in range(2):  # the second time it only shows what is there
        typed("--data", str(text), "--budget", "1m", "--stops", "unigram", "bigram", "--out", str(out), "--json")
        printed, last = capsys.readouterr().out.rstrip().rpartition("\n")[::2]
        assert "Unigram" in printed and "Bigram" in printed and "gzip -9" in printed
        found = json.loads(last)
        assert [r["key"] for r in found["results"]] == ["unigram", "bigram"]
        assert found["results"][1]["bits_per_byte"] < found["results"][0]["bits_per_byte"]
    assert {file.name for file in out.iterdir()} == {"history.json", "history.png", "history.html"}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--budget", "2e15flop"), "give a time"),
        (("--stops", "nonsense"), "known: unigram"),
        (("--data", "/nowhere"), "does not exist"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments, said, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        typed(*arguments, "--out", str(tmp_path / "road"))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "road").exists()


def test_too_small_a_budget_names_the_least(capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("some words to learn\n" * 200 + "and others\n" * 300)
    with pytest.raises(SystemExit) as ended:
        typed("--data", str(text), "--budget", "5s", "--out", str(tmp_path / "road"))
    assert ended.value.code == 2
    assert "give at least" in capsys.readouterr().err
