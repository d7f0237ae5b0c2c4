"""The planner: what it derives follows the budget, what is set by hand stands, and what cannot be is refused."""

import dataclasses
import math

import pytest

from groundup.account import CPU, parse_budget, training_memory
from groundup.account.cost import cost
from groundup.account.law import SMALL_SCALE, LossLaw
from groundup.account.plan import final_steps, make_plan, restate
from groundup.account.rules import (
    MAX_EPOCHS,
    Machine,
    Overrides,
    bytes_per_token,
    choose_seq_len,
    choose_tokens_per_step,
    choose_vocab_size,
)
from groundup.account.workload import Training
from groundup.errors import UsageError

MACHINE = Machine("a machine", "cpu", 8e-12, 1e-7, 130e9, 2.5e6, 16 << 30, usd_per_hour=2.0, seconds_per_step=0.01)
MB = 1_000_000


def plan(budget: str, n_bytes: int = 11 * MB, machine: Machine = MACHINE, world_size: int = 1, **overrides):
    return make_plan(parse_budget(budget), machine, n_bytes, overrides=Overrides(**overrides), world_size=world_size)


def test_a_larger_budget_buys_more_of_everything():
    plans = [plan(budget) for budget in ("15s", "3m", "20m", "3h")]
    for name in ("tokens", "flops", "text_bytes", "seq_len"):
        values = [getattr(p, name) for p in plans]
        assert values == sorted(values) and values[0] < values[-1], name
    assert plans[0].model.d_model < plans[-1].model.d_model


def test_what_is_spent_already_and_a_slow_machine_leave_less_for_text_and_training():
    quick = plan("30s", 30 * MB)
    late = make_plan(parse_budget("30s"), MACHINE, 30 * MB, spent_s=12.0)
    slow = plan("30s", 30 * MB, machine=dataclasses.replace(MACHINE, tokenizer_bytes_per_s=1.25e6))
    assert late.text_bytes == pytest.approx(quick.text_bytes * 20 / 30, rel=1e-3)  # two seconds are kept for measuring anyway
    assert late.train_seconds < quick.train_seconds and late.predicted_seconds <= 30
    assert slow.text_bytes == pytest.approx(quick.text_bytes / 2, rel=1e-3)
    gone = make_plan(parse_budget("30s"), MACHINE, 30 * MB, spent_s=40.0)  # it runs late rather than not at all
    assert gone.text_bytes == pytest.approx(quick.text_bytes / 2, rel=1e-3) and gone.train_seconds > 0


def test_the_shape_is_the_laws_best_of_all_widths():
    chosen = plan("3m")
    unique = chosen.text_bytes / 3

    def loss(p) -> float:
        n = cost(p.model, Training(p.seq_len)).parameters_non_embedding + p.model.vocab_size * p.model.d_model
        return SMALL_SCALE.loss(n, p.tokens, unique)

    others = [plan("3m", d_model=width) for width in (64, 96, 128, 192, 256)]
    assert loss(chosen) <= min(loss(p) for p in others) + 1e-3
    assert {p.model.d_model for p in others} == {64, 96, 128, 192, 256}


def test_another_law_makes_another_choice():
    thrifty = LossLaw("parameters are all that counts", 0.0, 1e6, 1.0, 1e-9, 0.1)
    greedy = make_plan(parse_budget("3m"), MACHINE, 11 * MB, law=thrifty)
    assert greedy.model.d_model > plan("3m").model.d_model


def test_time_is_what_the_machine_says():
    p = plan("3m")
    assert p.step_seconds == pytest.approx(MACHINE.seconds_of_step(p.model, p.seq_len, p.batch_size * p.seq_len))
    assert p.predicted_seconds <= 180 and p.n_steps == int(p.train_seconds / p.step_seconds)


def test_money_and_flops_are_time_on_this_machine():
    assert plan("1usd").seconds == pytest.approx(1800)
    flops = plan("1e13flop")
    assert flops.train_seconds == pytest.approx(80) and flops.seconds > 80
    assert 0.9e13 < flops.flops <= 1e13 and flops.steps_given and not plan("80s").steps_given


