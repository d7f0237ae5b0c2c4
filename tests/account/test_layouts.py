"""Layouts against the figures of the papers that introduced them, and against sums by hand."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import LLAMA_3_8B, configs, uniform

from groundup.account import cost
from groundup.account.layouts import FP32_ADAMW, MIXED_ADAMW, Counted, Graph, Layout, Spread, layer_activation_bytes, state_bytes
from groundup.account.workload import Training
from groundup.config import Attention, Dense, Layer, Norm
from groundup.errors import UsageError

PAPER = Graph(fused_attention=False, dropout=True, loss_chunk_bytes=None)
SMALL = uniform(1000, 64, 6, (4, 2, 16), 128)


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
    micro_batch=st.integers(1, 4),
    recompute=st.sampled_from(["none", "layers"]),
)


@given(layouts)
def test_the_stages_hold_the_whole_model(layout):
    shares = list(Spread(Counted(SMALL, 32), layout, 8).shares())
    assert [i for share in shares for i in share.layers] == list(range(6)) and len(shares) == layout.pipeline
    counted = cost(SMALL, Training(1))
    vectors = sum(w.numbers for w in counted.weights if w.kind == "vector")
    assert layout.tensor * sum(share.parameters for share in shares) == pytest.approx(counted.parameters + (layout.tensor - 1) * vectors)
    assert [share.embedding for share in shares] == [True] + [False] * (layout.pipeline - 1)


def test_a_tied_head_is_held_twice_where_the_ends_are_apart():
    tied = dataclasses.replace(SMALL, tied=True)
    both = [sum(share.parameters for share in Spread(Counted(tied, 32), Layout(pipeline=p), 8).shares()) for p in (1, 2)]
    assert both[1] - both[0] == 1000 * 64


@given(layouts, st.integers(1, 16))
def test_more_splitting_never_takes_more_memory(layout, m):
    held = Spread(Counted(SMALL, 32), layout, m).held.n_bytes
    if layout.zero < 2:  # stage 3 gathers weights that stage 2 has
        more = dataclasses.replace(layout, zero=layout.zero + 1)
        assert Spread(Counted(SMALL, 32), more, m).held.n_bytes <= held
    if layout.tensor < 4:
        assert Spread(Counted(SMALL, 32), dataclasses.replace(layout, tensor=2 * layout.tensor), m).held.n_bytes < held
    more = dataclasses.replace(layout, micro_batch=layout.micro_batch + 1)
    assert Spread(Counted(SMALL, 32), more, m).held.n_bytes > held


def test_the_first_stage_holds_as_many_micro_batches_as_there_are_stages():
    """So that, with enough of them, a pipeline leaves activations as they were (Korthikanti et al. 2022, section 4.3)."""
    one = Spread(Counted(SMALL, 32), Layout(), 12).held.categories["activations"]
    first = Spread(Counted(SMALL, 32), Layout(pipeline=6), 12)
    layer = layer_activation_bytes(SMALL.layers[0], 64, seq_len=32)
    kept = first.stage_bytes(0, next(first.shares()))["activations"]
    assert kept == 6 * layer + 2 * 32 * 64 and one == 6 * layer + 3 * 2 * 32 * 64
    few = Spread(Counted(SMALL, 32), Layout(pipeline=6), 2)
    assert few.stage_bytes(0, next(few.shares()))["activations"] == 2 * layer + 2 * 32 * 64


def test_bytes_sent_by_zero():
    """2 volumes (d-1)/d up to stage 2, 3 in stage 3 (Rajbhandari et al. 2020, section 7), of 2 bytes a parameter."""
    volume = 2 * cost(SMALL, Training(1)).parameters * 7 / 8
    sent = [Spread(Counted(SMALL, 32), Layout(data=8, zero=zero), 1).sent for zero in range(4)]
    assert [sum(x.n_bytes for x in found) / volume for found in sent] == pytest.approx([2, 2, 2, 3])
    again = [Spread(Counted(SMALL, 32), Layout(data=8, zero=zero), 5).sent[0].n_bytes / volume for zero in range(4)]
    assert again == pytest.approx([2, 2, 6, 15]), "five micro-batches: stages 2 and 3 cannot wait for the last"
    assert Spread(Counted(SMALL, 32), Layout(), 1).sent == ()


def test_bytes_sent_within_layers_and_between_stages():
    b, s, d, m = 3, 32, 64, 5
    stream, ring = 2 * b * s * d, 2 * (4 - 1) / 4
    (tensor,) = Spread(Counted(SMALL, s), Layout(tensor=4, micro_batch=b), m).sent
    assert tensor.n_bytes == pytest.approx(m * (4 * 6 + 4) * ring * stream)
    (full,) = Spread(Counted(SMALL, s), Layout(tensor=4, micro_batch=b, recompute="layers"), m).sent
    assert full.n_bytes == pytest.approx(m * (6 * 6 + 4) * ring * stream)
    (between,) = Spread(Counted(SMALL, s), Layout(pipeline=2, micro_batch=b), m).sent
    assert between.group == "pipeline" and between.n_bytes == 2 * m * stream


def test_the_bubble_and_what_interleaving_makes_of_it():
    """The first of p interleaved stages keeps 1 + (p - 1)/(pv) of all layers' activations (Korthikanti et al. 2022, section 4.2.3)."""
    assert Layout(pipeline=8).bubble(64) == 7 / 64 and Layout().bubble(1) == 0
    runs = Layout(pipeline=8, interleave=4)
    assert runs.bubble(64) == 7 / 256
    assert runs.in_flight(0, 64) == pytest.approx(8 * (1 + 7 / (8 * 4)))
    assert [Layout(pipeline=8).in_flight(i, 64) for i in (0, 7)] == [8, 1] and Layout(pipeline=8).in_flight(0, 3) == 3
    once, twice = (Spread(Counted(SMALL, 32), Layout(pipeline=3, interleave=v), 6).sent[0].n_bytes for v in (1, 2))
    assert twice == 2 * once


