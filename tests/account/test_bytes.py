"""Bytes that each component reads and writes, against closed forms and against the FLOPs of the same products."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import LLAMA_3_8B, configs, uniform

from groundup.account import CPU, GPU, cost
from groundup.account.execution import IDEAL
from groundup.account.work import Product
from groundup.account.workload import Training
from groundup.config import Attention, Dense, Layer, ModelConfig, Norm

T, D, H, K, E, F, V = 6, 8, 4, 2, 4, 10, 11


def one_layer(**attention) -> ModelConfig:
    return ModelConfig(V, D, 64, (Layer(Attention(H, K, E, **attention), Dense(F)),))


def component(counted, name):
    return next(found for _, found in counted.tree.walk() if found.name == name)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("number_bytes", [2, 4])
def test_a_product_reads_both_factors_and_writes_one_and_does_so_twice_going_back(batch_size, number_bytes):
    up = component(cost(one_layer(), Training(T)), "layers.0.mlp.up")
    n = batch_size * T
    assert up.forward_bytes(batch_size, number_bytes) == number_bytes * (n * D + D * F + n * F)
    assert up.backward_bytes(batch_size, number_bytes) == 2 * up.forward_bytes(batch_size, number_bytes)


def test_a_fused_attention_moves_queries_keys_values_and_output_only():
    counted = cost(one_layer(), Training(T))
    scores, weighted = (component(counted, f"layers.0.mixer.{leaf}") for leaf in ("scores", "weighted_values"))
    q, kv = T * H * E, T * K * E
    assert scores.forward_bytes(2) + weighted.forward_bytes(2) == 2 * 2 * (2 * q + 2 * kv)  # two sequences, two bytes
    # queries, keys, values, output and its gradient in; three gradients out
    assert scores.backward_bytes() + weighted.backward_bytes() == 2 * (4 * q + 4 * kv)


def test_scores_that_reach_memory_cost_their_square():
    def moved(t):
        return component(cost(one_layer(), Training(t, run=dataclasses.replace(CPU, attention_block=None))), "layers.0.mixer.scores")

    blocked = component(
        cost(one_layer(rotary=None), Training(32, run=dataclasses.replace(CPU, attention_block=32))), "layers.0.mixer.scores"
    )
    q, kv, scores = 32 * H * E, 32 * K * E, H * 32 * 32
    mask = 4 * 32 * 32  # made once for all heads
    assert blocked.forward_bytes(1, 4) == 4 * (q + kv + scores + 4 * scores + mask)  # the product, the mask added, the softmax
    assert moved(64).forward_bytes() == 2 * moved(32).forward_bytes()  # fused: no square


def test_norm_embedding_head_and_residual_by_hand():
    counted = cost(one_layer(), Training(T))
    by_name = {name: component(counted, name) for name in ("embedding", "layers.0.mixer_norm", "layers.0.residual", "loss", "head")}
    # with its gain in one pass; back: gradient and saved output in, gradient out
    assert by_name["layers.0.mixer_norm"].forward_bytes() == 2 * 2 * T * D
    assert by_name["layers.0.mixer_norm"].backward_bytes() == 2 * 3 * T * D
    assert by_name["layers.0.residual"].forward_bytes() == 2 * 6 * T * D
    assert by_name["embedding"].forward_bytes(3) == 3 * 2 * 2 * T * D
    assert by_name["embedding"].backward_bytes(3) == 3 * 2 * 3 * T * D + 4 * V * D  # the gradient of a table is fp32
    assert by_name["loss"].forward_bytes() == 4 * 2 * T * V  # logits are fp32 too
    assert by_name["head"].forward_bytes() == 2 * (T * D + D * V + T * V)


def test_a_head_in_chunks_reads_its_matrix_for_each():
    run = dataclasses.replace(IDEAL, loss_chunk_bytes=4 * V * 32)
    one, two = (component(cost(one_layer(), Training(t, run=run)), "head").forward_bytes() for t in (32, 64))
    assert two == 2 * one


def test_a_plain_norm_and_a_chain_of_operations_move_more_than_one_kernel():
    fused, plain = (cost(one_layer(), Training(T, run=dataclasses.replace(GPU, compiled=compiled))) for compiled in (True, False))
    for name in ("layers.0.mixer_norm", "layers.0.mlp.activation", "layers.0.mixer.heads"):
        assert component(plain, name).forward_bytes() > component(fused, name).forward_bytes()
        assert component(plain, name).backward_bytes() > component(fused, name).backward_bytes()


def products_flops(tree, which):
    return sum(work.flops for _, part in tree.walk() for work in getattr(part.own_work, which))


@given(configs(), st.integers(1, 64), st.sampled_from([CPU, GPU, dataclasses.replace(CPU, attention_block=5)]))
def test_the_products_whose_bytes_count_are_those_whose_flops_count(config, seq_len, run):
    tree = cost(config, Training(seq_len, run=run)).tree
    assert products_flops(tree, "forward") == tree.executed_forward_flops
    assert products_flops(tree, "forward") + products_flops(tree, "backward") == tree.executed_training_flops


@given(configs(), st.integers(1, 64), st.integers(1, 5), st.sampled_from([CPU, GPU, IDEAL]))
def test_a_batch_moves_more_than_a_sequence_and_less_than_as_many_sequences(config, seq_len, batch_size, run):
    tree = cost(config, Training(seq_len, run=run)).tree
    for moved in (tree.forward_bytes, tree.backward_bytes):
        assert moved(1) <= moved(batch_size) <= batch_size * moved(1)
        assert moved(batch_size, 2) <= moved(batch_size, 4) <= 2 * moved(batch_size, 2)


@given(configs(), st.integers(1, 40))
def test_the_tree_moves_what_its_leaves_move(config, seq_len):
    tree = cost(config, Training(seq_len)).tree
    leaves = [part for _, part in tree.walk() if not part.parts]
    assert tree.forward_bytes() == sum(leaf.forward_bytes() for leaf in leaves)
    assert tree.backward_bytes() == sum(leaf.backward_bytes() for leaf in leaves)


def test_flash_attention_computes_its_scores_twice_and_that_is_no_model_flop():
    plain, flash = cost(LLAMA_3_8B, Training(1024)), cost(LLAMA_3_8B, Training(1024, run=GPU))
    pairs = 32 * 2 * 32 * 128 * (1024 * 1025 // 2)
    assert flash.tree.training_flops == plain.tree.training_flops
    assert flash.tree.executed_training_flops == flash.tree.training_flops + pairs
    assert flash.hfu(1e3, 1e15) > flash.mfu(1e3, 1e15)


def test_a_larger_batch_makes_a_layer_worth_its_weights():
    tree = cost(uniform(1000, 512, 2, (8, 8, 64), 2048), Training(16)).tree
    assert tree.intensity(64) > 5 * tree.intensity(1)


def test_a_chunked_product_has_the_flops_of_the_whole_and_the_smaller_dim():
    whole = Product(100, 64, 1000, chunk=32).of_batch(2)
    assert whole.flops == 2 * 200 * 64 * 1000 and whole.calls == 7
    assert whole.smallest_dim == 200 / 7
    assert whole.bytes(1) == 200 * 64 + 7 * 64 * 1000 + 200 * 1000


def test_a_layer_norm_of_two_gains_reads_its_input_for_each():
    both = Layer(Attention(H, K, E), Dense(F), Norm("layer", bias=True))
    counted = cost(ModelConfig(V, D, 64, (both,)), Training(T, run=GPU))
    in_fp32, casts, affine = 4 * (5 + 3), 2 * (2 + 4), 2 * (2 + 2)
    assert component(counted, "layers.0.mixer_norm").forward_bytes() == (in_fp32 + casts + affine) * T * D + 4 * 2 * D
