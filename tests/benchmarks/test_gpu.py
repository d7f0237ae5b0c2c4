"""The GPU benchmark runs whole on a processor, and one broken check costs one row."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_jobs import Job, Outcome, Setting, bounded, interleaved, run_jobs
from groundup.account.workload import Training

ROOT = Path(gpu.__file__).parents[1]
CPU = Setting(torch.device("cpu"), quick=True)


def test_the_whole_script_runs_on_small_shapes(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert {row["section"] for row in result["rows"]} == set(gpu.SECTIONS)
    assert not [row for row in result["rows"] if row["status"] == "FAILED"]
    assert result["quick"] and result["versions"]["torch"] == torch.__version__
    assert done.stdout.rstrip().endswith(" 0 FAILED")  # the table comes last


def fail() -> Outcome:
    raise RuntimeError("no kernel\nfor this")


def test_a_job_that_raises_is_a_failed_row_and_the_next_one_runs(capsys):
    jobs = [Job("first", fail), Job("second", lambda: [("a", Outcome("1")), ("b", Outcome("2"))])]
    rows = run_jobs("part", jobs, time.perf_counter() + 1000)
    assert [(row.name, row.text, row.status) for row in rows] == [
        ("first", "RuntimeError: no kernel", "FAILED"),
        ("second a", "1", "info"),
        ("second b", "2", "info"),
    ]
    assert "Traceback" in capsys.readouterr().err
    assert gpu.table(rows).endswith("3 rows, 1 FAILED")


def test_nothing_begins_after_the_deadline():
    (row,) = run_jobs("part", [Job("late", fail)], time.perf_counter() - 1)
    assert row.status == "skipped"


@pytest.mark.parametrize(("value", "status"), [(0.5, "ok"), (1.0, "ok"), (1.5, "FAILED"), (float("nan"), "FAILED")])
def test_a_bound_holds_or_fails(value, status):
    assert bounded("error", value, 1.0).status == status


def test_interleaving_calls_everyone_equally_often():
    calls = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU.device, rounds=3)
    assert calls == ["a", "b"] * 5 and set(seconds) == {"a", "b"}


def test_attention_counts_the_pairs_that_the_mask_lets_through():
    inputs = gpu.attention_inputs(CPU, 64, 16)
    batch, t, heads, dim = inputs.q.shape
    assert inputs.flops == 2 * 2 * batch * heads * dim * t * (t + 1) / 2


def test_the_model_is_of_gpt2_smalls_size():
    config = gpu.model_config(Setting(torch.device("cpu"), quick=False), "groundup")
    assert 120e6 < gpu.cost(config, Training(1024)).parameters < 128e6


@pytest.mark.parametrize("arguments", [["--device", "cpu"], ["--device", "gpu"]])
def test_what_cannot_be_measured_is_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(arguments)
    assert "usage" in capsys.readouterr().err
