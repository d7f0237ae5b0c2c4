import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import LLAMA_3_8B, QWEN3_600M, SMOLLM2_135M, configs, uniform

from groundup.account import CPU, causal_pairs, cost, executed_pairs, prior_gate_parameters
from groundup.account.workload import Training
from groundup.config import Attention, Dense, HashEmbedding, Layer, ModelConfig, Norm, Prior
from groundup.errors import UsageError


@pytest.mark.parametrize(
    "config, published",
    [(LLAMA_3_8B, 8_030_261_248), (QWEN3_600M, 596_049_920), (SMOLLM2_135M, 134_515_008)],
    ids=["Llama-3-8B", "Qwen3-0.6B", "SmolLM2-135M"],
)
def test_parameters_are_those_of_published_models(config, published):
    assert cost(config, Training(1)).parameters == published


def test_gpt2_without_positions_counts_the_published_parameters_less_the_position_table():
    norm = Norm("layer", bias=True)
    attention = Attention(12, 12, 64, bias=True, output_bias=True, rotary=None)
    gpt2 = ModelConfig(50_257, 768, 1024, (Layer(attention, Dense(3072, "gelu", bias=True), norm),) * 12, final_norm=norm, tied=True)
    assert cost(gpt2, Training(1)).parameters == 124_439_808 - 1024 * 768


