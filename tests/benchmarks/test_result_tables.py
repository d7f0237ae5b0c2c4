"""The README's numbers come from the result files, and a README that differs is found out."""

import json

import pytest

from benchmarks import table
from benchmarks.small_budget import Run, summarize
from groundup.errors import UsageError

ENVIRONMENT = {"cpu": "Some CPU", "threads": 2, "torch": "2.9", "python": "3.11"}


@pytest.fixture
def results(tmp_path):
    """A folder with one comparison, one sweep without a comparison, and one benchmark that is not for the README."""
    folder = tmp_path / "results"
    folder.mkdir()
    runs = [Run(n, s, b + s / 100, 1.6, 99_000, 180.0, 5, 7, []) for s in range(3) for n, b in (("ours", 1.2), ("nanogpt", 1.6))]
    result = {
        "benchmark": "small_budget",
        "date": "2026-11-23",
        "environment": ENVIRONMENT,
        "corpus": {"name": "stdlib", "n_bytes": 12_000_000, "splits": {"bytes": {"test": 99_000}}},
        "budget_s": 180.0,
        "sweeps": {"nanogpt": {"chosen": {}}},
        "summary": summarize(runs),
    }
    (folder / "small_budget.json").write_text(json.dumps(result))
    (folder / "small_budget_novels.json").write_text(json.dumps({"benchmark": "small_budget", "sweeps": {}}))
    (folder / "other.json").write_text(json.dumps({"benchmark": "other", "summary": {"x": 1}}))
    return folder


def write(path, inside: str = ""):
    path.write_text(f"# Title\n\n{table.BEGIN}\n{inside}{table.END}\n\nThe end.\n")
    return path


def test_the_block_is_filled_from_the_files_and_nothing_else_changes(tmp_path, results, capsys):
    readme = write(tmp_path / "README.md", "old numbers\n")
    arguments = ["--readme", str(readme), "--results", str(results)]
    assert table.main([*arguments, "--check"]) == 1
    assert "old numbers" in readme.read_text()
    assert table.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith("# Title\n\n") and text.endswith("\n\nThe end.\n") and "old numbers" not in text
    assert "| groundup | 1.2100 | 1.2000 to 1.2200 | 0.752 |" in text
    assert "180 seconds on stdlib" in text and "99,000 held-out bytes" in text and "settings of nanogpt swept" in text
    assert "2026-11-23, Some CPU, 2 threads, PyTorch 2.9" in text
    assert table.main([*arguments, "--check"]) == 0
    assert "out of date" in capsys.readouterr().err


def test_without_results_an_empty_block_is_up_to_date(tmp_path):
    readme = write(tmp_path / "README.md")
    assert table.main(["--check", "--readme", str(readme), "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize("text", ["no markers", table.BEGIN, table.END + table.BEGIN, table.BEGIN + table.END + table.END])
def test_markers_that_do_not_fit_are_named(text):
    with pytest.raises(UsageError, match=r"README\.md: put"):
        table.rewrite(text, "tables", "README.md")


def test_columns_that_say_nothing_are_left_out():
    assert table.markdown([{"a": "1", "b": ""}, {"a": "2", "b": ""}]) == "| a |\n| - |\n| 1 |\n| 2 |"


def test_speeds_have_their_table(tmp_path):
    from benchmarks.step_speed import summarize as speeds

    times = {"ours": [1.0], "nanogpt": [2.0], "gemm": [0.5]}
    result = {
        "benchmark": "step_speed",
        "date": "2026-11-23",
        "environment": ENVIRONMENT,
        "shape": {"n_layers": 4, "width": 128, "vocab_size": 2048, "seq_len": 256, "batch_size": 16},
        "summary": speeds(times, 16),
        "seconds_per_step": times,
    }
    (tmp_path / "step_speed.json").write_text(json.dumps(result))
    assert "| groundup, Muon and AdamW | 4,096 | 2.00 |" in table.block(tmp_path)
