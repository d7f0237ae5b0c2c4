"""Steps on a cluster: time by hand, the search among layouts, and what is said when nothing fits."""

import dataclasses
import itertools

import pytest
from model_shapes import LLAMA_3_8B, SMOLLM2_135M, uniform

from groundup.account import cost, find_ceilings, find_device
from groundup.account.cluster import (
    KERNEL_SHARE,
    LINK_SHARE,
    Cluster,
    best_steps,
    devices_needed,
    fitting_steps,
    holds,
    network_of,
    possible_layouts,
    possible_steps,
    take_step,
)
from groundup.account.known import known_model
from groundup.account.layout import Layout
from groundup.account.spread import Counted
from groundup.account.workload import Training
from groundup.errors import UsageError

SMALL = uniform(1000, 64, 6, (4, 2, 16), 128)


def h100(devices):
    return Cluster(find_device("h100"), devices, network_of("h100", find_device("h100")))


def test_one_device_takes_its_flops_at_the_kernels_rate():
    step = take_step(Counted(SMOLLM2_135M, 2048), Layout(), h100(1), batch_size=16)
    flops = 16 * cost(SMOLLM2_135M, Training(2048)).tree.training_flops
    assert step.seconds == pytest.approx(flops / (989.4e12 * KERNEL_SHARE)) and step.mfu == pytest.approx(KERNEL_SHARE)


def test_recomputed_layers_are_a_forward_pass_more_and_no_model_flops():
    plain, again = (
        take_step(Counted(LLAMA_3_8B, 512), Layout(), h100(1), batch_size=1, recompute=policy).seconds for policy in ("none", "layers")
    )
    tree = cost(LLAMA_3_8B, Training(512)).tree
    layers = next(part for part in tree.parts if part.name == "layers")
    last = sum(c.forward_flops for _, c in layers.walk() if c.name.endswith("mlp.down"))  # backward does not need its result
    assert again / plain == pytest.approx((tree.training_flops + layers.forward_flops - last) / tree.training_flops)


def test_tensor_parallel_devices_wait_for_what_they_send():
    step = take_step(Counted(LLAMA_3_8B, 1024), Layout(tensor=8), h100(8), batch_size=4)
    sent = step.spread.sent
    assert sent.n_bytes == sent.tensor
    computing = 4 * cost(LLAMA_3_8B, Training(1024)).tree.training_flops / (8 * 989.4e12 * KERNEL_SHARE)
    assert step.seconds == pytest.approx(computing + sent.tensor / (LINK_SHARE * 450e9))


def test_a_bubble_costs_its_share():
    even = dataclasses.replace(SMALL, vocab_size=2)  # a head is work for the last stage alone
    one, eight = (take_step(Counted(even, 64), Layout(pipeline=2), h100(2), batch_size=m) for m in (1, 8))
    assert eight.tokens_per_s / one.tokens_per_s == pytest.approx(2 / (1 + 1 / 8))


def test_gradients_are_hidden_behind_backward_as_far_as_it_goes():
    step = take_step(Counted(LLAMA_3_8B, 64), Layout(data=8), h100(8), batch_size=8)
    sent = step.spread.sent
    computing = 8 * cost(LLAMA_3_8B, Training(64)).tree.training_flops / (8 * 989.4e12 * KERNEL_SHARE)
    sending = sent.data / (LINK_SHARE * 450e9)
    assert sending > computing * 2 / 3
    assert step.seconds == pytest.approx(computing / 3 + sending)
    long = take_step(Counted(LLAMA_3_8B, 8192), Layout(data=8), h100(8), batch_size=8)
    assert long.mfu == pytest.approx(KERNEL_SHARE)


def test_links_between_nodes():
    """A replica of 8 tensor parallel devices has one link for each device; of one device a node's eight links serve its eight replicas."""
    inside, between = LINK_SHARE * 450e9, LINK_SHARE * 50e9
    two = h100(16)
    assert two.link(8) == inside, "tensor parallel devices stand side by side"
    assert two.link(2, 8) == between, "replicas of eight devices each"
    assert two.link(16) == pytest.approx(8 * between), "replicas of one device"
    assert two.link(2, 4) == inside, "two replicas of four devices in a node"
    assert h100(8).link(8) == inside


def test_every_possible_layout_uses_all_devices_and_divides():
    found = list(possible_layouts(SMALL, h100(24)))
    assert {layout.devices for layout in found} == {24} and len(found) == len(set(found))
    for layout in found:
        layout.check(SMALL)
    assert {layout.pipeline for layout in found} == {1, 2, 3, 4, 6} and {layout.tensor for layout in found} == {1, 2, 4}
    for step in possible_steps(Counted(SMALL, 64), h100(24), 64):
        assert step.layout.data * step.workload.batch_size <= 64
        step.workload.check(SMALL)


