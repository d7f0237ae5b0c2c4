"""Every kind of layer: the predicted peak of a step is what the allocation tracker counts."""

import random
from dataclasses import replace

import pytest
import torch

from benchmarks.accounting import MEMORY_BOUND, Case, Trainer
from groundup.account import CPU, GPU, training_memory
from groundup.account.memory import optimizer_numbers, saved_bytes
from groundup.account.workload import Training
from groundup.config import (
    Attention,
    Dense,
    Experts,
    LatentAttention,
    Layer,
    LinearMixer,
    ModelConfig,
    Norm,
    Rotary,
    Router,
    check,
)
from groundup.errors import UsageError

ATTENTION, DENSE, GEMMA = Attention(4, 2, 16), Dense(96), Norm(plus_one=True, wide_gain=True)
LATENT = LatentAttention(4, 16, 8, 24, kv_rank=32)
EXPERTS = Experts(8, 2, 64, Router(renormalize=True), shared=Dense(64))
LAYERS = {
    "latent attention": Layer(LATENT, DENSE),
    "latent queries": Layer(replace(LATENT, q_rank=48, bias=True), DENSE),
    "shared experts": Layer(ATTENTION, EXPERTS),
    "gated shared experts": Layer(ATTENTION, replace(EXPERTS, shared_gate=True, router=Router("sigmoid", selection_bias=True))),
    "experts alone": Layer(
        replace(ATTENTION, sinks=True, window=30), Experts(4, 2, 64, Router("softmax_of_chosen", bias=True), "clamped_swiglu", bias=True)
    ),
    "many experts": Layer(ATTENTION, Experts(32, 1, 64, activation="gelu")),
    "linear mixer": Layer(LinearMixer(4, 2, 16, 24), DENSE),
    "caps and sinks": Layer(replace(ATTENTION, softcap=20.0, sinks=True, scale=0.2), DENSE),
    "output gate": Layer(replace(ATTENTION, output_gate=True, qk_norm=GEMMA, rotary=Rotary(dims=8)), DENSE),
    "norms after": Layer(replace(ATTENTION, qk_norm=Norm(wide_gain=True), qk_norm_over="projection"), DENSE, Norm(), "after"),
    "sandwich of geglu": Layer(replace(ATTENTION, softcap=20.0), Dense(96, "geglu"), GEMMA, "sandwich"),
    "gelu and clamped": Layer(ATTENTION, Dense(96, "clamped_swiglu"), Norm("layer"), "post"),
}
POLICIES = ("none", "attention", "mlp", "layers")


def model(layer: Layer, **fields) -> ModelConfig:
    return check(ModelConfig(200, 64, 256, (layer,) * 2, final_norm=layer.norm, **fields))


def ratio(case: Case) -> float:
    trainer = Trainer(case)
    trainer.step()
    workload = Training(case.seq_len, case.batch_size, run=case.run(), matrices=case.matrices, others=case.others)
    return training_memory(case.config, workload).peak_bytes / trainer.peak_bytes()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The tracker sees the allocations of one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_peak_is_what_the_tracker_counts(name, precision):
    policy = POLICIES[(list(LAYERS).index(name) + (precision == "bf16")) % 4]
    case = Case(name, model(LAYERS[name]), 2, 150, "adamw", recompute=policy, precision=precision)
    assert ratio(case) == pytest.approx(1, abs=MEMORY_BOUND)


def test_the_whole_model_too():
    config = model(Layer(ATTENTION, Dense(96, "gelu", bias=True), Norm("layer", bias=True)), learned_positions=True, tied=True)
    assert ratio(Case("gpt-2", config, 2, 150, "sgd", "sgd")) == pytest.approx(1, abs=MEMORY_BOUND)
    config = replace(config, layers=(LAYERS["latent attention"], LAYERS["linear mixer"], LAYERS["shared experts"]), embedding_scale=8.0)
    assert ratio(Case("mixed", config, 2, 150, "muon", recompute="layers")) == pytest.approx(1, abs=MEMORY_BOUND)


@pytest.mark.parametrize("seed", range(4))
def test_wherever_tokens_go_experts_take_about_as_much(seed):
    """Random weights do not route evenly, and all tokens to the same two experts is as uneven as it gets."""
    case = Case("experts", model(LAYERS["shared experts" if seed % 2 else "experts alone"]), 2, 150, "adamw", recompute="mlp")
    trainer = Trainer(case)
    if seed > 1:
        for layer in trainer.state.model.layers:
            torch.nn.init.zeros_(layer.mlp.router.weight)  # all scores are equal: the first experts are chosen
    trainer.step()
    predicted = training_memory(case.config, Training(150, 2, run=case.run(), matrices="adamw")).peak_bytes
    assert predicted / trainer.peak_bytes() == pytest.approx(1, abs=MEMORY_BOUND if seed < 2 else 0.1)


def test_random_decoders_of_all_kinds():
    draw = random.Random(5)
    for _ in range(6):
        layers = tuple(draw.choice(list(LAYERS.values())) for _ in range(3))
        config = ModelConfig(200, 64, 256, layers, draw.choice([None, Norm()]), draw.choice([None, Norm(weight=False)]))
        policy, precision = draw.choice(POLICIES), draw.choice(["fp32", "bf16"])
        case = Case("random", config, 3, draw.choice([100, 200]), "adamw", recompute=policy, precision=precision)
        assert ratio(case) == pytest.approx(1, abs=MEMORY_BOUND), case


def test_what_no_fused_kernel_knows_keeps_its_probabilities_on_a_gpu():
    plain, capped = (
        sum(saved_bytes(model(Layer(a, DENSE)), Training(256, 1, run=GPU))[0]["mixer"].values())
        for a in (ATTENTION, replace(ATTENTION, softcap=20.0))
    )
    pairs = 4 * (128 * 128 + 128 * 256)
    assert capped - plain == 2 * 2 * pairs - 4 * 256 * 4  # probabilities and what tanh gave, and no log-sum-exp


def test_soap_does_not_move_stacks_of_matrices():
    with pytest.raises(UsageError, match="stack of experts"):
        training_memory(model(LAYERS["many experts"]), Training(8, 1, matrices="soap", run=CPU))
    assert optimizer_numbers((), "soap", "adamw") == 0
