"""What stands around a plan."""

from benchmarks.plan_grid import AS_PLANNED, flags, neighbours, planned, rows, steps_in, verdict

PLAN = {
    "model": {"d_model": 96, "layers": [{}, {}], "vocab_size": 2048, "hash_embedding": {"n_rows": 64}},
    "seq_len": 256,
    "batch_size": 1,
    "micro_batch_size": 1,
}


def test_neighbours_are_one_notch_away_and_make_sense():
    choice = planned(PLAN)
    found = neighbours(choice, ["width", "depth", "batch", "vocabulary"])
    assert {name: {k: v for k, v in other.items() if v != choice[k]} for name, other in found.items()} == {
        "width 64": {"d-model": 64},
        "width 128": {"d-model": 128},
        "depth 1": {"n-layers": 1},
        "depth 3": {"n-layers": 3},
        "batch 2": {"batch-size": 2, "micro-batch-size": 2},
        "vocabulary 1,024": {"vocab-size": 1024},
        "vocabulary 4,096": {"vocab-size": 4096},
    }
    assert flags({"d-model": 64, "steps": 3}) == ["--d-model", "64", "--steps", "3"]


def test_the_smallest_choice_has_no_smaller_neighbours():
    smallest = {"model": {"d_model": 64, "layers": [{}], "vocab_size": 512, "hash_embedding": None}}
    choice = planned(PLAN | smallest)
    assert list(neighbours(choice, ["width", "depth", "vocabulary"])) == ["width 96", "depth 2", "vocabulary 1,024"]


def test_no_choice_reads_the_text_more_often_than_is_good():
    plan = PLAN | {"seconds": 100.0, "predicted_seconds": 70.0, "train_seconds": 30.0, "most_steps": 1_000}
    choice = planned(plan)
    assert steps_in(plan, choice, 0.1) == 600  # the time that training left, too
    assert steps_in(plan, choice, 0.01) == 1_000
    assert steps_in(plan, choice | {"batch-size": 4}, 0.01) == 250
    assert steps_in(plan, choice, 100.0) == 1


def test_the_table_has_the_best_first_and_compares_medians():
    bits = {AS_PLANNED: {"0": 1.0, "1": 1.1, "2": 1.2}, "width 64": {"0": 0.9, "1": 1.0, "2": 1.3}, "depth 3": {"0": 1.2}}
    table = rows(bits)
    assert [(row["changed"], row["worse by"]) for row in table] == [
        ("width 64", "-0.1000"),
        (AS_PLANNED, "+0.0000"),
        ("depth 3", "+0.1000"),
    ]


def test_a_verdict_names_the_best_and_by_how_much():
    choice = planned(PLAN) | {"steps": 9}
    entry = {"choices": {AS_PLANNED: choice, "width 64": choice}, "bits_per_byte": {AS_PLANNED: {"0": 1.01}, "width 64": {"0": 1.0}}}
    line = verdict("novels, 3m", entry)
    assert (line["bits per byte"], line["best"], line["better by"], line["of"]) == ("1.0100", "1.0000 (width 64)", "0.0100", "2")
    assert line["planned"] == "width 96, 2 layers, vocabulary 2,048, 1 x 256 tokens a step"
