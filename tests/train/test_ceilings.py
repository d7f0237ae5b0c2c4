"""What a machine attains, on a clock that the test winds: no test times anything."""

import dataclasses
import itertools

import pytest
import torch

from groundup.account import CPU, training_memory
from groundup.account.shapes import architecture
from groundup.account.workload import Training
from groundup.errors import GroundupError
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.optim import OptimizerConfig, build_optimizer
from groundup.train import ceilings
from groundup.train.allocations import peak_allocated
from groundup.train.step import StepConfig, TrainBatch, TrainState, train_step

CPU_DEVICE = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ceilings, "DIMS", {"cpu": (4, 16)})
    monkeypatch.setattr(ceilings, "OTHER_DIMS", {"cpu": 32})
    monkeypatch.setattr(ceilings, "COPIES", {"cpu": (1 << 12, 1 << 16)})
    monkeypatch.setattr(ceilings, "RING_BYTES", {"cpu": 1 << 18})


def clock(step: float):
    """Seconds that go by ``step`` at each look: every timed call takes one step."""
    ticks = itertools.count()
    return lambda: next(ticks) * step


def test_rates_are_amounts_over_what_the_clock_says(small):
    # a call of CALL_S seconds is not repeated, so each is timed as one call of one step
    meter = ceilings.Meter(CPU_DEVICE, torch.float32, clock(ceilings.CALL_S))
    meter.measure(3)
    found = meter.ceilings()
    assert [dim for dim, _ in found.product_rates] == [4.0, 16.0]
    assert found.product_rate(4) == pytest.approx(2 * 4 * 32 * 32 / ceilings.CALL_S)
    assert found.product_rate(16) == pytest.approx(2 * 16 * 32 * 32 / ceilings.CALL_S)
    assert found.peak_flops == pytest.approx(2 * 16 * 32 * 32 / ceilings.CALL_S)
    assert found.dispatch_s == pytest.approx(ceilings.CALL_S / (3 * ceilings.CHAIN))
    assert found.loop_rate("exponentials") == pytest.approx(512 * 512 / ceilings.CALL_S)
    assert found.precision == "fp32" and not found.overlapped and found.usd_per_hour > 0


def test_in_two_bytes_the_masters_are_measured_beside(small):
    meter = ceilings.Meter(CPU_DEVICE, torch.bfloat16, clock(ceilings.CALL_S))
    meter.measure(1)
    found = meter.ceilings()
    assert found.precision == "bf16" and found.masters.precision == "fp32" and found.masters.masters is None
    numbers = 2 * 4 * 256 * 4 * 32
    assert found.loop_rate("norm") == found.loop_rate("rotation") == pytest.approx(numbers / ceilings.CALL_S)
    assert found.loop_rate("heads") == float("inf") and found.masters.loop_rate("heads") < float("inf")


def test_medians_forget_one_slow_round(small):
    meter = ceilings.Meter(CPU_DEVICE, torch.float32, clock(ceilings.CALL_S))
    meter.measure(2)
    meter.clock = clock(100.0)
    meter.measure(1)
    assert meter.ceilings().dispatch_s == pytest.approx(ceilings.CALL_S / (3 * ceilings.CHAIN))
    meter.forget()
    meter.measure(1)
    assert meter.ceilings().dispatch_s == pytest.approx(100.0 / (3 * ceilings.CHAIN))


def test_the_doctor_examines_with_as_many_workers_as_training_uses(small):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = ceilings.examine(CPU_DEVICE, rounds=1)
    finally:
        torch.set_num_threads(threads)
    assert found.kind == "cpu" and found.threads == 2 and found.memory_bytes > 1 << 28
    assert [c.precision for c in found.ceilings] == ["fp32", "bf16"] and found.ceilings[0].workers == 2
    assert found.all_reduce_bytes_per_s is None and 0 < found.own_share <= 1
    best = max(rate for _, rate in found.ceilings[0].product_rates)
    assert found.ceilings[0].peak_flops >= 2 * best


def test_the_peak_of_allocations_counts_what_lives_at_once():
    def two_at_once() -> None:
        first = torch.ones(1000)
        del first
        pair = torch.ones(2000), torch.ones(3000)
        del pair

    assert peak_allocated(two_at_once, CPU_DEVICE) == pytest.approx(4 * 5000, abs=256)


def test_a_call_that_allocates_nothing_cannot_be_judged():
    with pytest.raises(GroundupError, match="allocations"):
        peak_allocated(lambda: None, CPU_DEVICE)


@pytest.mark.parametrize("name, matrices", [("groundup", "muon"), ("qwen3", "adamw"), ("llama", "sgd")])
def test_the_predicted_peak_of_a_step_is_within_three_percent_of_what_lives(name, matrices):
    config = architecture(name, vocab_size=1024, d_model=128, n_layers=2, head_dim=32, context_length=256, hash_rows=16_384)
    model = initialize(Decoder(config), 0)
    state = TrainState(model, build_optimizer(model.named_parameters(), OptimizerConfig(matrices=matrices)))
    ids = torch.randint(1024, (4, 257), generator=torch.Generator().manual_seed(0))
    batch = TrainBatch(ids[:, :-1].clone(), ids[:, 1:].clone(), torch.zeros(4, 256, dtype=torch.int32))
    state, _ = train_step(state, batch, StepConfig(10, 4))
    state.optimizer.zero_grad()
    tensors = [*model.parameters(), *state.optimizer.state_dict().values(), batch.tokens, batch.targets, batch.documents]
    standing = sum(t.numel() * t.element_size() for t in tensors)
    measured = standing + peak_allocated(lambda: train_step(state, batch, StepConfig(10, 4)), CPU_DEVICE)
    live = dataclasses.replace(CPU, allocator_overhead=0.0)
    predicted = training_memory(config, Training(256, 4, run=live, matrices=matrices)).peak_bytes
    assert predicted == pytest.approx(measured, rel=0.03)
