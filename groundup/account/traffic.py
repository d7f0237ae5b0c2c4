"""What devices send each other for a part of the model: numbers that no layout changes, and the bytes that a layout makes of them.

Everything is linear in the numbers, so that the bytes of a whole are the bytes of its parts, summed.

Symbols: B sequences of a micro-batch, T tokens of a sequence, D d_model, m micro-batches of a step; d, t and e devices that share data,
matrices and experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from groundup.account.execution import IDEAL
from groundup.account.layout import Layout
from groundup.account.workload import Training


class Traffic(NamedTuple):
    """Numbers: parameters whose gradients are summed, and rows of one sequence that are sent, forward and back."""

    split: int = 0
    """Parameters that tensor parallel devices share: matrices and tables."""
    whole: int = 0
    """Parameters that each of them holds: gains, biases, routers, projections to latents."""
    expert_split: int = 0
    """Parameters of experts that tensor parallel devices share."""
    expert_whole: int = 0
    """Parameters of experts that each of them holds."""
    exchanged: int = 0
    """Numbers that tensor parallel devices gather or reduce and scatter."""
    unrouted: int = 0
    """The same, but only where experts are not spread: those gather ``routed`` rows instead."""
    routed: int = 0
    """Numbers of rows that go to the experts and come back, those of one token to n_active of them."""
    handed: int = 0
    """Numbers of rows that go to another stage of the pipeline."""

    def times(self, passes: int) -> Traffic:
        """Rows that are sent so many times; parameters stay."""
        return self._replace(exchanged=passes * self.exchanged, unrouted=passes * self.unrouted, routed=passes * self.routed)

    def held(self, layout: Layout) -> tuple[float, float]:
        """Parameters on one device: of experts, and all others."""
        experts = (self.expert_split / layout.tensor + self.expert_whole) / layout.expert
        return experts, self.split / layout.tensor + self.whole


NO_TRAFFIC = Traffic()


def total(found: Iterable[Traffic]) -> Traffic:
    """All of it together."""
    return Traffic(*map(sum, zip(NO_TRAFFIC, *found, strict=True)))


class Sent(NamedTuple):
    """Bytes that a device sends in a step, and receives as many, by the devices that it sends them to."""

    data: float = 0.0
    """Gradients and weights, to those that hold the same parameters."""
    expert_data: float = 0.0
    """Gradients and weights of experts, to those that hold the same ones."""
    tensor: float = 0.0
    """Activations within layers, to those that share matrices."""
    expert: float = 0.0
    """Tokens' rows, to those that share the experts, and back."""
    pipeline: float = 0.0
    """Activations and their gradients, to the stages before and after."""

    @property
    def n_bytes(self) -> float:
        """All of it."""
        return sum(self)


def sent(traffic: Traffic, workload: Training) -> Sent:
    """Bytes in a step under the workload's layout; a ring moves (n - 1)/n of a tensor to gather or to reduce-scatter it, 2 (n - 1)/n to do
    both.

    Data: gradients reduced, 2 (d-1)/d of their bytes once; ZeRO-1 and 2 gather weights instead of gradients, the same volume, but ZeRO-2
    reduces after each micro-batch; ZeRO-3 gathers weights before forward and before backward of each micro-batch and reduces its
    gradients, 3 volumes (Rajbhandari et al. 2020, section 7); of experts, among the d / e devices with the same ones. Tensor: a layer
    gathers and reduce-scatters B T D twice forward and twice backward (Korthikanti et al. 2022, section 4.2.2; as all-reduces, Shoeybi et
    al. 2019, section 3), again forward if it is computed again; the embedding's rows are scattered once, the head's input gathered once.
    Expert: each token's row to its n_active experts and back, forward and backward, of which (e - 1)/e leave the device (Lepikhin et al.
    2021, section 3.2); where tensor parallel devices share an expert, each sends its part of the sequence, and they gather what arrived.
    Pipeline: B T D to the next stage and its gradient back, v times.
    """
    o, m = workload.layout or Layout(), workload.micro_batches
    number_bytes = (workload.run or IDEAL).number_bytes
    times = number_bytes * {0: 2, 1: 2, 2: m + 1, 3: 3 * m}[o.zero]
    experts, others = traffic.held(o)
    rows = number_bytes * m * workload.batch_size
    within = traffic.exchanged + (traffic.routed if o.expert > 1 else traffic.unrouted)
    return Sent(
        times * _ring(o.data) * others,
        times * _ring(o.data // o.expert) * experts,
        rows * _ring(o.tensor) * within,
        rows * _ring(o.expert) * traffic.routed / o.tensor,
        rows * traffic.handed / o.tensor,
    )


def _ring(n: int) -> float:
    return (n - 1) / n
