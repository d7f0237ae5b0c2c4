"""Runs in processes of their own: killed at any moment, stopped, resumed, alone and in twos, they end in the same weights."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup import job
from groundup.errors import GroundupError, UsageError
from groundup.recorder import Listener
from groundup.runfolder import RunFolder
from groundup.tokenizer import Tokenizer
from groundup.workbench import open_workbench

DRIVE = Path(__file__).with_name("drive.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DRIVE.parents[1])}
SIZES = "--steps 24 --d-model 32 --n-layers 1 --head-dim 16 --vocab-size 300 --seq-len 32 --batch-size 4 --micro-batch-size 2"
FLAGS = [*SIZES.split(" "), "--budget", "60s", "--hash-rows", "20000", "--save-every", "0"]
ONE, TWO = 1, 2


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """A folder of small programs made up by chance."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    names = ["alpha", "beta", "gamma", "delta", "total", "value"]
    for i in range(60):
        lines = [f"{names[rng.integers(6)]}_{i} = {names[rng.integers(6)]} + {rng.integers(1000)}" for _ in range(rng.integers(10, 30))]
        (folder / f"{i}.py").write_text("\n".join(lines) + "\n")
    return folder


def launch(size: int, *arguments: str, **variables: str) -> list[subprocess.Popen]:
    """The ranks of one run, each a process that can be killed: what torchrun would start, without its supervisor."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = ENVIRONMENT | variables | ({name: str(value) for name, value in world.items()} if size > 1 else {})
        command = [sys.executable, str(DRIVE), "train", *arguments]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return processes


def finish(processes: list[subprocess.Popen]) -> str:
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), said
    return said[0]


def steps(run: Path) -> dict[int, dict]:
    """The last record of each training step."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {r["step"]: r for r in records if r["kind"] == "train"}


def wait_for(processes: list[subprocess.Popen], run: Path, step: int) -> None:
    while max(steps(run), default=0) < step:
        assert processes[0].poll() is None, processes[0].communicate()[0]
        os.sched_yield()


def stop(processes: list[subprocess.Popen], number: signal.Signals) -> str:
    for process in processes:
        process.send_signal(number)
    return "".join(process.communicate(timeout=120)[0] for process in processes)


@pytest.fixture(scope="module")
def runs(text, tmp_path_factory):
    """One run that nothing interrupted, by one process and by two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, world in (("one", ONE), ("two", TWO)):
        finish(launch(world, "--data", str(text), "--out", str(folder / name), *FLAGS))
    return folder


@pytest.mark.parametrize("name, world, moments", [("one", ONE, (11,)), ("two", TWO, (3,))])
def test_a_killed_run_ends_in_the_very_same_weights(runs, text, tmp_path, name, world, moments):
    run = tmp_path / "run"
    processes = launch(world, "--data", str(text), "--out", str(run), *FLAGS)
    for moment in moments:
        wait_for(processes, run, moment)
        stop(processes, signal.SIGKILL)
        processes = launch(world, "--resume", str(run))
    finish(processes)
    assert (run / "model.safetensors").read_bytes() == (runs / name / "model.safetensors").read_bytes()
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"


def test_a_run_that_computes_again_ends_in_the_very_same_weights(runs, text, tmp_path):
    run = tmp_path / "run"
    said = finish(launch(ONE, "--data", str(text), "--out", str(run), *FLAGS, "--recompute", "layers"))
    assert "backward computes again: layers" in said
    assert (run / "model.safetensors").read_bytes() == (runs / "one" / "model.safetensors").read_bytes()


def written(run: Path) -> int:
    """How far a run has come: lines of its metrics, from the first phase to the last evaluation."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def can_be_resumed(run: Path) -> bool:
    return (run / "manifest.json").exists() and RunFolder.open(run).resumable


