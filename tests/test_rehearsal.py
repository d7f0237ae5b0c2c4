"""What a rehearsal makes of the times that it sees."""

from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from groundup import rehearsal
from groundup.optim import Schedule
from groundup.rehearsal import COMPILE_FROM_S, SCORED_TOKENS, SHARE, STEPS, WRITTEN_TOKENS, rehearse
from groundup.train.step import StepConfig

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def stage(monkeypatch):
    """A world in which time passes only as the work that is rehearsed says: the first two steps take ten times as long."""
    stage = SimpleNamespace(now=0.0, steps=[], step_seconds=0.5, scored_seconds=2e-5, written_seconds=3e-3)

    def train_step(state, batch, config, *, loss_fn):
        stage.steps.append(config.n_steps)
        slow = 10 if len(stage.steps) <= 2 else 1
        stage.now += stage.step_seconds * slow if loss_fn is None else loss_fn()
        return state, None

    def evaluate(split, max_tokens):
        assert split == "validation"
        stage.now += max_tokens * stage.scored_seconds
        return SimpleNamespace(n_tokens=max_tokens)

    def write(bench, prompts, max_tokens):
        stage.now += len(prompts) * max_tokens * stage.written_seconds

    monkeypatch.setattr(rehearsal, "train_step", train_step)
    monkeypatch.setattr(rehearsal, "prompts", lambda bench: ["a", "b", ""])
    monkeypatch.setattr(rehearsal, "write", write)
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: stage.now)
    stage.bench = SimpleNamespace(plan={"seconds": 100.0}, evaluate=evaluate, device=torch.device("cpu"), model=None)
    return stage


def run(stage):
    config = StepConfig(3, 1, Schedule("constant", 1, 0.0), None)
    return rehearse(stage.bench, SimpleNamespace(step=0), lambda step: None, config)


def test_what_is_measured_is_what_things_take_without_the_steps_that_warm_up(stage):
    found = run(stage)
    assert found.step == pytest.approx(0.5)
    assert found.scored_token == pytest.approx(2e-5)
    assert found.written_token == pytest.approx(3e-3)
    assert len(stage.steps) == STEPS + 2
    assert min(stage.steps) > 1_000_000, "a run of three steps does not end the rehearsal of its pace"


def test_short_steps_are_rehearsed_for_their_share_of_the_budget(stage):
    stage.step_seconds = 0.01
    run(stage)
    warming_up = 2 * 10 * 0.01
    in_steps = stage.now - warming_up - (500 + SCORED_TOKENS) * 2e-5 - 3 * (2 + WRITTEN_TOKENS) * 3e-3
    assert SHARE * 100 <= in_steps <= SHARE * 100 + 0.02


def test_a_hiccup_counts_because_training_has_them_too(stage, monkeypatch):
    plain = rehearsal.train_step

    def with_hiccup(state, batch, config, *, loss_fn):
        if len(stage.steps) == 4:
            stage.now += 0.6
        return plain(state, batch, config, loss_fn=loss_fn)

    monkeypatch.setattr(rehearsal, "train_step", with_hiccup)
    assert run(stage).step == pytest.approx(0.5 + 0.6 / STEPS)


@pytest.mark.parametrize(
    ("device", "seconds", "of_step", "expected"),
    [
        ("cuda", COMPILE_FROM_S, 0.2, (0.2, True)),
        ("cuda", COMPILE_FROM_S, 0.7, (0.5, False)),
        ("cuda", COMPILE_FROM_S - 1, 0.2, (0.5, False)),
        ("cpu", COMPILE_FROM_S, 0.2, (0.5, False)),
    ],
)
def test_training_is_compiled_where_a_gpu_has_the_time_and_steps_are_faster_so(stage, monkeypatch, device, seconds, of_step, expected):
    stage.bench.plan["seconds"], stage.bench.device = seconds, torch.device(device)
    monkeypatch.setattr(rehearsal, "compiled_loss", lambda model: lambda: of_step)
    found = run(stage)
    assert (pytest.approx(found.step), found.compiled) == expected


def test_what_cannot_be_compiled_trains_as_it_is(stage, monkeypatch):
    def refuse():
        raise TorchDynamoException("an operator that the compiler does not know")

    stage.bench.plan["seconds"], stage.bench.device = COMPILE_FROM_S, torch.device("cuda")
    monkeypatch.setattr(rehearsal, "compiled_loss", lambda model: refuse)
    found = run(stage)
    assert (found.step, found.compiled) == (pytest.approx(0.5), False)
