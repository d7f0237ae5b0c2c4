"""The same run as others count it."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import LLAMA_3_8B, SMOLLM2_135M, configs, uniform

from groundup.account import cost
from groundup.account.conventions import active_parameters, conventions
from groundup.account.workload import Training
from groundup.config import Experts, HashEmbedding
from groundup.errors import UsageError


def by_name(config, seq_len=1024, tokens_per_s=1e4, peak_flops=1e15):
    return {c.name: c for c in conventions(config, seq_len=seq_len, tokens_per_s=tokens_per_s, peak_flops=peak_flops)}


def test_each_convention_by_hand():
    d, h, k, e, f, v, t, n_layers = 8, 2, 1, 4, 16, 100, 32, 3
    config = uniform(v, d, n_layers, (h, k, e), f)
    layer = 2 * d * h * e + 2 * d * k * e + 3 * d * f
    body, norms = n_layers * layer, (2 * n_layers + 1) * d
    n = body + norms + 2 * v * d
    square, head = n_layers * 4 * h * e * t, 2 * d * v
    found = {name: c.flops_per_token for name, c in by_name(config, t).items()}
    assert found == pytest.approx(
        {
            "exact, causal pairs": 3 * (2 * body + square * (t + 1) / (2 * t) + head),
            "exact, T x T pairs": 3 * (2 * body + square + head),
            "6N": 6 * n,
            "6N, no embeddings": 6 * (body + norms),
            "6N, active only": 6 * (n - v * d + d),
            "6N + 12LHET": 6 * n + 3 * square,
            "6(N-table) + 12LHET": 6 * (n - v * d) + 3 * square,
            "HFU, flash": 3 * (2 * body + square + head) + square,
            "HFU, layers again": 4 * (2 * body + square) + 3 * head,
            "exact, sparse peak": 3 * (2 * body + square * (t + 1) / (2 * t) + head),
        }
    )


def test_utilization_is_the_rate_over_the_peak_and_half_of_it_over_a_sparse_one():
    found = by_name(LLAMA_3_8B, 4096, 2000.0, 4e14)
    exact = found["exact, causal pairs"]
    assert exact.utilization == pytest.approx(cost(LLAMA_3_8B, Training(4096)).mfu(2000.0, 4e14))
    assert found["exact, sparse peak"].utilization == pytest.approx(exact.utilization / 2)


def test_a_tied_table_is_a_head_too_and_a_table_of_n_grams_is_never_multiplied():
    found = by_name(SMOLLM2_135M)
    assert found["6N + 12LHET"].flops_per_token == found["6(N-table) + 12LHET"].flops_per_token
    plain = uniform(100, 8, 2, (2, 1, 4), 16)
    hashed = dataclasses.replace(plain, hash_embedding=HashEmbedding(n_rows=5000))
    assert active_parameters(cost(hashed, Training(4))) - active_parameters(cost(plain, Training(4))) == 8
    assert active_parameters(cost(SMOLLM2_135M, Training(4))) == 134_515_008 + 576


def test_experts_that_are_not_chosen_are_not_active():
    dense = uniform(100, 8, 2, (2, 1, 4), 16)
    mixture = dataclasses.replace(dense, layers=tuple(dataclasses.replace(x, mlp=Experts(8, 3, 16)) for x in dense.layers))
    whole, active = cost(mixture, Training(4)), by_name(mixture)["6N, active only"].flops_per_token
    assert active == 6 * (whole.parameters - 2 * 5 * 3 * 8 * 16 - 99 * 8)


@given(configs(), st.integers(1, 64))
def test_recomputing_and_masked_pairs_only_add(config, seq_len):
    found = {name: c.flops_per_token for name, c in by_name(config, seq_len).items()}
    assert found["exact, causal pairs"] <= found["exact, T x T pairs"] <= found["HFU, flash"] <= found["HFU, layers again"] + 1e-9


@pytest.mark.parametrize("rate, peak", [(0.0, 1e15), (1e4, 0.0), (-1.0, 1e15)])
def test_a_run_without_speed_is_refused(rate, peak):
    with pytest.raises(UsageError, match="above 0"):
        conventions(LLAMA_3_8B, seq_len=8, tokens_per_s=rate, peak_flops=peak)
