"""The comparison takes turns, compares equals, and chooses settings by a walk on the validation split."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import small_budget
from benchmarks.resources import Text, load_result, save_result
from benchmarks.small_budget import CONTESTANTS, Run, compare, rows, settings_of, summarize, sweep
from groundup.data import TokenStore
from groundup.errors import GroundupError, UsageError


def fake(name: str, seed: int, bits: float = 1.5, n_bytes: int = 1000, **more) -> Run:
    return Run(name, seed, bits, more.pop("validation", None), n_bytes, 180.0, 100, 1_000_000, more.pop("curve", []))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Text:
    """Sixty documents of words, some with bytes that are no UTF-8."""
    folder = tmp_path_factory.mktemp("text")
    random = np.random.default_rng(0)
    for i in range(60):
        words = " ".join("".join(map(chr, random.integers(97, 107, size=4))) for _ in range(200))
        (folder / f"{i}.txt").write_bytes(words.encode() + (b"\xff\xfe" if i % 7 == 0 else b""))
    return Text([str(folder)], 1_000_000, tmp_path_factory.mktemp("work"))


def test_contestants_take_turns_seed_by_seed():
    saved = []
    runs = compare(["ours", "nanogpt"], [0, 1], fake, lambda runs: saved.append(len(runs)))
    assert [(r.contestant, r.seed) for r in runs] == [("ours", 0), ("nanogpt", 0), ("ours", 1), ("nanogpt", 1)]
    assert saved == [1, 2, 3, 4]


def test_scores_of_other_bytes_are_not_compared():
    with pytest.raises(GroundupError, match="counts was scored on 999 bytes and ours on 1000"):
        compare(["ours", "counts"], [0], lambda name, seed: fake(name, seed, n_bytes=999 if name == "counts" else 1000), lambda _: None)


def test_a_summary_has_medians_ratios_and_the_time_to_reach_nanogpt():
    runs = [
        fake("ours", 0, 1.2, curve=[(20, 2.0), (50, 1.5), (90, 1.3)]),
        fake("ours", 1, 1.4, curve=[(20, 1.6), (70, 1.4)]),
        fake("ours", 2, 1.3, curve=[(40, 1.6), (60, 1.6)]),
        *(fake("nanogpt", s, 1.6, validation=1.55) for s in range(3)),
    ]
    summary = summarize(runs)
    assert summary["ours"]["median"] == 1.3 and summary["ours"]["low"] == 1.2 and summary["ours"]["high"] == 1.4
    assert summary["ours"]["ratio"] == pytest.approx(1.3 / 1.6)
    assert summary["ours"]["reaches_nanogpt_s"] == 70  # 50, 70 and never
    assert summary["nanogpt"]["ratio"] == 1 and summary["nanogpt"]["reaches_nanogpt_s"] is None
    assert [row["contestant"] for row in rows(summary)] == ["groundup", "nanoGPT"]


def test_without_nanogpt_there_is_no_ratio():
    summary = summarize([fake("ours", 0)])
    assert "ratio" not in summary["ours"] and rows(summary)[0]["of nanoGPT's"] == ""


def test_the_sweep_walks_to_the_valley():
    ladders = {"a": (1, 2, 3, 4, 5), "b": (1, 2, 3, 4, 5)}
    calls = []

    def score(s):
        calls.append(s)
        return 4 * (s["a"] - 5) ** 2 + (s["a"] - s["b"]) ** 2

    best, trials = sweep(score, {"a": 1, "b": 1, "other": "kept"}, ladders)
    assert best == {"a": 5, "b": 5, "other": "kept"}
    assert len(trials) == len(calls) < 25  # nothing is tried twice, and not everything is tried
    assert {"settings": best, "bits_per_byte": 0} in trials


def test_the_sweep_turns_back_from_what_diverges():
    best, _ = sweep(lambda s: math.inf if s["a"] > 2 else -s["a"], {"a": 1}, {"a": (1, 2, 3)})
    assert best == {"a": 2}


def test_a_compiled_peer_takes_its_twins_settings_unless_it_has_its_own():
    sweeps = {"nanogpt": {"chosen": settings_of("nanogpt", {}) | {"width": 192}}}
    assert settings_of("nanogpt-compiled", sweeps)["width"] == 192 and settings_of("nanogpt-compiled", sweeps)["compile"] is True
    sweeps["nanogpt-compiled"] = {"chosen": settings_of("nanogpt-compiled", {}) | {"width": 64}}
    assert settings_of("nanogpt-compiled", sweeps)["width"] == 64
    assert settings_of("nanogpt", sweeps)["compile"] is False
    assert settings_of("ours", sweeps) == {}


def test_the_text_is_handed_on_byte_for_byte(text):
    files = {p.read_bytes() for p in text.folder.iterdir()}
    assert len(files) == 60 and any(b"\xff\xfe" in data for data in files)
    assert sum(map(len, files)) == text.manifest()["n_bytes"] == sum(text.splits.bytes.values())
    assert sum(p.stat().st_size for p in text.split_folder("test").iterdir()) == text.splits.bytes["test"]


def test_a_limit_takes_whole_documents_in_no_order(text, tmp_path):
    part = Text([str(text.folder)], 30_000, tmp_path)
    assert 25_000 < part.manifest()["n_bytes"] <= 30_000
    assert {p.read_bytes() for p in part.folder.iterdir()} < {p.read_bytes() for p in text.folder.iterdir()}


def test_tokens_hold_every_byte_of_every_split(text):
    folder = text.tokens(300)
    for split in ("train", "validation", "test"):
        assert TokenStore.open(folder / split).n_bytes == text.splits.bytes[split]


def test_a_peer_trains_in_a_process_of_its_own(text, monkeypatch):
    """The whole way of a peer but the process: what the request says is what is run."""
    from benchmarks.peers import __main__ as process

    def in_this_process(module: str, arguments: list[str]):
        assert module == "benchmarks.peers"
        return json.loads(json.dumps(process.run(json.loads(Path(arguments[0]).read_text()))))

    monkeypatch.setattr(small_budget, "run_module", in_this_process)
    settings = settings_of("counts", {}) | {"vocab_size": 300}
    run = small_budget.run_contestant("counts", CONTESTANTS["counts"], settings, 60.0, 0, text)
    assert run.n_bytes == text.splits.bytes["test"]
    assert 0 < run.bits_per_byte < 8 and run.validation is not None


def test_ours_is_scored_again_where_its_run_scored_a_sample(text, monkeypatch):
    asked = []

    def fake_module(module: str, arguments: list[str]):
        asked.append(arguments)
        if arguments[0] == "eval":
            return {"bits_per_byte": {"model": 1.25}, "bytes": text.splits.bytes["test"]}
        folder = Path(arguments[arguments.index("--out") + 1])
        folder.mkdir(parents=True)
        looks = [("validation", 30.0, 1.9, 50), ("validation", 60.0, 1.4, 50), ("test", 70.0, 1.3, 99)]
        records = [
            {"kind": "evaluation", "split": split, "seconds": s, "bits_per_byte": {"model": bits}, "bytes": n, "step": 7}
            for split, s, bits, n in looks
        ]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
        return {"measured": {"seconds": 71.0, "parameters": 5}}

    monkeypatch.setattr(small_budget, "run_module", fake_module)
    run = small_budget.run_contestant("ours-plain-third", CONTESTANTS["ours-plain-third"], {}, 180.0, 3, text)
    assert run.bits_per_byte == 1.25 and run.n_bytes == text.splits.bytes["test"]
    assert run.curve == [(30.0, 1.9), (60.0, 1.4)] and run.seconds == 71.0
    train = asked[0]
    assert train[train.index("--budget") + 1] == "60s" and train[train.index("--seed") + 1] == "3"
    assert train[train.index("--prior") + 1] == "off"


def test_the_command_compares_saves_and_prints(tmp_path, text, monkeypatch, capsys):
    monkeypatch.setattr(small_budget, "run_contestant", lambda name, contestant, settings, seconds, seed, text: fake(name, seed))
    out = tmp_path / "result.json"
    save_result(out, {"benchmark": "small_budget", "sweeps": {"nanogpt": {"chosen": settings_of("nanogpt", {}) | {"n_layers": 2}}}})
    small_budget.main(["--quick", "--data", str(text.folder), "--contestants", "ours,nanogpt", "--seeds", "2", "--out", str(out)])
    printed = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    result = load_result(out)
    assert printed["summary"] == result["summary"] and result["summary"]["ours"]["seeds"] == 2
    assert result["settings"]["nanogpt"]["n_layers"] == 2 and "nanogpt" in result["sweeps"]
    assert result["budget_s"] == 20 and len(result["runs"]) == 4
    assert result["environment"]["torch"] and result["date"]
    assert str(tmp_path) not in out.read_text()


def test_the_command_sweeps_into_the_result_file(tmp_path, text, monkeypatch):
    def valley(contestant, settings, seconds, seed, text, splits):
        assert tuple(splits) == ("validation",)  # no choice sees the test split
        return {
            "bits_per_byte": {"validation": None if settings["order"] > 4 else abs(settings["order"] - 3) + settings["vocab_size"] / 1e6}
        }

    monkeypatch.setattr(small_budget, "run_peer", valley)
    out = tmp_path / "result.json"
    small_budget.main(["--quick", "--sweep", "--data", str(text.folder), "--contestants", "counts,ours", "--out", str(out)])
    swept = load_result(out)["sweeps"]["counts"]
    assert swept["chosen"]["order"] == 3 and swept["chosen"]["vocab_size"] == 1024
    assert swept["split"] == "validation" and len(swept["trials"]) >= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contestants", "ours,gpt5"], "'gpt5' is not known"),
        (["--seeds", "0"], "--seeds 0"),
        (["--budget", "2e15flop"], "equal time"),
    ],
)
def test_bad_requests_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        small_budget.main(arguments)


def test_a_damaged_result_file_is_named(tmp_path):
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(GroundupError, match=r"r\.json: damaged"):
        load_result(tmp_path / "r.json")
