"""The decoder: every variant builds, runs and counts as its account says; its loss is that of its logits; its gradients are true."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as torch_f
from torch.utils.flop_counter import FlopCounterMode

from groundup.account import CPU, cost
from groundup.account.workload import Training
from groundup.config import (
    SPARSE_ROWS,
    Attention,
    Dense,
    Experts,
    HashEmbedding,
    LatentAttention,
    Layer,
    LinearMixer,
    ModelConfig,
    Norm,
    Prior,
    Rotary,
    Router,
    YarnScaling,
)
from groundup.errors import UsageError
from groundup.kernels.attention import BLOCK
from groundup.model import functional as F
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.model.positions import rotary_tables

V, D, T = 37, 8, 12
# torch's counter passes over these
COUNTED = {
    torch.ops.aten.addmm_: lambda into, a, b, **_: 2 * a[0] * a[1] * b[1],
    torch.ops.aten.linalg_solve_triangular: lambda a, b, **_: math.prod(a) * b[-1],
}
LAYER_NORM, PLAIN_NORM = Norm("layer", bias=True), Norm()


def layer(placement: str = "pre", norm: Norm = PLAIN_NORM, activation: str = "swiglu", bias: bool = False, **attention) -> Layer:
    mixer = Attention(**({"n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "bias": bias, "output_bias": bias} | attention))
    return Layer(mixer, Dense(12, activation, bias), norm, placement)


def config(*layers: Layer, **fields) -> ModelConfig:
    return ModelConfig(V, D, 64, layers or (layer(),), **fields)


EXPERTS_BY_GROUPS = Experts(
    6, 2, 5, Router("sigmoid", selection_bias=True, n_groups=3, n_active_groups=2, group_score="top2"), shared=Dense(7), shared_gate=True
)
VARIANTS = {
    "pre": config(layer("pre")),
    "post": config(layer("post")),
    "sandwich": config(layer("sandwich")),
    "no layers": ModelConfig(V, D, 64, ()),
    "no norms at the ends": config(final_norm=None),
    "norm after the embedding": config(embedding_norm=Norm(weight=False)),
    "tied": config(tied=True),
    "biases": config(layer(bias=True), head_bias=True),
    "one key-value head": config(layer(n_heads=4, n_kv_heads=1, head_dim=2)),
    "one head": config(layer(n_heads=1, n_kv_heads=1, head_dim=8)),
    "heads wider than the model": config(layer(n_heads=4, n_kv_heads=2, head_dim=6)),
    "windows by layer": config(layer(window=3), layer(), layer(window=2)),
    "no positions": config(layer(rotary=None)),
    "two bases of positions": config(layer(), layer(rotary=Rotary(500.0))),
    "QK-norm": config(layer(qk_norm=Norm())),
    "LayerNorm": config(layer(norm=LAYER_NORM, qk_norm=LAYER_NORM), final_norm=LAYER_NORM),
    "GELU": config(layer(activation="gelu", bias=True)),
    "ReLU squared": config(layer(activation="relu2")),
    "value embedding": config(layer(value_embedding=True, n_kv_heads=1)),
    "key offset": config(layer(key_offset=True, n_kv_heads=1)),
    "fused on a CPU": config(layer(key_offset=True, value_embedding=True, qk_norm=Norm(weight=False), window=5, n_kv_heads=1)),
    "hashed n-grams": config(hash_embedding=HashEmbedding((2, 3), 50)),
    "hashed n-grams, sparse gradients": config(hash_embedding=HashEmbedding((2,), SPARSE_ROWS)),
    "softcap": config(logit_softcap=5.0, head_bias=True),
    "norms after the branches": config(layer("after")),
    "GEGLU": config(layer(activation="geglu"), embedding_scale=2.0),
    "learned positions": config(layer(rotary=None), learned_positions=True),
    "QK-norm over the projection": config(layer(qk_norm=Norm(plus_one=True), qk_norm_over="projection", n_kv_heads=1)),
    "capped scores, sinks, a gate": config(layer(softcap=2.0, scale=0.3, sinks=True, output_gate=True, window=5, n_kv_heads=1)),
    "scaled positions of a part": config(layer(rotary=Rotary(50.0, YarnScaling(4.0, 8), dims=2))),
    "latent attention": config(Layer(LatentAttention(2, 4, 2, 3, 5, q_rank=6, bias=True), Dense(12))),
    "linear mixer": config(Layer(LinearMixer(4, 2, 3, 5), Dense(12))),
    "experts": config(Layer(layer().mixer, Experts(4, 2, 6, Router(renormalize=True, bias=True), "clamped_swiglu", bias=True))),
    "experts by groups": config(Layer(layer().mixer, EXPERTS_BY_GROUPS)),
}


def build(spec: ModelConfig, dtype: torch.dtype = torch.float64, prior_shape: tuple[int, int] | None = None) -> Decoder:
    """A decoder all of whose weights are random, so that nothing hides behind a zero."""
    model = initialize(Decoder(spec, prior_shape=prior_shape), 0, zero_outputs=False).to(dtype)
    model.compute_dtype = dtype
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=dtype) * 0.3)
    return model


def text(rows: int = 2, t: int = T, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (rows, t), generator=torch.Generator().manual_seed(seed))


variants = pytest.mark.parametrize("spec", VARIANTS.values(), ids=VARIANTS)


@variants
def test_the_loss_is_that_of_the_logits_and_reaches_every_parameter(spec):
    model, tokens, targets = build(spec), text(), text(seed=1)
    targets[0, 3:6] = -1
    loss, nats = model.loss(tokens, targets, scale=0.5)
    logits = model(tokens).flatten(0, 1).double()
    expected = torch_f.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="none")
    torch.testing.assert_close(nats[1].flatten(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, 0.5 * expected.sum(), atol=1e-5, rtol=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.to_dense().any() for p in model.parameters())


@variants
def test_nothing_sees_the_future_or_another_document(spec):
    model, tokens = build(spec), text()
    documents = torch.tensor([[0] * 5 + [1] * (T - 5)]).expand(2, -1).int()
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % V
    with torch.no_grad():
        before, after = model.hidden(tokens, documents), model.hidden(changed, documents)
    same = (before - after).abs().amax(-1) <= 1e-12  # rounding: rows of an expert, or decays of a chunk, are summed in another order
    assert same[:, :4].all() and same[:, 5:].all() and not same[:, 4].any()


@variants
def test_documents_in_a_row_are_as_if_alone(spec):
    model, tokens = build(spec), text(1)
    documents = torch.tensor([[0] * 5 + [1] * (T - 5)]).int()
    with torch.no_grad():
        packed, first, second = model(tokens, documents), model(tokens[:, :5]), model(tokens[:, 5:])
    torch.testing.assert_close(packed, torch.cat((first, second), 1), atol=1e-5, rtol=1e-5)


@variants
def test_parameters_are_those_of_the_account(spec):
    counted = cost(spec, Training(T))
    named = {name: tuple(p.shape) for name, p in Decoder(spec).named_parameters()}
    assert named == {w.name: w.shape for w in counted.weights}
    assert counted.parameters == sum(p.numel() for p in Decoder(spec).parameters())


@variants
@pytest.mark.parametrize("t", [T, BLOCK + 9])
def test_flops_are_those_of_the_account(spec, t):
    spec = ModelConfig(**{f: getattr(spec, f) for f in spec.__dataclass_fields__} | {"context_length": t})
    model, tokens = build(spec, torch.float32), text(3, t)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        model.loss(tokens, tokens)[0].backward()
    counted = cost(spec, Training(t, run=CPU))
    assert counter.get_total_flops() == 3 * counted.tree.executed_training_flops


def test_flops_and_parameters_of_the_gate_are_those_of_the_account():
    spec = config(prior=Prior())
    model, tokens = build(spec, torch.float32, (3, 12)), text(3)
    log_p, features = -torch.rand(3, T, 3), torch.rand(3, T, 12)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        model.loss(tokens, tokens, expert_log_p=log_p, features=features)[0].backward()
    counted = cost(spec, Training(T, run=CPU, prior_shape=(3, 12)))
    assert counter.get_total_flops() == 3 * counted.tree.executed_training_flops
    assert counted.parameters == sum(p.numel() for p in model.parameters())


WITH_SLOPES = ("pre", "post", "sandwich", "biases", "one key-value head", "LayerNorm", "value embedding", "softcap", "tied")
WITH_SLOPES += (
    "norms after the branches",
    "GEGLU",
    "capped scores, sinks, a gate",
    "latent attention",
    "linear mixer",
    "experts by groups",
)


@pytest.mark.parametrize("name", WITH_SLOPES)
def test_gradients_of_the_whole_are_true(name):
    """Each parameter's gradient along a random direction is the slope of the loss along it, in float64."""
    model, tokens = build(VARIANTS[name]), text()
    names, parameters = zip(*model.named_parameters(), strict=True)

    def loss(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(LossOf(model), {f"model.{n}": p for n, p in given.items()}, (tokens,))

    values = [p.detach().clone().requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(loss, values, fast_mode=True, eps=1e-6, atol=1e-5)


class LossOf(torch.nn.Module):
    """A decoder whose forward is its loss, for ``functional_call``."""

    def __init__(self, model: Decoder):
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.loss(tokens, tokens.roll(-1, 1))[0]


def test_the_layer_by_hand():
    """Pre-norm attention and MLP from torch's own parts."""
    model, tokens = build(config(layer(activation="gelu", bias=True), head_bias=True)), text()
    one, x = model.layers[0], model.embedding.weight[tokens]
    h = torch_f.rms_norm(x, (D,), one.mixer_norm.weight, 1e-6)
    q, k, v = (torch_f.linear(h, p.weight, p.bias).view(2, T, 2, 4) for p in (one.mixer.query, one.mixer.key, one.mixer.value))
    tables = rotary_tables(torch.arange(T), 4, Rotary(10_000.0))
    q, k = F.rotate(q, *tables), F.rotate(k, *tables)
    a = torch_f.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)), is_causal=True).transpose(1, 2).reshape(2, T, 8)
    x = x + torch_f.linear(a, one.mixer.output.weight, one.mixer.output.bias)
    h = torch_f.rms_norm(x, (D,), one.mlp_norm.weight, 1e-6)
    inner = torch_f.gelu(torch_f.linear(h, one.mlp.up.weight, one.mlp.up.bias), approximate="tanh")
    x = x + torch_f.linear(inner, one.mlp.down.weight, one.mlp.down.bias)
    h = torch_f.rms_norm(x, (D,), model.final_norm.weight, 1e-6)
    expected = torch_f.linear(h, model.head.weight, model.head_bias)
    torch.testing.assert_close(model(tokens), expected.to(model(tokens).dtype), atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_the_mixture_is_the_gates(seed):
    model, tokens, targets = build(config(prior=Prior()), prior_shape=(3, 12)), text(seed=seed), text(seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    log_p, features = -torch.rand(2, T, 3, generator=generator).double(), torch.rand(2, T, 12, generator=generator).double()
    hidden = model.hidden(tokens).flatten(0, 1)
    gate = model.gate(hidden, features.flatten(0, 1))
    expected = F.mixture_nll_reference(model.logits(hidden), targets.flatten(), gate, log_p.flatten(0, 1)).double()
    loss, nats = model.loss(tokens, targets, expert_log_p=log_p, features=features, network_share=0.25)
    torch.testing.assert_close(nats[1].flatten(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, 0.75 * nats[1].sum() + 0.25 * nats[0].sum())


@pytest.mark.parametrize(
    "spec, named",
    [
        (config(layer(n_heads=3)), "n_kv_heads"),
        (config(layer(head_dim=3)), "head_dim"),
        (config(layer(window=0)), "window"),
        (config(layer(n_kv_heads=0)), "n_kv_heads"),
        (ModelConfig(1, D, 64, ()), "vocab_size"),
        (ModelConfig(V, 0, 64, ()), "d_model"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_by_name(spec, named):
    with pytest.raises(UsageError, match=named):
        Decoder(spec)
