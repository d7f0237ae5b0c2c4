"""What devices hold and send, against the figures of the papers that introduced them, and against sums by hand."""

import dataclasses
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_shapes import configs, uniform

from groundup.account import cost
from groundup.account.activations import Graph, layer_activation_bytes
from groundup.account.execution import GPU
from groundup.account.layout import Layout
from groundup.account.spread import FP32_ADAMW, MIXED_ADAMW, Counted, Spread, state_bytes
from groundup.account.workload import Training
from groundup.config import Attention, Dense, Layer, Norm

PAPER = Graph(fused_attention=False, dropout=True)
SMALL = uniform(1000, 64, 6, (4, 2, 16), 128)


counted = functools.lru_cache(maxsize=64)(Counted)


def spread(config, layout, m=1, *, micro_batch=1, recompute="none", seq_len=32, precision="bf16"):
    """A step of m micro-batches."""
    run = dataclasses.replace(GPU, recompute=recompute, precision=precision)
    return Spread(counted(config, seq_len), Training(seq_len, micro_batch, m, run=run, matrices="adamw", layout=layout))


def gpt_layer(d_model, n_heads):
    """A layer as Korthikanti et al. 2022 have it: as many kv heads as heads, GELU, four times as wide."""
    return Layer(Attention(n_heads, n_heads, d_model // n_heads, rotary=None), Dense(4 * d_model, "gelu"), Norm("layer", bias=True))


def test_adamw_takes_sixteen_bytes_a_parameter_however_they_are_divided():
    for state in (MIXED_ADAMW, FP32_ADAMW):
        assert sum(state_bytes(1, state=state).values()) == 16
    assert 8 * 80e9 / sum(state_bytes(1).values()) == 40e9, "8 x 80 GB hold 40B parameters"


def test_the_first_figure_of_zero():
    """7.5B parameters on 64 devices: 120, 31.4, 16.6 and 1.9 GB (Rajbhandari et al. 2020, figure 1)."""
    found = [sum(state_bytes(7.5e9, zero=zero, data=64).values()) / 1e9 for zero in range(4)]
    assert [f"{gb:.1f}" for gb in found] == ["120.0", "31.4", "16.6", "1.9"]


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 64), st.integers(1, 4), st.sampled_from([1, 2, 4]))
def test_activations_by_korthikantis_equations(a, head_dim, s, b, t):
    """With his letters: sbh(34 + 5as/h) alone, sbh(10 + 24/t + 5as/(ht)) over t devices, sbh/t(34 + 5as/h) with the sequence split too,
    34 sbh/t with attention computed again, 2 sbh/t with everything computed again."""
    a, h = 4 * a, 8 * a * head_dim
    layer = gpt_layer(h, a)

    def found(**options):
        return layer_activation_bytes(layer, h, seq_len=s, micro_batch=b, graph=PAPER, **options)

    assert found() == pytest.approx(s * b * h * (34 + 5 * a * s / h))
    assert found(tensor=t, sequence_parallel=False) == pytest.approx(s * b * h * (10 + 24 / t + 5 * a * s / (h * t)))
    assert found(tensor=t) == pytest.approx(s * b * h / t * (34 + 5 * a * s / h))
    assert found(tensor=t, recompute="selective") == pytest.approx(34 * s * b * h / t)
    assert found(tensor=t, recompute="layers") == pytest.approx(2 * s * b * h / t)


def test_a_modern_layer_by_hand():
    """No probabilities and no masks; GQA, SwiGLU: numbers of 2 bytes, and attention's log-sum-exp of 4."""
    d, h, k, e, f, s = 64, 4, 2, 16, 128, 10
    numbers = 2 * d + d + (h + 2 * k) * e + h * e + d + 3 * f
    assert layer_activation_bytes(SMALL.layers[0], d, seq_len=s) == s * (2 * numbers + 4 * h)


layouts = st.builds(
    Layout,
    data=st.sampled_from([1, 2, 8]),
    tensor=st.sampled_from([1, 2, 4]),
    pipeline=st.sampled_from([1, 2, 3, 4, 6]),
    zero=st.integers(0, 3),
)


@settings(max_examples=20)
@given(layouts)
def test_the_stages_hold_the_whole_model(layout):
    stages = counted(SMALL, 32).stages(layout, "none")
    assert [i for stage in stages for i in stage.layers] == list(range(6)) and len(stages) == layout.pipeline
    model = cost(SMALL, Training(1))
    vectors = sum(w.numbers for w in model.weights if w.kind == "vector")
    held = sum(sum(stage.traffic.held(layout)) for stage in stages)
    assert layout.tensor * held == pytest.approx(model.parameters + (layout.tensor - 1) * vectors)
    assert [stage.embedding for stage in stages] == [True] + [False] * (layout.pipeline - 1)
    assert sum(stage.flops for stage in stages) == cost(SMALL, Training(32)).tree.training_flops


