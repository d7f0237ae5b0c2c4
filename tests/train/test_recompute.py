"""Recomputation changes what is kept, not what is learned: equal bits, the FLOPs and the bytes that the account says."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from groundup.account import CPU, cost, training_memory
from groundup.account.shapes import architecture
from groundup.account.workload import Training
from groundup.config import Attention, Dense, Experts, LatentAttention, Layer, LinearMixer, ModelConfig, Norm
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.optim import OptimizerConfig, build_optimizer
from groundup.train.allocations import peak_allocated
from groundup.train.recompute import apply_recompute
from groundup.train.step import StepConfig, TrainBatch, TrainState, train_step

POLICIES = ("none", "attention", "mlp", "layers")
# torch's counter passes over these
COUNTED = {
    torch.ops.aten.addmm_: lambda into, a, b, **_: 2 * a[0] * a[1] * b[1],
    torch.ops.aten.linalg_solve_triangular: lambda a, b, **_: math.prod(a) * b[-1],
}
SIZES = {"vocab_size": 512, "d_model": 64, "n_layers": 3, "head_dim": 16, "context_length": 256}
SANDWICH = ModelConfig(
    512, 64, 256, (Layer(Attention(4, 2, 16, window=100), Dense(128, "gelu", bias=True), Norm("layer"), "sandwich"),) * 2
)
MODELS = {
    "groundup": architecture("groundup", **SIZES, hash_rows=16_384),
    "llama": architecture("llama", **SIZES),
    "sandwich": replace(SANDWICH, final_norm=Norm()),
    "post": replace(SANDWICH, layers=(replace(SANDWICH.layers[0], placement="post"),) * 2),
}
LATENT, LINEAR = LatentAttention(4, 16, 8, 12, 20, q_rank=24), LinearMixer(4, 2, 8, 12)
OPEN = {  # kinds that open models have: what is the last that backward needs differs
    "routed experts last": (Layer(LATENT, Experts(4, 2, 32)), Layer(LINEAR, Experts(4, 2, 32))),
    "shared expert last": (Layer(LATENT, Experts(4, 2, 32, shared=Dense(40))),),
    "its gate last": (Layer(LINEAR, Experts(4, 2, 32, shared=Dense(40), shared_gate=True)),),
    "a gate before the output": (Layer(Attention(4, 2, 16, output_gate=True, sinks=True), Dense(40, "geglu"), placement="after"),),
}


def trainer(config: ModelConfig, policy, dtype=torch.float32, rows: int = 4) -> tuple[TrainState, TrainBatch]:
    """A model whose weights are all in use, and a batch of two documents a row."""
    model = initialize(Decoder(config), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.02 * torch.randn(p.shape, generator=generator)
    model.compute_dtype = dtype
    apply_recompute(model, policy)
    state = TrainState(model, build_optimizer(model.named_parameters(), OptimizerConfig(matrices="adamw")))
    ids = torch.randint(512, (rows, 257), generator=generator)
    documents = (torch.arange(256) >= 77).int().expand(rows, 256).contiguous()
    return state, TrainBatch(ids[:, :-1].clone(), ids[:, 1:].clone(), documents)


def after_a_step(name: str, policy, dtype, rows: int = 4):
    state, batch = trainer(MODELS[name], policy, dtype, rows)
    state, metrics = train_step(state, batch, StepConfig(10, 2))
    return metrics, {n: p.grad.to_dense() for n, p in state.model.named_parameters()}, state.model.state_dict()


@pytest.mark.parametrize("name, dtype", [("groundup", torch.float32), ("sandwich", torch.float32), ("groundup", torch.bfloat16)])
def test_loss_gradients_and_names_are_the_same_to_the_bit(name, dtype):
    expected, gradients, weights = after_a_step(name, "none", dtype)
    for policy in POLICIES[1:]:
        metrics, found, moved = after_a_step(name, policy, dtype)
        assert metrics == expected and list(moved) == list(weights)
        assert all(torch.equal(found[n], gradients[n]) for n in gradients), policy
        assert all(torch.equal(moved[n], weights[n]) for n in weights), policy


@pytest.mark.parametrize("name", OPEN)
def test_what_is_multiplied_again_is_what_the_account_says(name):
    config = ModelConfig(512, 64, 256, OPEN[name])
    tokens = torch.randint(512, (2, 150), generator=torch.Generator().manual_seed(0))
    for policy in POLICIES:
        model = apply_recompute(initialize(Decoder(config), 0), policy)
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            model.loss(tokens, tokens)[0].backward()
        counted = cost(config, Training(150, run=replace(CPU, recompute=policy)))
        assert counter.get_total_flops() == 2 * counted.tree.executed_training_flops, policy


def test_threads_that_share_a_batch_recompute_each_their_own():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected, gradients, _ = after_a_step("groundup", "none", torch.float32, rows=8)
        metrics, found, _ = after_a_step("groundup", "layers", torch.float32, rows=8)
    finally:
        torch.set_num_threads(threads)
    assert metrics == expected and all(torch.equal(found[n], gradients[n]) for n in gradients)


def test_scoring_keeps_nothing_and_computes_nothing_again():
    state, batch = trainer(MODELS["llama"], "layers")
    plain, _ = trainer(MODELS["llama"], "none")
    with torch.no_grad():
        found, expected = (s.model.hidden(batch.tokens, batch.documents) for s in (state, plain))
    assert torch.equal(found, expected) and found.grad_fn is None


@pytest.mark.parametrize("name", ["groundup", "post"])
def test_the_predicted_peak_is_within_three_percent_and_less_is_kept(name):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    peaks = {}
    try:
        for policy in POLICIES:
            state, batch = trainer(MODELS[name], policy, rows=8)
            state, _ = train_step(state, batch, StepConfig(10, 8))
            state.optimizer.zero_grad()
            held = [*state.model.parameters(), *state.optimizer.state_dict().values(), batch.tokens, batch.targets, batch.documents]
            standing = sum(t.numel() * t.element_size() for t in held)
            measured = standing + peak_allocated(lambda: train_step(state, batch, StepConfig(10, 8)), torch.device("cpu"))  # noqa: B023
            run = replace(CPU, allocator_overhead=0.0, recompute=policy)
            memory = training_memory(MODELS[name], Training(256, 8, run=run, matrices="adamw"))
            assert memory.peak_bytes == pytest.approx(measured, rel=0.03), policy
            peaks[policy] = measured
    finally:
        torch.set_num_threads(threads)
    assert peaks["layers"] < min(peaks["attention"], peaks["mlp"]) and max(peaks["attention"], peaks["mlp"]) < peaks["none"]


def test_the_account_of_what_is_computed_again_by_hand():
    config, t, d = architecture("llama", **SIZES), 256, 64
    f = config.layers[0].mlp.d_ff
    plain = cost(config, Training(t)).tree
    again = {policy: cost(config, Training(t, run=replace(CPU, recompute=policy))).tree for policy in POLICIES}
    pairs = 128 * 128 + 128 * 256
    attention, mlp = 3 * (2 * t * 3 * d * d + 2 * 2 * d * pairs), 3 * 2 * t * 2 * d * f  # without the output's, and without down's
    whole = attention + 3 * 2 * t * d * d + mlp
    found = {policy: tree.recomputed_flops for policy, tree in again.items()}
    assert found == {"none": 0, "attention": attention, "mlp": mlp, "layers": whole}
    for policy, tree in again.items():
        assert tree.training_flops == plain.training_flops, "model FLOPs know nothing of it"
        assert tree.executed_training_flops == again["none"].executed_training_flops + found[policy]
        assert tree.forward_bytes() == again["none"].forward_bytes()
    assert again["layers"].backward_bytes() > max(again["attention"].backward_bytes(), again["mlp"].backward_bytes())
