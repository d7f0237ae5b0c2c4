"""What devices send: of every kind of layer by hand, the same in the tree as in the stages, and DeepSeek-V3 against its report."""

import dataclasses
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_shapes import uniform

from groundup.account import cost, find_ceilings, find_device
from groundup.account.activations import layer_activation_bytes
from groundup.account.cluster import LINK_SHARE, Cluster, best_steps, network_of, take_step
from groundup.account.execution import GPU
from groundup.account.known import known_model
from groundup.account.layout import Layout
from groundup.account.memory import training_memory
from groundup.account.published import PUBLISHED_RUNS
from groundup.account.roofline import step_time
from groundup.account.rules import figures
from groundup.account.spread import Counted, Spread
from groundup.account.workload import Training
from groundup.config import Attention, Dense, Experts, LatentAttention, Layer, LinearMixer, ModelConfig
from groundup.errors import UsageError

D, S, V = 16, 8, 40
LATENT = LatentAttention(4, 4, 2, 4, kv_rank=6, q_rank=10)
LINEAR = LinearMixer(4, 2, 4, 4)
ATTENTION = Attention(4, 2, 4, output_gate=True, sinks=True, softcap=20.0, rotary=None)
MIXTURE = Experts(8, 2, 12, shared=Dense(8), shared_gate=True)
LONE = Experts(8, 2, 12, bias=True)


def model(*layers, **options):
    return ModelConfig(V, D, 64, layers, **options)


ALL = model(
    Layer(LATENT, Dense(8)),
    Layer(LINEAR, MIXTURE),
    Layer(ATTENTION, LONE, placement="after"),
    Layer(LATENT, MIXTURE),
    learned_positions=True,
)


def workload(layout, m=3, micro_batch=2, recompute="none"):
    return Training(S, micro_batch, m, run=dataclasses.replace(GPU, recompute=recompute), matrices="adamw", layout=layout)


counted = functools.lru_cache(maxsize=8)(Counted)
LAYOUTS = st.builds(
    Layout,
    data=st.sampled_from([4, 8]),
    tensor=st.sampled_from([1, 2]),
    pipeline=st.sampled_from([1, 2, 3]),
    zero=st.integers(0, 3),
    interleave=st.just(1),
    expert=st.sampled_from([1, 2, 4]),
)


@settings(max_examples=15)
@given(LAYOUTS, st.booleans(), st.sampled_from(["none", "mlp", "layers"]), st.integers(1, 4))
def test_the_tree_says_what_the_stages_send(layout, tied, recompute, m):
    """What the planner sums by stages is what the tree of a workload with a layout has by components."""
    config = dataclasses.replace(ALL, tied=tied)
    step = workload(layout, m, recompute=recompute)
    stages = [Spread(counted(config, S), step).sent_by(stage) for stage in counted(config, S).stages(layout, recompute)]
    tree = cost(config, step)
    for group, n_bytes in tree.sent._asdict().items():
        assert n_bytes == pytest.approx(sum(getattr(sent, group) for sent in stages))
        assert n_bytes == pytest.approx(sum(getattr(row.sent, group) for row in tree.rows()))


def test_interleaved_stages_send_what_the_tree_says():
    step = workload(Layout(pipeline=2, interleave=2))
    stages = [Spread(counted(ALL, S), step).sent_by(stage) for stage in counted(ALL, S).stages(step.layout, "none")]
    assert [stage.layers for stage in counted(ALL, S).stages(step.layout, "none")] == [(0, 2), (1, 3)]
    assert cost(ALL, step).sent.pipeline == sum(sent.pipeline for sent in stages) == 2 * 3 * 3 * 2 * 2 * S * D


def test_a_tokens_rows_go_to_its_experts_and_back():
    """k rows of D to the experts and back, forward and backward, (e-1)/e of them to others; again forward where it is computed again."""
    one = model(Layer(ATTENTION, LONE))
    rows = 3 * 2 * S * 2 * D * 2  # micro-batches, sequences, tokens, experts of a token, width, bytes
    assert cost(one, workload(Layout(data=4, expert=4))).sent.expert == 4 * rows * 3 / 4
    assert cost(one, workload(Layout(data=4, expert=4), recompute="mlp")).sent.expert == 6 * rows * 3 / 4
    assert cost(one, workload(Layout(data=4))).sent.expert == 0
    assert cost(one, workload(Layout(data=4, tensor=2, expert=4))).sent.expert == 2 * rows * 3 / 4, "each sends its part of the sequence"


