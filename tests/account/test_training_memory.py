import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import LLAMA_3_8B, SMOLLM2_135M, configs, uniform

from groundup.account import CPU, GPU, cost, training_memory
from groundup.account.memory import kept_bytes, optimizer_numbers, saved_bytes
from groundup.account.workload import Training
from groundup.config import Attention, Dense, HashEmbedding, Layer, ModelConfig, Norm, Prior
from groundup.errors import UsageError


def test_adamw_in_fp32_takes_sixteen_bytes_a_parameter_beside_activations():
    memory = training_memory(LLAMA_3_8B, Training(1, 1, matrices="adamw", micro_batches=2))
    standing = {"weights", "gradients", "optimizer moments"}
    assert sum(n for name, n in memory.peak.categories.items() if name in standing) == 16 * 8_030_261_248


@pytest.mark.parametrize("matrices, others", [("sgd", "sgd"), ("adamw", "adamw"), ("muon", "adamw")])
def test_optimizer_moments_by_hand(matrices, others):
    config = uniform(100, 8, 2, (2, 1, 4), 16)
    numbers = 2 * (8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 16 * 8), 2 * 100 * 8 + 5 * 8
    slots = {"sgd": 1, "adamw": 2, "muon": 1}
    memory = training_memory(config, Training(4, 1, matrices=matrices, others=others))
    assert memory.peak.categories["optimizer moments"] == 4 * (numbers[0] * slots[matrices] + numbers[1] * slots[others])


def test_saved_tensors_of_a_layer_by_hand():
    """A pre-norm layer with ReLU^2: two normalized inputs, joined weights, the joint product, q k v, probabilities, output, 2 x MLP."""
    b, t, d, h, k, e, f = 2, 200, 32, 4, 2, 8, 64
    layer = Layer(Attention(h, k, e, qk_norm=Norm(weight=False)), Dense(f, "relu2"), Norm(weight=False))
    config = ModelConfig(50, d, 128, (layer,))
    n, pairs = b * t, 128 * 128 + 72 * 200
    numbers = (
        2 * n * (d + 1) + d * (h + 2 * k) * e + n * ((h + 2 * k) * e + h + k) + n * (h + 2 * k) * e + b * h * pairs + n * h * e + 2 * n * f
    )
    (saved,) = saved_bytes(config, Training(t, b))
    assert sum(sum(lines.values()) for lines in saved.values()) == 4 * numbers


@given(configs(), st.integers(1, 4), st.integers(1, 64), st.sampled_from([CPU, GPU]), st.booleans())
def test_the_rows_sum_to_the_peak_and_nothing_is_negative(config, batch_size, seq_len, run, accumulating):
    memory = training_memory(config, Training(seq_len, batch_size, run=run, micro_batches=1 + accumulating), given={"process": 10**6})
    assert sum(row.n_bytes for row in memory.rows()) == memory.peak_bytes == max(m.n_bytes for m in memory.timeline)
    assert all(n >= 0 for moment in memory.timeline for n in moment.categories.values())
    assert memory.rows()[0].category == "process" and sum(row.share for row in memory.rows()) == pytest.approx(1)
    assert memory.peak.categories["weights"] == 4 * cost(config, Training(seq_len)).parameters
    assert memory.timeline[-1].categories["activations"] == 0


@given(configs(), st.integers(1, 4), st.integers(1, 32))
def test_more_of_anything_never_takes_less(config, batch_size, seq_len):
    def peak(**changes):
        return training_memory(config, Training(**{"batch_size": batch_size, "seq_len": seq_len} | changes)).peak_bytes

    assert peak() <= peak(batch_size=batch_size + 1)
    assert peak() <= peak(seq_len=seq_len + 1)
    assert peak() <= peak(micro_batches=2)


def test_a_large_hash_table_has_gradients_for_touched_rows_only():
    def gradients(n_rows):
        config = dataclasses.replace(uniform(50, 8, 1, (2, 1, 4), 16), hash_embedding=HashEmbedding((2, 3), n_rows))
        return training_memory(config, Training(10, 2)).timeline[-1].categories["gradients"]

    assert gradients(1000) - gradients(999) == 4 * 8
    assert gradients(100_000) == gradients(200_000) == gradients(1000) - 4 * 8 * 1000 + 2 * 10 * 2 * (4 * 8 + 8)


def test_a_fused_attention_and_bf16_take_less():
    fused = dataclasses.replace(CPU, attention_block=None)
    half = dataclasses.replace(CPU, precision="bf16")
    plain, *less = (training_memory(SMOLLM2_135M, Training(2048, 2, run=run)).peak_bytes for run in (CPU, fused, half))
    assert all(peak < plain for peak in less)


def test_the_gate_of_a_prior_keeps_its_inputs():
    config = dataclasses.replace(uniform(50, 8, 1, (2, 1, 4), 16), prior=Prior())
    plain = training_memory(config, Training(10, 2)).timeline[0].categories["activations"]
    gated = training_memory(config, Training(10, 2, prior_shape=(3, 5))).timeline[0].categories["activations"]
    assert gated - plain == 4 * 20 * (3 + 5 + 32 + 2 * 4)


def test_the_allocator_takes_its_share_of_what_lives_but_not_of_what_is_given():
    live = dataclasses.replace(CPU, allocator_overhead=0)
    holes = dataclasses.replace(CPU, allocator_overhead=0.5)
    alone, plain, padded = (
        training_memory(SMOLLM2_135M, Training(64, 1, run=run), given=given).peak_bytes
        for run, given in ((live, {}), (live, {"tables": 10**9}), (holes, {"tables": 10**9}))
    )
    assert plain == alone + 10**9
    assert padded == pytest.approx(1.5 * alone + 10**9, abs=1)


def test_an_optimizer_without_known_state_is_refused():
    with pytest.raises(UsageError, match="muon"):
        training_memory(SMOLLM2_135M, Training(8, 1, matrices="lion"))


def test_soap_keeps_two_moments_two_gram_matrices_and_two_bases():
    import torch

    from groundup.model.decoder import Decoder
    from groundup.optim import OptimizerConfig, build_optimizer

    config = uniform(100, 8, 2, (2, 1, 4), 16)
    model = Decoder(config)
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig(matrices="soap"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    held = sum(t.numel() for name, t in optimizer.state_dict().items() if "/" in name)
    counted = cost(config, Training(4))
    assert optimizer_numbers(counted.weights, "soap", "adamw") == held


@given(configs(), st.sampled_from(["sgd", "adamw", "muon"]))
def test_components_hold_together_what_the_model_holds(config, matrices):
    counted, n = cost(config, Training(8)), {"batch_size": 2, "seq_len": 8}
    parts = [part for _, part in counted.tree.walk() if not part.parts]
    moments = optimizer_numbers(counted.weights, matrices, "adamw")
    assert sum(part.parameters for part in parts) == counted.parameters
    assert sum(optimizer_numbers(part.all_weights, matrices, "adamw") for part in parts) == moments
    memory = training_memory(config, Training(**n, matrices=matrices, micro_batches=2))
    dense = config.hash_embedding is None or not config.hash_embedding.sparse
    standing = sum(memory.timeline[0].categories[name] for name in ("weights", "gradients", "optimizer moments"))
    assert standing == 4 * (2 * counted.parameters + moments) or not dense
    kept = kept_bytes(config, Training(**n))
    assert list(kept) == [f"layers.{i}.{part}" for i in range(len(config.layers)) for part in ("mixer", "mlp")]
    assert 0 <= sum(kept.values()) <= memory.timeline[0].categories["activations"]