def test_several_machines_cost_more_and_do_more():
    assert plan("1usd", world_size=2).seconds == pytest.approx(900)
    assert plan("1usd", usd_per_hour=4.0).seconds == pytest.approx(900)
    assert plan("1e13flop", world_size=2).train_seconds == pytest.approx(40)


def test_what_is_set_by_hand_stands_and_says_so():
    p = plan("3m", d_model=128, n_layers=3, vocab_size=1000, seq_len=100, batch_size=6, steps=7, matrix_lr=0.5, schedule="cosine")
    assert (p.model.d_model, len(p.model.layers), p.model.vocab_size, p.seq_len, p.batch_size, p.n_steps) == (128, 3, 1000, 100, 6, 7)
    assert p.optimizer["matrix_lr"] == 0.5 and p.schedule["kind"] == "cosine"
    sources = {choice.name: choice.source for choice in p.choices}
    by_hand = ("d_model", "n_layers", "vocab_size", "seq_len", "batch_size", "steps", "matrix_lr", "schedule")
    assert {name: sources[name] for name in by_hand} == dict.fromkeys(by_hand, "you")
    assert sources["hash_lr"] != "you"


def test_too_much_text_is_cut_and_too_little_is_repeated():
    assert plan("30s", 500 * MB).text_bytes < 40 * MB
    small = plan("20m", MB)
    assert small.text_bytes == MB and small.tokens > 2 * MB / 4
    assert choose_vocab_size(1e15, MB) <= 1024 < choose_vocab_size(1e15, 1000 * MB)


def test_counts_only_where_they_fit_and_can_stay():
    assert plan("3m").model.prior is not None
    assert plan("3m", prior="off").model.prior is None
    assert plan("3m", arch="qwen3").model.prior is None
    assert plan("3h", 400 * MB).model.prior is None, "their tables are larger than the memory"
    assert plan("1m", 400 * MB).model.prior is not None, "of so much text only a part would be counted"


def test_several_processes_share_the_batch():
    p = plan("3m", world_size=4)
    assert p.batch_size % 4 == 0 and p.micro_batch_size <= p.batch_size // 4
    assert p.tokens > plan("3m").tokens


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"budget": "1s"}, "give more than"),
        ({"budget": "3m", "d_model": 100, "head_dim": 32}, "not a multiple of --head-dim"),
        ({"budget": "3m", "arch": "llama", "prior": "on"}, "contradict"),
        ({"budget": "3m", "arch": "llama", "hash_rows": 9}, "contradict"),
        ({"budget": "3m", "batch_size": 3, "world_size": 2}, "multiple of the 2 processes"),
        ({"budget": "3m", "d_model": 768, "n_layers": 40, "seq_len": 2048, "batch_size": 4096}, "too little for one step"),
    ],
)
def test_what_cannot_be_is_refused(arguments, what):
    with pytest.raises(UsageError, match=what):
        plan(**arguments)


def test_rules_grow_with_the_budget_between_their_bounds():
    budgets = [10.0**e for e in range(9, 22)]
    for rule in (choose_seq_len, choose_tokens_per_step, lambda c: choose_vocab_size(c, 10**12)):
        values = [rule(c) for c in budgets]
        assert values == sorted(values) and values[0] >= 256
    assert choose_seq_len(1e21) == 4096 and choose_vocab_size(1e30, 10**12) == 65_536


def test_where_the_steps_come_from_is_a_field_and_not_a_printed_line():
    by_clock, by_flops, by_hand = (dataclasses.replace(p, choices=()) for p in (plan("80s"), plan("1e13flop"), plan("80s", steps=7)))
    assert [p.steps_from for p in (by_clock, by_flops, by_hand)] == ["clock", "flops", "you"]
    assert [p.to_dict()["steps_given"] for p in (by_clock, by_flops, by_hand)] == [False, True, True]
    assert final_steps(by_clock, 123, None) == 123 and final_steps(by_hand, 123, None) == 7
    assert final_steps(by_flops, 123, None) == by_flops.n_steps