def test_experts_are_summed_over_those_that_hold_the_same():
    """ZeRO's 2 (n-1)/n of 2 bytes, n the devices with the same parameters: d, and of experts d / e."""
    one = model(Layer(ATTENTION, LONE))
    experts = sum(w.numbers for w in cost(one, Training(S)).weights if ".mlp." in w.name and "router" not in w.name)
    others = cost(one, Training(S)).parameters - experts
    for zero in (0, 1):
        sent = cost(one, workload(Layout(data=8, zero=zero, expert=4))).sent
        assert (sent.data, sent.expert_data) == (2 * 2 * 7 / 8 * others, 2 * 2 * 1 / 2 * experts / 4)
    assert cost(one, workload(Layout(data=8, expert=8))).sent.expert_data == 0


def test_latents_are_gathered_and_not_the_stream():
    """Tensor parallel devices make the latents of their part of the sequence and gather those: Cq + C + R numbers, and scatter D."""
    kinds = {"stream": ATTENTION, "latents": LATENT, "linear": LINEAR}
    sent = {}
    for name, mixer in kinds.items():
        tree = cost(model(Layer(mixer, Dense(8))), workload(Layout(tensor=2)))
        sent[name] = next(row.sent.tensor for row in tree.rows() if row.name == "layers.mixer") / (3 * 2 * 2 * 2 * S / 2)
    assert sent == {"stream": 2 * D, "latents": D + 10 + 6 + 2, "linear": 2 * D}


def test_matrices_that_are_not_split_are_on_every_device():
    """Latents and the router whole, heads and experts split."""
    one = model(Layer(LATENT, LONE))
    weights = {w.name: w.numbers for w in cost(one, Training(S)).weights}
    whole = [n for name, n in weights.items() if name.split(".")[-2] in ("query_latent", "latent", "router") or "norm" in name]
    biases = sum(n for name, n in weights.items() if name.endswith("bias"))
    experts, others = cost(one, Training(S)).tree.traffic.held(Layout(data=4, tensor=2, expert=4))
    assert others == sum(whole) + (sum(n for name, n in weights.items() if ".mlp." not in name or "router" in name) - sum(whole)) / 2
    assert experts == ((sum(n for name, n in weights.items() if ".mlp." in name and "router" not in name) - biases) / 2 + biases) / 4


def test_shared_experts_gather_as_dense_ones_do():
    """Where experts are not spread, one gathering serves them and the shared one; where they are, what arrived is gathered."""
    lone, shared = (model(Layer(ATTENTION, mlp)) for mlp in (LONE, dataclasses.replace(LONE, shared=Dense(8))))
    stream = 3 * 2 * 2 * S * D  # numbers that a pass over the sequence has, of two bytes each

    def of_mlp(config, expert):
        tree = cost(config, workload(Layout(data=4, tensor=2, expert=expert)))
        return sum(row.sent.tensor for row in tree.rows() if row.name.startswith("layers.mlp")) / (stream / 2 * 2)

    assert [of_mlp(lone, 1), of_mlp(shared, 1)] == [2, 2]
    assert [of_mlp(lone, 4), of_mlp(shared, 4)] == [4, 4 + 2]


def test_activations_of_latent_attention_and_experts_by_hand():
    """DeepSeek-V3's kind of layer: numbers of 2 bytes a token, and fp32 log-sum-exp and scores."""
    layer = Layer(LATENT, Experts(8, 2, 12, shared=Dense(8)))
    mixer = D + 2 * (10 + 6) + 2 * 4 * (4 + 2) + 4 * 4 + 4 * 4
    mlp = D + 2 * D + 3 * 2 * 12 + 2 * D + 3 * 8
    by_hand = S * (2 * (2 * D + mixer + mlp) + 4 * 4 + 4 * 8 + 12 * 2)
    assert layer_activation_bytes(layer, D, seq_len=S) == by_hand
    assert layer_activation_bytes(layer, D, seq_len=S, tensor=2) == by_hand / 2, "the sequence is split too"
    assert layer_activation_bytes(layer, D, seq_len=S, recompute="mlp") == by_hand - S * (2 * (mlp - D) + 4 * 8 + 12 * 2)
    assert layer_activation_bytes(layer, D, seq_len=S, recompute="layers") == S * 2 * D


def test_the_mixers_that_add_a_gate_keep_it():
    plain, gated = (layer_activation_bytes(Layer(Attention(4, 2, 4, output_gate=g), Dense(8)), D, seq_len=S) for g in (False, True))
    assert gated - plain == S * 2 * 2 * 16
    capped = layer_activation_bytes(Layer(Attention(4, 2, 4, softcap=20.0, sinks=True), Dense(8)), D, seq_len=S)
    assert capped == plain, "a fused kernel caps scores and adds sinks where it makes them"