def test_the_best_is_the_fastest_that_fits():
    """6B parameters on four devices: with everything on each, they do not fit."""
    counted = Counted(uniform(32_000, 6144, 10, (48, 8, 128), 24_576), 2048)
    steps = best_steps(counted, h100(4), batch_size=16)
    fitting = [step for step in steps if step.fits]
    assert steps[: len(fitting)] == fitting and 0 < len(fitting) < len(steps)
    every = [
        take_step(counted, layout, h100(4), batch_size=16, micro_batch=micro, recompute=policy)
        for layout, micro, policy in itertools.product(possible_layouts(counted.config, h100(4)), (1, 2, 4), ("none", "mlp", "layers"))
        if layout.data * micro <= 16
    ]
    assert steps[0].tokens_per_s >= 0.999 * max(step.tokens_per_s for step in every if step.fits)


def test_a_small_model_needs_no_sharding():
    first = best_steps(Counted(SMOLLM2_135M, 1024), h100(8), batch_size=64)[0]
    assert (first.layout.tensor, first.layout.pipeline, first.workload.run.recompute) == (1, 1, "none")


def test_what_does_not_fit_is_told_how_many_devices_would_do_and_they_do():
    config = known_model("llama-3.1-70b")
    counted = Counted(dataclasses.replace(config, layers=config.layers[:10]), 4096)
    with pytest.raises(UsageError, match=r"\d+ of them would hold it") as refused:
        fitting_steps(counted, h100(1), batch_size=8)
    enough = devices_needed(counted, h100(1))
    assert f"{enough} of them" in str(refused.value)
    assert holds(counted, h100(enough)) and not holds(counted, h100(enough // 2))
    assert fitting_steps(counted, h100(enough), batch_size=4 * enough)[0].fits


def test_forty_billion_parameters_are_what_eight_devices_hold_without_activations():
    """8 x 80 GB at 16 bytes: the bare sum says 40B; with activations and the driver's share 30B fit, and 45B do not."""
    assert holds(Counted(uniform(65_536, 7168, 56, (56, 8, 128), 19_120), 4096), h100(8))
    assert not holds(Counted(uniform(65_536, 8192, 64, (64, 8, 128), 21_840), 4096), h100(8))


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="--devices 0"):
        h100(0).check()
    with pytest.raises(UsageError, match="share of the peak"):
        dataclasses.replace(h100(1), kernel_share=0.0).check()
    with pytest.raises(UsageError, match="64 devices cannot share a step of 1 sequences"):
        best_steps(Counted(uniform(100, 8, 1, (1, 1, 8), 16), 16), h100(64), batch_size=1)


def test_the_roofline_says_what_a_device_attains():
    """Large products come nearer to the peak; a cluster with ceilings takes what they predict of one device."""
    cluster = dataclasses.replace(h100(1), ceilings=find_ceilings("h100"))
    small, large = (cluster.for_model(Counted(known_model(name), 2048)) for name in ("smollm2-135m", "llama-3.1-8b"))
    assert 0.05 < small.kernel_share < large.kernel_share < 0.7
    counted = Counted(known_model("smollm2-135m"), 2048)
    assert take_step(counted, Layout(), small, batch_size=8, micro_batch=4).mfu == pytest.approx(small.kernel_share)
    assert take_step(counted, Layout(), small, batch_size=8).mfu < small.kernel_share, "one sequence at a time is little for each product"
    assert h100(1).for_model(counted) == h100(1)


def test_networks_follow_the_devices_links():
    assert network_of("a100", find_device("a100")).between_bytes_per_s == 25e9
    assert network_of("h100", find_device("h100"))[1:3] == (450e9, 50e9)
    card = network_of("rtx4090", find_device("rtx4090"))
    assert card.inside_bytes_per_s == find_device("rtx4090").interconnect_bytes_per_s and card.between_bytes_per_s < 4e9
    with pytest.raises(UsageError, match="no links to others"):
        Cluster(find_device("m1"), 2, network_of("m1", find_device("m1"))).check()


def test_in_fp32_everything_that_is_kept_and_sent_has_four_bytes():
    half = take_step(Counted(SMALL, 64), Layout(data=2), h100(2), batch_size=2)
    full = take_step(Counted(SMALL, 64), Layout(data=2), dataclasses.replace(h100(2), precision="fp32"), batch_size=2)
    assert full.spread.sent.data == 2 * half.spread.sent.data
    assert full.spread.held.categories["weights"] == 2 * half.spread.held.categories["weights"]
    assert "master copies" not in full.spread.held.categories
