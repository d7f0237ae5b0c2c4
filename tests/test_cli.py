"""What is asked wrongly is refused with one sentence and exit status 2, and leaves nothing behind."""

import contextlib
import json
from typing import get_args, get_type_hints

import pytest

from groundup import cli, runfolder
from groundup.account.rules import Machine, Overrides


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    machine = Machine("a known machine", "cpu", 1e-11, 1e-9, 1e11, 2.5e6, 8 << 30)
    monkeypatch.setattr("groundup.job.measure_machine", lambda device, dtype, most_s: machine)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with sources of every bad kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "tiny.txt").write_text("a")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "other.jsonl").write_text('{"body": "some text"}\n' * 3)
    texts = [f"document {i}: " + " ".join(str(i * j) for j in range(200)) for i in range(60)]
    (tmp_path / "good.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (tmp_path / "deep.jsonl").write_text('{"text": ' + 200_000 * "[" + "\n")
    (tmp_path / "without_plan").mkdir()
    (tmp_path / "without_plan" / "manifest.json").write_text('{"format": 1, "status": "finished", "seconds_before_training": 1}')
    (tmp_path / "other_version").mkdir()
    (tmp_path / "other_version" / "manifest.json").write_text('{"format": 99, "status": "running"}')
    return tmp_path


REFUSED = {
    "no text": ("train --data empty", "empty"),
    "a missing source": ("train --data nowhere", "nowhere"),
    "one tiny document": ("train --data tiny.txt", ""),
    "a binary file": ("train --data binary.txt", "binary"),
    "a missing field": ("train --data other.jsonl", "text"),
    "a budget without unit": ("train --data good.jsonl --budget 5", "no unit"),
    "a budget too small": ("train --data good.jsonl --budget 0.01s", "--budget"),
    "a folder that is no run": ("train --resume empty", "not a run"),
    "a run of another version": ("train --resume other_version", "another version"),
    "resume with data": ("train --resume other_version --data good.jsonl", "--data"),
    "resume with an override": ("train --resume other_version --d-model 64", "--resume"),
    "counts in an exported model": ("train --data good.jsonl --arch qwen3 --prior on", "--prior on and --arch qwen3"),
    "hashes in an exported model": ("train --data good.jsonl --arch llama --hash-rows 10", "--hash-rows and --arch llama"),
    "heads that do not divide": ("train --data good.jsonl --d-model 100 --head-dim 64", "--head-dim"),
    "an empty vocabulary": ("train --data good.jsonl --vocab-size 0", "--vocab-size 0"),
    "a vocabulary below zero": ("train --data good.jsonl --vocab-size -5", "--vocab-size -5"),
    "no width": ("train --data good.jsonl --d-model 0", "--d-model 0"),
    "no layers": ("train --data good.jsonl --n-layers 0", "--n-layers 0"),
    "no batch": ("train --data good.jsonl --batch-size 0", "--batch-size 0"),
    "no micro-batch": ("train --data good.jsonl --micro-batch-size 0", "--micro-batch-size 0"),
    "no steps": ("train --data good.jsonl --steps 0", "--steps 0"),
    "a rate below zero": ("train --data good.jsonl --matrix-lr -1", "--matrix-lr -1"),
    "a rate that is no number": ("train --data good.jsonl --matrix-lr nan", "--matrix-lr nan"),
    "a seed below zero": ("train --data good.jsonl --seed -1", "--seed -1"),
    "a seed beyond all bits": ("train --data good.jsonl --seed 99999999999999999999", "2^63"),
    "a source of no name": ("train --data=", "empty name"),
    "a source of too long a name": ("train --data " + 300 * "x", "too long"),
    "a source in nobody's home": ("train --data ~nobody-of-this-name/x", "cannot be opened"),
    "JSON too deep to read": ("train --data deep.jsonl", "not JSON"),
    "a folder of too long a name": ("train --data good.jsonl --out " + 300 * "x", "--out"),
    "a folder inside a file": ("train --data good.jsonl --out tiny.txt/run", "tiny.txt is a file"),
    "a manifest without a plan": ("generate without_plan", "stopped before training"),
    "a file in the way": ("train --data good.jsonl --out good.jsonl", "not a folder"),
    "a folder in use": ("train --data good.jsonl --out other_version", "already holds a run"),
    "a folder with something in it": ("train --data good.jsonl --out .", "not empty"),
    "generate from no run": ("generate empty", "not a run"),
    "eval on no run": ("eval empty --data good.jsonl", "not a run"),
}


@pytest.mark.parametrize("words, says", REFUSED.values(), ids=REFUSED)
def test_it_is_refused(here, capsys, words, says):
    before = sorted(p.name for p in here.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2
    assert last.startswith("groundup: ") and says in last and "Traceback" not in last
    assert sorted(p.name for p in here.rglob("*")) == before


def test_an_unknown_flag_is_refused(here, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--bugdet", "3m"])
    assert ended.value.code == 2
    assert "--bugdet" in capsys.readouterr().err


def test_debug_shows_where(here):
    from groundup.errors import UsageError

    with pytest.raises(UsageError):
        cli.main(["train", "--data", "nowhere", "--debug"])


SIZES = "--d-model 32 --n-layers 1 --head-dim 16 --vocab-size 300 --seq-len 32 --batch-size 2 --hash-rows 100"
SMALL = ["train", "--data", "good.jsonl", *SIZES.split(" ")]


@pytest.mark.parametrize("matrices", get_args(get_type_hints(Overrides)["matrices"])[0].__args__)
def test_every_optimizer_trains(here, matrices, capsys):
    cli.main([*SMALL, "--steps", "2", "--matrices", matrices, "--out", "run", "--json"])
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert said["measured"]["steps"] == 2 and said["measured"]["bits_per_byte"] < 9


def test_money_and_flops_buy_a_run(here, capsys):
    cli.main([*SMALL, "--budget", "0.01usd", "--usd-per-hour", "0.6", "--steps", "2", "--out", "a"])
    cli.main([*SMALL, "--budget", "3e7flop", "--out", "b", "--json"])
    measured = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["measured"]
    assert 0.5 * 3e7 < measured["flops"] <= 3e7


def test_what_fails_before_training_leaves_the_folder_as_it_was(here, monkeypatch):
    def broken(*_):
        raise RuntimeError("no counts today")

    monkeypatch.setattr("groundup.job.NgramPrior.build", broken)
    (here / "mine").mkdir()
    for out in ("mine", "new"):
        with pytest.raises(RuntimeError):
            cli.main([*SMALL, "--steps", "2", "--out", out])
    assert list((here / "mine").iterdir()) == [] and not (here / "new").exists()


def test_the_loser_of_two_that_start_together_leaves_the_winner_alone(here, monkeypatch):
    with runfolder.new_folder(here / "run"):
        (here / "run" / "manifest.json").write_text("the winner's")
        monkeypatch.setattr(runfolder, "_require_free", lambda *_: None)  # the loser looked a moment before the winner came
        with pytest.raises(SystemExit):
            cli.main([*SMALL, "--steps", "2", "--out", "run"])
        assert (here / "run" / "manifest.json").read_text() == "the winner's"


@pytest.fixture
def finished(here, capsys):
    cli.main([*SMALL, "--steps", "2", "--out", "run"])
    capsys.readouterr()
    return here / "run"


DAMAGED = {
    "the weights": ("model.safetensors", lambda data: data[: len(data) // 2]),
    "the manifest": ("manifest.json", lambda data: b"[]"),
    "the counts": ("prior.safetensors", lambda data: data[: len(data) // 2]),
    "the tokenizer": ("tokenizer.json", lambda data: data[: len(data) // 2]),
}


@pytest.mark.parametrize("name, spoil", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(finished, capsys, name, spoil):
    (finished / name).write_bytes(spoil((finished / name).read_bytes()))
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", "run"])
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code in (1, 2) and len(said) == 1 and name in said[0]


def test_every_byte_of_a_text_is_scored_copies_and_blanks_too(finished, capsys):
    (finished.parent / "copies.jsonl").write_text(
        json.dumps({"text": "one and the same"})
        + "\n"
        + json.dumps({"text": "one and the same"})
        + "\n"
        + json.dumps({"text": "  \n"})
        + "\n"
    )
    cli.main(["eval", "run", "--data", "copies.jsonl", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bytes"] == 2 * 16 + 3


def test_a_run_that_nobody_works_on_is_not_called_running(finished, capsys):
    manifest = json.loads((finished / "manifest.json").read_text())
    (finished / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    (finished / "lock").unlink()
    assert not runfolder.is_at_work(finished) and not (finished / "lock").exists(), "looking writes nothing"
    for holder, status in ((contextlib.nullcontext(), "stopped"), (runfolder.lock_run(finished), "running")):
        with holder:
            cli.main(["runs", ".", "--json"])
        rows = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert [row["status"] for row in rows if row["name"] == "run"] == [status]


def test_a_vocabulary_that_the_text_cannot_fill_is_said(here, capsys):
    cli.main(["train", "--data", "good.jsonl", *SIZES.replace("300", "9000").split(" "), "--steps", "1", "--out", "run"])
    plan = json.loads((here / "run" / "manifest.json").read_text())["plan"]
    row = next(row for row in plan["rows"] if row["name"] == "vocab_size")
    assert row["value"] == f"{plan['model']['vocab_size']:,}" != "9,000" and "9,000 were planned" in row["why"]


def test_names_are_shown_as_they_are(finished, capsys):
    finished.rename(finished.with_name("[b]:smile:"))
    cli.main(["runs", "."])
    assert "[b]:smile:" in capsys.readouterr().out