def test_forward_flops_of_gpt2_without_biases_match_the_published_count_with_full_attention():
    """291,648,307,200 FLOPs a sequence of 1,024 tokens when attention is counted as a full square, the head included."""
    layer = Layer(Attention(12, 12, 64), Dense(3072, "gelu"))
    counted = cost(ModelConfig(50_257, 768, 1024, (layer,) * 12, tied=True), Training(1024))
    assert counted.tree.executed_forward_flops == 291_648_307_200
    masked = 12 * 2 * 2 * 768 * (1024 * 1024 - 1024 * 1025 // 2)
    assert counted.tree.forward_flops == 291_648_307_200 - masked


def test_each_component_by_hand():
    d, h, k, e, f, v, t, rows = 8, 4, 2, 6, 10, 11, 5, 7
    attention = Attention(h, k, e, qk_norm=Norm("layer", bias=True), bias=True, output_bias=True, value_embedding=True)
    layer = Layer(attention, Dense(f, bias=True), Norm("layer", bias=True), "sandwich")
    config = ModelConfig(v, d, 64, (layer,), embedding_norm=Norm(weight=False), head_bias=True, hash_embedding=HashEmbedding(n_rows=rows))
    pairs = t * (t + 1) // 2
    expected = {
        "embedding": (v * d, 0),
        "hash_embedding": (rows * d, 0),
        "embedding_norm": (0, 0),
        "layers.mixer.query": (h * e * d + h * e, 2 * t * d * h * e),
        "layers.mixer.key": (k * e * d + k * e, 2 * t * d * k * e),
        "layers.mixer.value": (k * e * d + k * e, 2 * t * d * k * e),
        "layers.mixer.query_norm": (2 * e, 0),
        "layers.mixer.key_norm": (2 * e, 0),
        "layers.mixer.heads": (0, 0),
        "layers.mixer.value_embedding": (v * k * e, 0),
        "layers.mixer.value_gate": (k * d, 2 * t * d * k),
        "layers.mixer.scores": (0, 2 * h * e * pairs),
        "layers.mixer.weighted_values": (0, 2 * h * e * pairs),
        "layers.mixer.output": (d * h * e + d, 2 * t * h * e * d),
        "layers.mlp.gate": (f * d + f, 2 * t * d * f),
        "layers.mlp.up": (f * d + f, 2 * t * d * f),
        "layers.mlp.activation": (0, 0),
        "layers.mlp.down": (d * f + d, 2 * t * f * d),
        "layers.mixer_norm": (2 * d, 0),
        "layers.mlp_norm": (2 * d, 0),
        "layers.mixer_out_norm": (2 * d, 0),
        "layers.mlp_out_norm": (2 * d, 0),
        "layers.residual": (0, 0),
        "final_norm": (d, 0),
        "head": (v * d + v, 2 * t * d * v),
        "loss": (0, 0),
    }
    rows_found = cost(config, Training(t)).rows()
    assert {row.name: (row.parameters, row.training_flops) for row in rows_found} == {n: (p, 3 * c) for n, (p, c) in expected.items()}


@given(length=st.integers(1, 40), window=st.none() | st.integers(1, 50))
def test_causal_pairs_are_those_a_loop_finds(length, window):
    seen = sum(j <= i and (window is None or i - j < window) for i in range(length) for j in range(length))
    assert causal_pairs(length, window) == seen


@given(length=st.integers(1, 40), window=st.none() | st.integers(1, 50), block=st.integers(1, 50))
def test_executed_pairs_are_those_a_loop_over_blocks_finds(length, window, block):
    pairs = 0
    for query in range(length):
        first = query // block * block  # of the query's block
        last = min(first + block, length) - 1
        pairs += sum(key <= last and (window is None or first - key < window) for key in range(length))
    assert executed_pairs(length, window, block) == pairs
    assert causal_pairs(length, window) <= pairs <= executed_pairs(length, window, None) == length**2


@given(configs(), st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_packed_documents_cost_what_their_attention_costs_alone(config, lengths):
    def attention(counted):
        return sum(row.training_flops for row in counted.rows() if row.name.endswith(("scores", "weighted_values")))

    packed = cost(config, Training(sum(lengths), document_lengths=tuple(lengths)))
    assert attention(packed) == sum(attention(cost(config, Training(length))) for length in lengths)
    assert packed.tree.training_flops <= cost(config, Training(sum(lengths))).tree.training_flops
    assert packed.tree.executed_training_flops == cost(config, Training(sum(lengths))).tree.executed_training_flops


@given(configs(), st.integers(1, 64))
def test_rows_and_weights_sum_to_the_model(config, seq_len):
    counted = cost(config, Training(seq_len))
    assert sum(row.parameters for row in counted.rows()) == counted.parameters == sum(w.numbers for w in counted.weights)
    assert sum(row.training_flops for row in counted.rows()) == counted.tree.training_flops == 3 * counted.tree.forward_flops
    assert sum(row.share for row in counted.rows()) == pytest.approx(1)
    assert len({w.name for w in counted.weights}) == len(counted.weights)
    assert counted.tree.forward_flops <= counted.tree.executed_forward_flops
    assert counted.flops_training(3 * seq_len) == 3 * counted.tree.training_flops
    assert counted.flops_per_token_training * seq_len == pytest.approx(counted.tree.training_flops)


def test_parameters_without_embeddings_leave_out_tables_and_the_head():
    config = uniform(100, 8, 2, (2, 1, 4), 16, value_embedding=True)
    config = dataclasses.replace(config, hash_embedding=HashEmbedding(n_rows=50))
    tables = 100 * 8 + 50 * 8 + 2 * 100 * 4
    counted = cost(config, Training(4))
    assert counted.parameters_non_embedding == counted.parameters - tables - 100 * 8


def test_the_prior_gate_counts_one_backward_product_where_its_features_need_no_gradient():
    config = dataclasses.replace(uniform(20, 8, 1, (2, 1, 4), 16), prior=Prior())
    plain, gated = cost(config, Training(6)), cost(config, Training(6, prior_shape=(3, 5)))
    assert gated.parameters - plain.parameters == prior_gate_parameters(8, 3, 5) == 4 * 8 + 4 + 32 * 5 + 32 + 4 * 32
    assert gated.tree.forward_flops - plain.tree.forward_flops == 2 * 6 * (8 * 4 + 5 * 32 + 32 * 4)
    assert gated.tree.backward_flops - plain.tree.backward_flops == 2 * 6 * (2 * 8 * 4 + 5 * 32 + 2 * 32 * 4)


def test_utilization():
    counted = cost(SMOLLM2_135M, Training(2048))
    per_token = counted.flops_per_token_training
    assert counted.mfu(1000, 2000 * per_token) == pytest.approx(0.5)
    assert counted.hfu(1000, 1e15) > counted.mfu(1000, 1e15)


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"seq_len": 0}, "seq_len"),
        ({"seq_len": 9000}, "context_length"),
        ({"seq_len": 4, "document_lengths": (2, 3)}, "document_lengths"),
        ({"seq_len": 4, "document_lengths": (4, 0)}, "document_lengths"),
        ({"seq_len": 4, "document_lengths": ()}, "document_lengths"),
        ({"seq_len": 4, "run": dataclasses.replace(CPU, attention_block=0)}, "attention_block"),
    ],
)
def test_lengths_that_make_no_sense_are_refused_by_name(arguments, named):
    with pytest.raises(UsageError, match=named):
        cost(SMOLLM2_135M, Training(**arguments))
