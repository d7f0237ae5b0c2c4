"""The accounting benchmark on its smallest case; its grid and its verdict."""

import json

import pytest

from benchmarks import accounting
from groundup.config import Attention, check


def test_the_grid_covers_what_the_decoder_has():
    cases = list(accounting.grid())
    assert len(cases) >= 24 and len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert check(case.config) and case.seq_len <= case.config.context_length
    assert {case.matrices for case in cases} == {"muon", "soap", "adamw", "sgd"} and {case.others for case in cases} == {"adamw", "sgd"}
    layers = [layer for case in cases for layer in case.config.layers]
    assert {layer.placement for layer in layers} == {"pre", "post", "sandwich", "after"}
    assert {layer.mlp.activation for layer in layers} == {"swiglu", "gelu", "relu2", "geglu", "clamped_swiglu"}
    assert {type(part).__name__ for layer in layers for part in (layer.mixer, layer.mlp)} == {
        *("Attention", "LatentAttention", "LinearMixer", "Dense", "Experts")
    }
    attention = [layer.mixer for layer in layers if isinstance(layer.mixer, Attention)]
    assert any(a.window for a in attention) and any(a.n_kv_heads < a.n_heads for a in attention) and any(a.sinks for a in attention)
    assert any(case.config.tied for case in cases) and any(case.config.logit_softcap for case in cases)


def test_the_smallest_case_runs_whole(tmp_path, capsys, monkeypatch):
    import torch

    threads = torch.get_num_threads()
    try:
        assert accounting.main(["--only", "groundup 64x4", "--rounds", "1", "--out", str(tmp_path / "accounting.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "accounting.json").read_text())
    (row,) = result["rows"]
    assert row["memory_ratio"] == pytest.approx(1, abs=accounting.MEMORY_BOUND) and row["time_ratio"] > 0
    assert result["memory_within"] and result["memory_worst_case"] == "groundup 64x4" and "environment" in result
    printed = capsys.readouterr().out
    assert "groundup 64x4" in printed and printed.rstrip().splitlines()[-1].startswith("time")


def test_one_grid_is_measured_again_and_the_other_kept(tmp_path, monkeypatch, capsys):
    out = tmp_path / "accounting.json"
    row = {"name": "a", "time_ratio": 0.8, "memory_ratio": 1.0}
    monkeypatch.setattr(accounting, "alone", lambda cases, rounds: pytest.fail("only two threads were asked for"))
    monkeypatch.setattr(
        accounting, "share", lambda cases, rounds: {"shared": {"threads": 2, **accounting.errors_of([row], "time"), "rows": [row]}}
    )
    monkeypatch.setattr(accounting, "show_rows", lambda rows, title: None)
    monkeypatch.setattr(accounting.torch, "set_num_threads", lambda n: None)
    out.write_text(json.dumps({"memory_worst": 0.01, "shared": None, "hours": 5}))
    assert accounting.main(["--threads", "2", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["hours"] == 5 and found["memory_worst"] == 0.01 and found["shared"]["time_worst_case"] == "a"
    assert "time on 2 threads: worst 20.0% (a)" in capsys.readouterr().out


def test_the_summary_names_the_worst_and_judges():
    rows = [{"name": name, "memory_ratio": m, "time_ratio": t} for name, m, t in (("a", 1.01, 0.9), ("b", 0.99, 1.2), ("c", 1.0, 1.05))]
    found = accounting.summary(rows)
    assert found["time_worst_case"] == "b" and found["time_worst"] == pytest.approx(0.2) and found["time_median"] == pytest.approx(0.1)
    assert found["memory_within"] and found["time_within"]
    rows[0]["memory_ratio"], rows[1]["time_ratio"] = 1.04, 1.4
    found = accounting.summary(rows)
    assert not found["memory_within"] and not found["time_within"] and found["memory_worst_case"] == "a"


def test_a_case_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        accounting.main(["--only", "abacus"])
    assert ended.value.code == 2 and "abacus" in capsys.readouterr().err