def test_selective_recomputation_spares_the_probabilities_of_all_layers_but_one():
    config = dataclasses.replace(SMALL, layers=(gpt_layer(64, 4),) * 6)
    plain, again = (
        Spread(Counted(config, 32), Layout(recompute=policy), 1, graph=Graph(fused_attention=False)).held
        for policy in ("none", "selective")
    )
    assert plain.n_bytes - again.n_bytes == 5 * 32 * 2 * 4 * 32


@given(configs(), st.integers(1, 32))
def test_any_model_has_a_memory_on_one_device(config, seq_len):
    held = Spread(Counted(config, seq_len), Layout(), 1, state=FP32_ADAMW).held
    assert held.n_bytes >= 16 * cost(config, Training(1)).parameters and all(n > 0 for n in held.categories.values())


@pytest.mark.parametrize(
    "layout, names",
    [
        (Layout(data=0), "data"),
        (Layout(micro_batch=0), "micro_batch"),
        (Layout(zero=4), "stages 0 to 3"),
        (Layout(pipeline=33), "33 pipeline stages"),
        (Layout(pipeline=8, interleave=3), "8 pipeline stages of 3 runs"),
        (Layout(interleave=2), "1 pipeline stages of 2 runs"),
        (Layout(tensor=3), "query heads 32"),
        (Layout(tensor=64), "query heads 32"),
    ],
)
def test_layouts_that_cannot_be_are_refused(layout, names):
    with pytest.raises(UsageError, match=names):
        layout.check(LLAMA_3_8B)


def test_kv_heads_are_split_or_copied():
    three = uniform(100, 48, 2, (12, 3, 4), 48)
    Layout(tensor=3).check(three)
    Layout(tensor=12).check(three)
    with pytest.raises(UsageError, match="kv heads 3"):
        Layout(tensor=2).check(three)


def test_a_layout_reads_as_people_write_it():
    assert [str(Layout()), str(Layout(data=4, zero=1, tensor=2)), str(Layout(pipeline=2))] == [
        "one device",
        "data 4 (ZeRO-1) x tensor 2",
        "pipeline 2",
    ]
    assert all(Layout(*x).devices == x[0] * x[1] * x[2] for x in itertools.product((1, 2), (1, 4), (1, 3)))
