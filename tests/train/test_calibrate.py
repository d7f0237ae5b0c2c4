"""What calibration makes of the times that it sees."""

import pytest
import torch

from groundup.train import calibrate


@pytest.mark.parametrize("seconds", [(0.05, 0.02, 0.03), (0.02, 0.02, 0.02), (0.01, 0.04, 0.02), (0.01, 0.02, 0.3)])
def test_whatever_the_noise_every_rate_is_one_that_can_be(monkeypatch, seconds):
    """Trials are a narrow model on few tokens, the same on many, a wide one: noise may turn their order round."""
    times = iter(seconds)
    monkeypatch.setattr(calibrate, "time_steps", lambda *_, **__: next(times))
    monkeypatch.setattr(calibrate, "matmul_rate", lambda *_: 1e11)
    machine = calibrate.measure_machine(torch.device("cpu"), torch.float32)
    assert machine.seconds_per_flop > 0 and machine.seconds_per_activation >= 0 and machine.seconds_per_step >= 0