def test_a_tied_head_is_held_twice_where_the_ends_are_apart():
    tied = dataclasses.replace(SMALL, tied=True)
    both = [sum(stage.traffic.split for stage in Counted(tied, 32).stages(Layout(pipeline=p), "none")) for p in (1, 2)]
    assert both[1] - both[0] == 1000 * 64


@settings(max_examples=30)
@given(layouts, st.integers(1, 16), st.integers(1, 4), st.sampled_from(["none", "mlp", "layers"]))
def test_more_splitting_never_takes_more_memory(layout, m, b, policy):
    def held(o, b=b):
        return spread(SMALL, o, m, micro_batch=b, recompute=policy).held.n_bytes

    if layout.zero < 2:  # stage 3 gathers weights that stage 2 has
        assert held(dataclasses.replace(layout, zero=layout.zero + 1)) <= held(layout)
    if layout.tensor < 4:
        assert held(dataclasses.replace(layout, tensor=2 * layout.tensor)) < held(layout)
    assert held(layout, b + 1) > held(layout)


def test_the_first_stage_holds_as_many_micro_batches_as_there_are_stages():
    """So that, with enough of them, a pipeline leaves activations as they were (Korthikanti et al. 2022, section 4.3)."""
    one = spread(SMALL, Layout(), 12).held.categories["activations"]
    layer = layer_activation_bytes(SMALL.layers[0], 64, seq_len=32)
    few, many = (spread(SMALL, Layout(pipeline=6), m) for m in (2, 12))
    assert many.stage_bytes(many.stages[0])["activations"] == 6 * layer + 2 * 32 * 64 and one == 6 * layer + 3 * 2 * 32 * 64
    assert few.stage_bytes(few.stages[0])["activations"] == 2 * layer + 2 * 32 * 64


def test_bytes_sent_by_zero():
    """2 volumes (d-1)/d up to stage 2, 3 in stage 3 (Rajbhandari et al. 2020, section 7), of 2 bytes a parameter."""
    volume = 2 * cost(SMALL, Training(1)).parameters * 7 / 8
    once, often = ([spread(SMALL, Layout(data=8, zero=zero), m).sent for zero in range(4)] for m in (1, 5))
    assert [sent.n_bytes / volume for sent in once] == pytest.approx([2, 2, 2, 3])
    assert [sent.data / volume for sent in often] == pytest.approx([2, 2, 6, 15]), "stages 2 and 3 cannot wait for the last micro-batch"
    assert not any(spread(SMALL, Layout()).sent)


def test_bytes_sent_within_layers_and_between_stages():
    """A layer gathers and scatters four times, the ends once each way."""
    b, s, d, m = 3, 32, 64, 5
    stream, ring = 2 * b * s * d, (4 - 1) / 4
    tensor = spread(SMALL, Layout(tensor=4), m, micro_batch=b).sent
    assert tensor.n_bytes == pytest.approx(m * (2 * 4 * 6 + 4) * ring * stream)
    full = spread(SMALL, Layout(tensor=4), m, micro_batch=b, recompute="layers").sent
    assert full.n_bytes == pytest.approx(m * (2 * 6 * 6 + 4) * ring * stream)
    ends, middle = (spread(SMALL, Layout(pipeline=p), m, micro_batch=b).sent for p in (2, 3))
    assert (ends.n_bytes, middle.pipeline) == (m * stream, 2 * m * stream)


def test_the_bubble_and_what_interleaving_makes_of_it():
    """The first of p interleaved stages keeps 1 + (p - 1)/(pv) of all layers' activations (Korthikanti et al. 2022, section 4.2.3)."""
    assert Layout(pipeline=8).bubble(64) == 7 / 64 and Layout().bubble(1) == 0
    runs = Layout(pipeline=8, interleave=4)
    assert runs.bubble(64) == 7 / 256
    assert runs.in_flight(0, 64) == pytest.approx(8 * (1 + 7 / (8 * 4)))
    assert [Layout(pipeline=8).in_flight(i, 64) for i in (0, 7)] == [8, 1] and Layout(pipeline=8).in_flight(0, 3) == 3
    once, twice = (spread(SMALL, Layout(pipeline=3, interleave=v), 6).sent.pipeline for v in (1, 2))
    assert twice == 2 * once


@given(configs(), st.integers(1, 32))
def test_any_model_has_a_memory_on_one_device(config, seq_len):
    held = spread(config, Layout(), seq_len=seq_len, precision="fp32").held
    assert held.n_bytes >= 16 * cost(config, Training(1)).parameters and all(n > 0 for n in held.categories.values())
