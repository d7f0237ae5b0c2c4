"""Both sides of the speed comparison multiply the same matrices, and each worker does a step."""

import pytest
import torch

from benchmarks import step_speed
from benchmarks.step_speed import N_LAYERS, SEQ_LEN, VOCAB, WIDTH, our_config, products, rows, summarize
from groundup.account import causal_pairs, cost
from groundup.account.workload import Training
from groundup.errors import UsageError


def test_the_products_are_the_models_without_attentions_own():
    tokens = 2 * SEQ_LEN
    attention = 3 * 2 * 2 * WIDTH * causal_pairs(SEQ_LEN) * N_LAYERS * 2  # scores and mix, forward and twice backward, two rows
    assert sum(shape.flops for shape in products(tokens)) + attention == cost(our_config(), Training(SEQ_LEN)).flops_training(tokens)


def test_both_have_the_same_weights_in_products():
    from benchmarks.peers.nanogpt import NanoGPT, Settings

    theirs = NanoGPT(Settings(N_LAYERS, WIDTH, step_speed.HEAD_DIM, SEQ_LEN), VOCAB)
    linear = sum(m.weight.numel() for m in theirs.modules() if isinstance(m, torch.nn.Linear))
    assert 3 * 2 * linear == sum(shape.flops for shape in products(1))


@pytest.mark.parametrize("name", ["ours-adamw", "nanogpt", "gemm"])
def test_a_worker_does_a_step(name, monkeypatch):
    monkeypatch.setattr("groundup.kernels.memory.keep_freed_memory", lambda: False)  # it would last for all later tests
    makers = {
        "ours-adamw": lambda: step_speed.ours(1, "adamw"),
        "nanogpt": lambda: step_speed.nanogpt(1, False),
        "gemm": lambda: step_speed.gemm(1),
    }
    makers[name]()()


def test_ratios_are_taken_round_by_round():
    times = {"ours": [1.0, 10.0, 1.0], "nanogpt": [2.0, 20.0, 2.0], "gemm": [0.5, 5.0, 0.5]}
    summary = summarize(times, batch_size=16)
    assert summary["ours"]["speed_over_nanogpt"] == pytest.approx(2.0)
    assert summary["nanogpt"]["share_of_gemm_rate"] == pytest.approx(summary["ours"]["share_of_gemm_rate"] / 2)
    assert summary["ours"]["tokens_per_s"] == 16 * SEQ_LEN
    assert "tokens_per_s" not in summary["gemm"] and len(rows(summary)) == 3


@pytest.mark.parametrize("arguments", [["--contestants", "ours,gpt5"], ["--rounds", "0"]])
def test_bad_requests_are_refused(arguments):
    with pytest.raises(UsageError):
        step_speed.main(arguments)