def test_what_is_of_one_device_is_not_asked_of_many():
    small = uniform(100, 16, 2, (2, 2, 8), 32)
    with pytest.raises(UsageError, match="the memory of training is that of one device"):
        training_memory(small, Training(16, layout=Layout(tensor=2)))
    with pytest.raises(UsageError, match="the time of a step is that of one device"):
        step_time(small, find_ceilings("h100"), Training(16, layout=Layout(data=2)))


H100 = find_device("h100")
PUBLISHED = Layout(data=128, pipeline=16, zero=1, expert=64, overlap=True)
"""16 stages, experts over 64 devices of 8 nodes, ZeRO-1, no tensor parallelism (DeepSeek-AI 2024, section 3.2)."""


@pytest.fixture(scope="module")
def deepseek():
    once = Counted(known_model("deepseek-v3"), 4096)
    return once, Cluster(H100, 2048, network_of("h100", H100), ceilings=find_ceilings("h100")).for_model(once)


def test_deepseek_v3_is_counted_as_published(deepseek):
    """671B parameters, the biases of the choice apart; 250 GFLOP of training a token at 4,096 (Zhao et al. 2025, table 2)."""
    once, _ = deepseek
    assert once.cost.parameters + 58 * 256 == 671_026_419_200
    assert round(once.cost.flops_per_token_training / 1e9) == 250


def test_laws_take_the_parameters_that_a_token_meets(deepseek):
    """37B by its report, with the head and without the lookup table."""
    assert round((figures(deepseek[0].config, 4096).law_parameters) / 1e9) == 37


def test_deepseek_v3s_own_layout_takes_about_its_hours(deepseek):
    """2.664M hours of H800 for 14.8T tokens before contexts are extended (table 1), in fp8, 15,360 sequences a step; here in bf16, which
    takes longer, the MLPs computed again."""
    once, cluster = deepseek
    step = take_step(once, PUBLISHED, cluster, batch_size=15_360, recompute="mlp")
    hours = PUBLISHED_RUNS["deepseek-v3"].tokens / step.tokens_per_s * 2048 / 3600
    assert step.workload.micro_batches == 120
    assert 2.664e6 < hours < 1.35 * 2.664e6


def test_what_deepseek_v3_sends_takes_about_as_long_as_it_computes(deepseek):
    """Section 3.2.1 has 1 : 1, and hides it; rows go to at most 4 nodes."""
    once, cluster = deepseek
    computing, _, expert, *_ = take_step(once, dataclasses.replace(PUBLISHED, overlap=False), cluster, batch_size=15_360).parts
    assert 0.5 < expert / computing < 1.5
    assert take_step(once, PUBLISHED, cluster, batch_size=15_360).parts.expert == 0
    assert take_step(once, PUBLISHED, cluster, batch_size=128).parts.expert > 0, "a single micro-batch has none beside it"


def test_rows_to_a_node_cross_once_where_the_router_keeps_to_few():
    cluster = Cluster(H100, 2048, network_of("h100", H100))
    few, any_ = (cluster.exchange_seconds(1e9, PUBLISHED, router) for router in ((8, 8, 4), (8, 1, 1)))
    assert any_ == pytest.approx(2 * few) == pytest.approx(1e9 * (56 / 64) / (63 / 64) / (LINK_SHARE * 50e9))
    assert cluster.exchange_seconds(1e9, Layout(data=8, expert=8), (8, 8, 4)) == pytest.approx(1e9 / (LINK_SHARE * 450e9))


def test_a_mixture_is_given_layouts_with_its_experts_spread():
    wide = known_model("mixtral-8x7b")
    once = Counted(dataclasses.replace(wide, layers=wide.layers[:4]), 1024)
    cluster = Cluster(H100, 8, network_of("h100", H100), ceilings=find_ceilings("h100")).for_model(once)
    steps = best_steps(once, cluster, batch_size=8)
    assert steps[0].fits and {step.layout.expert for step in steps} > {1}


def test_few_rows_for_each_expert_are_slower_products():
    """Where all devices have all experts, each of 128 has 64 rows of 1,024 tokens, and is read for them."""
    once = Counted(known_model("qwen3-30b-a3b"), 1024)
    cluster = Cluster(H100, 8, network_of("h100", H100), ceilings=find_ceilings("h100")).for_model(once)
    slow, fast = (cluster.slowdown(once, take_step(once, Layout(data=8, expert=e), cluster, batch_size=8).workload) for e in (1, 8))
    assert slow > 1.5 * fast and 1 <= fast < 1.5
