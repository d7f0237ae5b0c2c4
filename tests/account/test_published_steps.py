"""What is predicted of training steps that others measured, on devices that are not here, without a number fitted to them."""

import statistics

import pytest

from groundup.account.cluster import Step
from groundup.account.published_steps import PublishedStep, published_steps

Pair = tuple[PublishedStep, Step]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    some = (published for published in published_steps() if published.devices <= 128)  # all of them stand in docs/accounting.md
    return [(published, published.predicted()) for published in some]


def test_seconds_come_near_those_measured(pairs: list[Pair]):
    errors = [abs(step.seconds / published.seconds - 1) for published, step in pairs]
    assert len(errors) >= 12 and statistics.median(errors) < 0.2 and max(errors) < 0.35


def test_memory_comes_near_that_held(pairs: list[Pair]):
    ratios = [step.n_bytes / 2**30 / published.gibibytes for published, step in pairs if published.gibibytes]
    assert len(ratios) == 4 and all(0.85 < ratio < 1.05 for ratio in ratios)  # the allocator has more than is live


def test_what_recomputes_less_is_faster_and_holds_more(pairs: list[Pair]):
    both = {
        (published.name, published.recompute): step
        for published, step in pairs
        if published.name.startswith("GPT") and published.layout.data == 1
    }
    for name in ("GPT 22B", "GPT 175B"):
        whole, selective = both[name, "layers"], both[name, "attention"]
        assert selective.seconds < whole.seconds and selective.n_bytes > whole.n_bytes


def test_the_layouts_are_those_of_so_many_devices(pairs: list[Pair]):
    for published, step in pairs:
        assert published.layout.devices == published.devices
        assert step.tokens == published.sequences * published.seq_len
