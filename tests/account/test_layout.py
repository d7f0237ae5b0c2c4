"""Layouts as data: how they read, and what is refused."""

import dataclasses
import itertools

import pytest
from model_shapes import LLAMA_3_8B, uniform

from groundup.account.known import known_model
from groundup.account.layout import Layout, crossings, divides, parse_layout, runs
from groundup.account.workload import Training
from groundup.config import LatentAttention, Layer, LinearMixer
from groundup.errors import UsageError

MIXTRAL, DEEPSEEK = known_model("mixtral-8x7b"), known_model("deepseek-v3")


@pytest.mark.parametrize(
    "config, layout, names",
    [
        (LLAMA_3_8B, Layout(data=0), "data must be at least 1, not 0"),
        (LLAMA_3_8B, Layout(zero=4), "stages 0 to 3"),
        (LLAMA_3_8B, Layout(pipeline=33), "pipeline 33 is more stages than the model's 32 layers"),
        (LLAMA_3_8B, Layout(pipeline=8, interleave=3), "interleave 3 over pipeline 8 .* 32 layers; choose 1, 2 or 4"),
        (LLAMA_3_8B, Layout(interleave=2), "interleave 2 needs stages"),
        (LLAMA_3_8B, Layout(tensor=3), "tensor 3 does not divide the query heads 32; choose 1, 2, 4, 8, 16 or 32"),
        (LLAMA_3_8B, Layout(tensor=64), "query heads 32"),
        (LLAMA_3_8B, Layout(data=8, expert=2), "the model has no experts"),
        (MIXTRAL, Layout(data=3, expert=2), "do not divide data 3; choose 1"),
        (MIXTRAL, Layout(data=16, expert=16), "expert 16 does not divide the n_experts 8; choose 1, 2, 4 or 8"),
        (MIXTRAL, Layout(data=8, overlap=True), "overlap hides what is sent to experts"),
        (DEEPSEEK, Layout(tensor=3), "tensor 3 does not divide the query heads 128"),
    ],
)
def test_layouts_that_cannot_be_are_refused(config, layout, names):
    with pytest.raises(UsageError, match=names):
        layout.check(config)
    with pytest.raises(UsageError, match=names):
        Training(16, layout=layout).check(config)


def test_what_a_refusal_proposes_works():
    for expert in (1, 2, 4, 8):
        Layout(data=16, expert=expert).check(MIXTRAL)
    assert [t for t in range(1, 65) if divides(LLAMA_3_8B, t)] == [1, 2, 4, 8, 16, 32]


def test_kv_heads_are_split_or_copied():
    three = uniform(100, 48, 2, (12, 3, 4), 48)
    Layout(tensor=3).check(three)
    Layout(tensor=12).check(three)
    with pytest.raises(UsageError, match="kv heads 3"):
        Layout(tensor=2).check(three)


def test_heads_of_other_mixers_are_split_too():
    def swapped(mixer):
        config = uniform(100, 48, 2, (12, 12, 4), 48)
        return dataclasses.replace(config, layers=tuple(Layer(mixer, layer.mlp) for layer in config.layers))

    Layout(tensor=4).check(swapped(LatentAttention(4, 4, 2, 4, kv_rank=3)))  # latents are not split: any width goes
    with pytest.raises(UsageError, match="key heads of a linear mixer 2"):
        Layout(tensor=4).check(swapped(LinearMixer(4, 2, 4, 4)))


@pytest.mark.parametrize(
    "text, layout",
    [
        ("one device", Layout()),
        ("data 4 (ZeRO-1) x tensor 2", Layout(data=4, zero=1, tensor=2)),
        ("pipeline 4 (interleaved 2)", Layout(pipeline=4, interleave=2)),
        ("data 128 (ZeRO-1, expert 64 overlapped) x pipeline 16", Layout(128, 1, 16, 1, 1, 64, True)),
        ("data 8 (expert 8) x tensor 2", Layout(8, 2, expert=8)),
    ],
)
def test_a_layout_reads_as_people_write_it(text, layout):
    assert str(layout) == text and parse_layout(text) == layout


@pytest.mark.parametrize(
    "text",
    ["data 8 zero 1 tensor 4 pipeline 2", "dp8 tp4 pp2 zero1", "tensor=4, pipeline=2, data=8, ZeRO=1", "DP 8 x TP 4 x PP 2 zero-1"],
)
def test_layouts_are_read_in_others_words(text):
    assert parse_layout(text) == Layout(8, 4, 2, zero=1)


@pytest.mark.parametrize("text", ["dp16 ep8 overlap", "data 16 overlap expert 8", "ep 8, overlapped, dp 16", "dp16 ep8 overlap=1"])
def test_overlap_needs_no_number(text):
    assert parse_layout(text) == Layout(16, expert=8, overlap=True)


@pytest.mark.parametrize(
    "text, says",
    [("", "empty"), ("data", "whole number"), ("data 2.5", "whole number"), ("rows 3", "'rows' is no part"), ("dp2 dp2", "twice")],
)
def test_what_is_no_layout_is_refused(text, says):
    with pytest.raises(UsageError, match=says):
        parse_layout(text)


def test_devices_are_counted_once():
    assert all(Layout(*x).devices == x[0] * x[1] * x[2] for x in itertools.product((1, 2), (1, 4), (1, 3)))
    assert Layout(data=8, expert=4).devices == 8, "experts are spread over data parallel devices"


def test_runs_cover_the_layers_and_every_border_is_crossed_twice():
    assert runs(10, 4, 1) == (range(3), range(3, 6), range(6, 8), range(8, 10))
    for pipeline, interleave in ((1, 1), (2, 1), (2, 3), (4, 2)):
        assert [i for run in runs(24, pipeline, interleave) for i in run] == list(range(24))
        assert sum(crossings(24, pipeline, interleave)) == 2 * (pipeline * interleave - 1)
