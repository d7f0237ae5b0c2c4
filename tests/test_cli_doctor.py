"""``groundup doctor``: what it prints, stores and refuses; the measuring itself is in tests/train/test_ceilings.py."""

import json

import pytest
import torch

from groundup import cli
from groundup.account import Ceilings
from groundup.account.measured import Measured, load_measured
from groundup.errors import UsageError
from groundup.kernels.attention import choose_backend
from groundup.kernels.choices import kernel_choices

CEILINGS = Ceilings(
    "two cores",
    "fp32",
    ((4.0, 1e9), (64.0, 2e9)),
    ((1e5, 3e10), (1e8, 1e10)),
    1e-5,
    (("exponentials", 4e8), ("heads", 3e8)),
    peak_flops=4e9,
)
HALF = Ceilings("two cores", "bf16", ((4.0, 1e9),), ((1e5, 3e10),), 1e-5, peak_flops=1e9)


@pytest.fixture
def examined(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path))
    found = {"own_share": 0.99}
    monkeypatch.setattr(
        "groundup.train.ceilings.examine",
        lambda device, world: Measured(device.type, 2, 8 << 30, "2026-11-27", "2.9.0", (CEILINGS, HALF), own_share=found["own_share"]),
    )
    return found


def test_it_prints_what_was_measured_and_stores_it(capsys, tmp_path, examined):
    cli.main(["doctor", "--device", "cpu", "--json"])
    printed = capsys.readouterr().out
    assert "2.00 GFLOP/s" in printed and "30.0 GB/s" in printed and "10.0 µs" in printed and "others took" not in printed
    assert all(part in printed for part in ("attention", "norm", "loss", "optimizer", "tokenizer"))
    last = json.loads(printed.splitlines()[-1])
    assert last["kind"] == "cpu" and last["ceilings"][0]["peak_flops"] == 4e9 and last["kernels"]["attention"] == "blocked"
    assert load_measured().ceilings == (CEILINGS, HALF) and (tmp_path / "machine-cpu.json").is_file()


def test_a_busy_machine_is_said(capsys, examined):
    examined["own_share"] = 0.4
    cli.main(["doctor", "--device", "cpu"])
    assert "others took 60%" in capsys.readouterr().out


def test_costs_rest_on_it(capsys, examined):
    cli.main(["doctor", "--device", "cpu"])
    cli.main(["cost", "smollm2-135m", "--device", "here", "--seq-len", "128", "--time", "--json"])
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[-1])
    assert "two cores" in printed and "bound by" in printed
    assert sum(found["seconds_by_part"].values()) == pytest.approx(found["step_seconds"])
    assert 0 < found["mfu"] <= found["hfu"] < 1
    assert found["training_tokens_per_s"] == pytest.approx(8 * 128 / found["step_seconds"])
    assert found["training_seconds"] == pytest.approx(found["training_tokens"] / found["training_tokens_per_s"], rel=1e-6)


@pytest.mark.parametrize(
    "arguments, names",
    [("doctor --threads 0", "--threads 0"), ("doctor --threads 999999", "at most"), ("cost smollm2-135m --device here", "groundup doctor")]
    + ([] if torch.cuda.is_available() else [("doctor --device cuda", "--device cuda")]),
)
def test_what_cannot_be_is_one_sentence_and_two(capsys, tmp_path, monkeypatch, arguments, names):
    monkeypatch.setenv("GROUNDUP_CACHE", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and names in error


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_kernels_are_those_that_are_chosen(kind):
    choices = {choice.part: choice for choice in kernel_choices(torch.device(kind))}
    assert list(choices) == ["attention", "norm", "loss", "optimizer", "tokenizer"]
    assert choices["attention"].kernel == choose_backend(torch.device(kind))[0]
    assert all(choice.why for choice in choices.values())


def test_a_device_without_kernels_is_refused():
    with pytest.raises(UsageError, match="cpu and cuda"):
        kernel_choices(torch.device("meta"))
