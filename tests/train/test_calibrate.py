"""What calibration makes of the times that it sees."""

import pytest
import torch

from groundup.account.shapes import architecture
from groundup.train import calibrate


@pytest.mark.parametrize("seconds", [(0.05, 0.02, 0.03), (0.02, 0.02, 0.02), (0.01, 0.04, 0.02), (0.01, 0.02, 0.3)])
def test_whatever_the_noise_every_rate_is_one_that_can_be(monkeypatch, seconds):
    """Trials are a narrow model on few tokens, the same on many, a wide one: noise may turn their order round."""
    times = iter(seconds)
    monkeypatch.setattr(calibrate, "time_steps", lambda *_, **__: next(times))
    monkeypatch.setattr(calibrate, "matmul_rate", lambda *_: 1e11)
    monkeypatch.setattr(calibrate, "tokenizer_rate", lambda: 1e6)
    machine = calibrate.measure_machine(torch.device("cpu"), torch.float32)
    assert machine.seconds_per_flop > 0 and machine.seconds_per_activation >= 0 and machine.seconds_per_step >= 0


@pytest.mark.parametrize(("most_s", "timed"), [(0.0, 2), (float("inf"), 5)])
def test_slow_steps_are_timed_fewer_times(monkeypatch, most_s, timed):
    steps = []
    monkeypatch.setattr(calibrate, "train_step", lambda state, *_: steps.append(1) or (state, None))
    config = architecture("groundup", vocab_size=32, d_model=32, n_layers=1, head_dim=32, context_length=8, hash_rows=16)
    calibrate.time_steps(config, torch.device("cpu"), torch.float32, batch_size=1, seq_len=8, most_s=most_s)
    assert len(steps) == 1 + timed
