"""What is asked wrongly is refused with one sentence and exit status 2, and leaves nothing behind."""

import json

import pytest

from groundup import cli
from groundup.account.rules import Machine


@pytest.fixture(autouse=True)
def known_machine(monkeypatch):
    machine = Machine("a known machine", "cpu", 1e-11, 1e-9, 1e11, 2.5e6, 8 << 30)
    monkeypatch.setattr("groundup.job.measure_machine", lambda device, dtype: machine)


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
    assert [name for name in sorted(p.name for p in here.rglob("*")) if name != "runs"] == before


def test_an_unknown_flag_is_refused(here, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--bugdet", "3m"])
    assert ended.value.code == 2
    assert "--bugdet" in capsys.readouterr().err


def test_debug_shows_where(here):
    from groundup.errors import UsageError

    with pytest.raises(UsageError):
        cli.main(["train", "--data", "nowhere", "--debug"])