def test_a_vocabulary_that_the_text_cannot_fill_is_restated():
    asked = plan("80s", vocab_size=100_000)
    made = dataclasses.replace(asked, model=dataclasses.replace(asked.model, vocab_size=1432))
    row = next(c for c in restate(made, 1e6) if c.name == "vocab_size")
    assert row.value == "1,432" and "100,000" in row.why and row.source != "you"


def test_beyond_what_runs_have_borne_out_the_plan_says_that_the_law_is_extrapolated():
    def source(budget: str) -> set[str]:
        return {c.source for c in plan(budget, n_bytes=1000 * MB).choices if c.name in ("d_model", "n_layers")}

    assert not any("extrapolated" in s for s in source("3m"))
    assert all("extrapolated" in s for s in source("2d"))


def test_little_text_is_spread_over_many_steps():
    little = plan("1h", 200_000, d_model=64)
    assert 250 <= little.n_steps < 400 and little.batch_size < plan("1h").batch_size


def test_a_text_that_is_used_up_buys_a_larger_model_not_more_epochs():
    capped, free = plan("1h", 3 * MB), plan("1h", 3 * MB, max_epochs=1e9)
    unique = capped.text_bytes / bytes_per_token(capped.model.vocab_size)
    assert capped.n_steps <= capped.most_steps == math.ceil(MAX_EPOCHS * unique / (capped.batch_size * capped.seq_len))
    assert capped.model.d_model > free.model.d_model and free.tokens > 2 * capped.tokens
    endless = plan("1000h", 3 * MB)
    assert endless.model.d_model < 1024 and endless.n_steps == endless.most_steps
    small = plan("1h", 3 * MB, d_model=64)
    assert small.n_steps == small.most_steps and small.predicted_seconds < 0.5 * 3600
    assert next(choice for choice in small.choices if choice.name == "steps").why.startswith(f"{MAX_EPOCHS:g} times the text")
    assert final_steps(small, 10**6, None) == small.most_steps and final_steps(small, 7, None) == 7
    by_hand = plan("1h", 3 * MB, d_model=64, steps=10**6)
    assert final_steps(by_hand, 7, None) == by_hand.n_steps == 10**6
    flops = plan("1e16flop", 3 * MB, d_model=64)
    assert final_steps(flops, 7, None) == flops.n_steps == flops.most_steps


def test_nothing_is_computed_again_unless_memory_forces_it():
    def chosen(memory_bytes, **overrides):
        machine = dataclasses.replace(MACHINE, memory_bytes=memory_bytes)
        made = plan("3m", machine=machine, d_model=512, n_layers=8, prior="off", **overrides)
        (line,) = (choice for choice in made.choices if choice.name == "recompute")
        return made, line

    plenty, line = chosen(16 << 30)
    assert plenty.recompute == line.value == "none"
    peaks = {}
    for policy in ("none", "attention", "mlp", "layers"):
        run = dataclasses.replace(CPU, recompute=policy)
        accumulating = 1 + (plenty.batch_size > plenty.micro_batch_size)
        workload = Training(plenty.seq_len, plenty.micro_batch_size, accumulating, run=run)
        peaks[policy] = training_memory(plenty.model, workload).peak_bytes
    between = int((peaks["layers"] + min(peaks["attention"], peaks["mlp"])) / 2 / 0.8)
    short, line = chosen(between)
    assert short.recompute == "layers" and "memory forces it" in line.why
    assert 1.1 < short.step_seconds / plenty.step_seconds < 1.4, "a forward pass is a third of a step"
    by_hand, line = chosen(16 << 30, recompute="mlp")
    assert by_hand.recompute == "mlp" and line.source == "you" and by_hand.to_dict()["recompute"] == "mlp"
