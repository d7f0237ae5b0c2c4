"""Checkpoints: whole or not there, verified when read, refused with one sentence when they cannot be."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from groundup.errors import GroundupError, UsageError
from groundup.optim import Schedule
from groundup.runfolder import lock_run
from groundup.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from groundup.train.loop import Callbacks, train
from groundup.train.step import StepConfig, TrainState

SETTINGS = StepConfig(8, 4, Schedule("constant"))


def same(a: TrainState, b: TrainState) -> bool:
    pairs = [(dict(s.model.named_parameters()), s.optimizer.state_dict()) for s in (a, b)]
    equal = all(torch.equal(x, y[name]) for of_a, y in zip(*pairs, strict=True) for name, x in of_a.items())
    return equal and (a.step, a.skipped) == (b.step, b.skipped)


def trained(state: TrainState, new_batch, n: int) -> TrainState:
    return train(state, new_batch, StepConfig(n, 4, SETTINGS.schedule), Callbacks())


@pytest.fixture
def run(tmp_path, new_state, new_batch):
    """A run with checkpoints of steps 1 and 2."""
    state = trained(new_state(), new_batch, 1)
    save_checkpoint(tmp_path, state, {"spent": 1.5})
    save_checkpoint(tmp_path, trained(state, new_batch, 2), {"spent": 2.5})
    return tmp_path


def test_what_is_saved_is_what_is_loaded_and_training_goes_on_bit_for_bit(run, new_state, new_batch):
    state = new_state()
    assert load_checkpoint(run, state)["spent"] == 2.5
    assert same(state, trained(new_state(), new_batch, 2))
    assert same(trained(state, new_batch, 8), trained(new_state(), new_batch, 8))


def test_a_run_without_checkpoints_has_none(tmp_path, new_state):
    assert load_checkpoint(tmp_path, new_state()) is None


def test_the_newest_two_are_kept(run, new_state, new_batch):
    state = trained(new_state(), new_batch, 3)
    save_checkpoint(run, state, {})
    assert [p.name for p in checkpoints(run)] == ["step-00000002", "step-00000003"]
    written = (checkpoints(run)[-1] / "state.json").stat()
    save_checkpoint(run, state, {})  # the same step again stands as it is: no moment without it
    assert (checkpoints(run)[-1] / "state.json").stat() == written
    assert [p.name for p in checkpoints(run)] == ["step-00000002", "step-00000003"]


def test_what_a_killed_process_left_is_passed_over_and_replaced(run, new_state, new_batch):
    partial = run / "state" / "step-00000003.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    state = new_state()
    assert load_checkpoint(run, state)["step"] == 2
    save_checkpoint(run, trained(state, new_batch, 3), {})
    assert not partial.exists() and load_checkpoint(run, new_state())["step"] == 3


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, new_state, name, damage):
    file = checkpoints(run)[-1] / name
    data = file.read_bytes()
    file.unlink()
    if damage == "flipped":
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 0x80]) + data[middle + 1 :])
    if damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    assert load_checkpoint(run, new_state())["step"] == 1


def test_a_number_that_changed_in_the_state_is_noticed(run, new_state):
    file = checkpoints(run)[-1] / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"skipped": 3}))
    assert load_checkpoint(run, new_state())["step"] == 1


def test_when_all_are_damaged_a_file_is_named(run, new_state):
    for folder in checkpoints(run):
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(GroundupError, match=r"model\.safetensors: damaged, and no older checkpoint is whole"):
        load_checkpoint(run, new_state())


def test_another_version_is_refused(run, new_state):
    file = checkpoints(run)[-1] / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(UsageError, match="another version"):
        load_checkpoint(run, new_state())


def test_a_full_disk_is_said_and_the_checkpoint_before_stays(run, new_state, new_batch, monkeypatch):
    def full(path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    state = trained(new_state(), new_batch, 3)
    monkeypatch.setattr("groundup.train.checkpoint._sync", full)
    with pytest.raises(GroundupError, match="disk is full"):
        save_checkpoint(run, state, {})
    monkeypatch.undo()
    assert load_checkpoint(run, new_state())["step"] == 2
    assert not list(run.glob("state/*.partial")), "a half-written folder would keep the disk full"


def test_damaged_checkpoints_do_not_count_among_the_two_that_are_kept(run, new_state, new_batch):
    (checkpoints(run)[-1] / "model.safetensors").write_bytes(b"damaged")
    state = new_state()
    assert load_checkpoint(run, state)["step"] == 1
    save_checkpoint(run, trained(state, new_batch, 2), {})
    assert [p.name for p in checkpoints(run)] == ["step-00000001", "step-00000002"]
    assert load_checkpoint(run, new_state())["step"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_file_that_cannot_be_written_to_its_end_is_said_too(run):
    """In a process of its own, whose files may hold 4,000 bytes: the failure comes from inside safetensors."""
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from safetensors.torch import save_file\n"
        "from groundup.errors import GroundupError\n"
        "from groundup.files import disk_errors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "path = Path(sys.argv[1])\n"
        "try:\n"
        "    with disk_errors(path):\n"
        "        save_file({'a': torch.zeros(9999)}, path)\n"
        "except GroundupError as e:\n"
        "    print(e)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, str(run / "model.safetensors")], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large)" in said.stdout


def test_a_folder_that_cannot_be_written_is_said(tmp_path, new_state):
    (tmp_path / "state").write_text("a file in the way")
    with pytest.raises(GroundupError, match="cannot be written"):
        save_checkpoint(tmp_path, new_state(), {})
    with pytest.raises(GroundupError, match="cannot be written"), lock_run(tmp_path / "state" / "run"):
        pass


def test_a_second_process_is_refused_and_a_lock_dies_with_its_process(tmp_path):
    child = os.fork()
    if child == 0:
        with lock_run(tmp_path):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    with lock_run(tmp_path), pytest.raises(UsageError, match="another process is working on this run"), lock_run(tmp_path):
        pass