def test_killed_anywhere_a_run_goes_on_or_begins_anew_to_the_very_same_weights(runs, text, tmp_path):
    run, seed = tmp_path / "run", int.from_bytes(os.urandom(4))
    draw = random.Random(seed)
    moments = sorted(draw.sample(range(written(runs / "one")), 3))
    begin = ["--data", str(text), "--out", str(run), *FLAGS]
    processes = launch(ONE, *begin)
    for moment in moments:
        while not (run / "lock").exists() or written(run) < moment:
            assert processes[0].poll() is None, (seed, moments, processes[0].communicate()[0])
            os.sched_yield()
        stop(processes, signal.SIGKILL)
        processes = launch(ONE, *(["--resume", str(run)] if can_be_resumed(run) else begin))
    finish(processes)
    assert (run / "model.safetensors").read_bytes() == (runs / "one" / "model.safetensors").read_bytes(), (seed, moments)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_in_its_preparation_leaves_nothing(text, tmp_path, number, status):
    run = tmp_path / "deep" / "run"
    processes = launch(ONE, "--data", str(text), "--out", str(run), *FLAGS)
    while written(run) < 2:
        assert processes[0].poll() is None, processes[0].communicate()[0]
        os.sched_yield()
    said = stop(processes, number)
    assert processes[0].returncode == status and "interrupted" in said and "Traceback" not in said
    assert not run.parent.exists()


def test_a_run_that_another_process_finishes_meanwhile_is_not_trained_again(runs, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))

    @contextlib.contextmanager
    def held_until_finished(path):
        (path / "manifest.json").write_text(json.dumps(manifest))
        yield

    monkeypatch.setattr(job, "lock_run", held_until_finished)
    with pytest.raises(UsageError, match="finished"):
        job.resume(run, Listener())
    assert json.loads((run / "manifest.json").read_text()) == manifest


def test_tokens_of_another_tokenizer_are_noticed(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    Tokenizer.train([b"another text altogether " * 20], 270).save(run / "tokenizer.json")
    with pytest.raises(GroundupError, match=r"tokens/train is not of its tokenizer\.json"):
        open_workbench(RunFolder.open(run), torch.device("cpu"))


@pytest.mark.parametrize("name, world", [("one", ONE), ("two", TWO)])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(runs, text, tmp_path, name, world):
    run = tmp_path / "run"
    processes = launch(world, "--data", str(text), "--out", str(run), *FLAGS[:-2])  # no checkpoint but the one that it saves at the end
    wait_for(processes, run, 5)
    said = stop(processes, signal.SIGTERM)
    assert processes[0].returncode == 130
    assert "and saved" in said and f"groundup train --resume {run}" in said
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "interrupted" and list((run / "state").glob("step-*"))
    before = max(steps(run))
    finish(launch(world, "--resume", str(run)))
    assert (run / "model.safetensors").read_bytes() == (runs / name / "model.safetensors").read_bytes()
    assert 5 <= before < 24


def test_a_run_by_time_that_is_killed_in_its_decay_ends_in_the_very_same_weights(text, tmp_path):
    """The number of steps follows the clock until then; a run that goes on keeps what was decided."""
    flags = ["--data", str(text), *FLAGS[2:]]
    finish(launch(ONE, *flags, "--out", str(tmp_path / "whole"), DRIVE_CLOCK="0.1"))
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    last = manifest["agendas"][-1]["n_steps"]
    assert manifest["plan"]["n_steps"] != last == manifest["measured"]["steps"] and len(manifest["agendas"]) > 2
    processes = launch(ONE, *flags, "--out", str(tmp_path / "killed"), DRIVE_CLOCK="0.1")
    wait_for(processes, tmp_path / "killed", int(0.7 * last))
    stop(processes, signal.SIGKILL)
    finish(launch(ONE, "--resume", str(tmp_path / "killed"), DRIVE_CLOCK="5"))  # now far too slow for the time left
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_two_processes_learn_as_one(runs):
    one, two = steps(runs / "one"), steps(runs / "two")
    assert len(one) == len(two) == 24
    for step in one:
        assert two[step]["loss"] == pytest.approx(one[step]["loss"], abs=1e-4)


def test_what_was_predicted_exactly_is_what_was_measured(runs):
    manifest = json.loads((runs / "one" / "manifest.json").read_text())
    predicted, measured = manifest["plan"]["predicted"], manifest["measured"]
    for name in ("parameters", "tokens", "flops"):
        assert predicted[name] == measured[name]
