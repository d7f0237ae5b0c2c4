"""What attention executes between its projections: norm and rotation of heads, then scores, softmax and weighted values.

A fused kernel (flash attention, Dao et al. 2022) reads queries, keys and values once and writes the output: scores never reach memory, and
backward computes them again. The blocked form keeps the probabilities: 128 queries at a time against the keys that they see.

Symbols: T tokens of one sequence, H heads, K kv heads, G = H / K, E head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from groundup.account.execution import Execution
from groundup.account.work import Pass, Product, StepWork, Work, norm
from groundup.config import Attention, Norm


def key_blocks(seq_len: int, window: int | None, block: int | None) -> list[tuple[int, int]]:
    """(queries, keys) of each block of an attention: queries [i, i + block) meet max(0, i - window + 1) to the last of them.

    One block of all queries and all keys where ``block`` is None.
    """
    if block is None:
        return [(seq_len, seq_len)]
    starts = range(0, seq_len, block)
    ends = [min(start + block, seq_len) for start in starts]
    return [(end - start, end - (0 if window is None else max(0, start - window + 1))) for start, end in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class AttentionWork:
    """One layer's attention on one sequence."""

    config: Attention
    """The layer's."""
    t: int
    """T."""
    pairs: int
    """Query-key pairs that the mask lets through."""
    run: Execution
    """How it is computed."""
    d_model: int
    """D."""

    @property
    def q(self) -> int:
        """Numbers of all queries, T H E."""
        return self.t * self.config.n_heads * self.config.head_dim

    @property
    def kv(self) -> int:
        """Numbers of all keys, T K E."""
        return self.t * self.config.n_kv_heads * self.config.head_dim

    @property
    def in_one_loop(self) -> bool:
        """Whether the processor's loop does norm, rotation and layout of the heads at once (see ``kernels.fused.attention``)."""
        a, run = self.config, self.run
        plain_norm = a.qk_norm is not None and a.qk_norm.kind == "rms" and not a.qk_norm.weight
        return plain_norm and a.rotary is not None and run.attention_block is not None and run.precision == "fp32" and not run.compiled

    def norm(self, spec: Norm, heads: int) -> StepWork:
        """The norm of query or key heads; nothing where ``heads`` has it."""
        return StepWork() if self.in_one_loop else norm(spec, self.t * heads, self.config.head_dim, self.run)

    def heads(self) -> StepWork:
        """Rotation, offset keys and layout; weights joined for one product, and their gradients parted."""
        width = self.q + 2 * self.kv
        joined = 0 if self.run.compiled else 2 * self.d_model * width // self.t  # read and written
        if self.in_one_loop:
            forward, backward = (Pass(times * width, width, joined, loop="heads", looped=width, calls=8) for times in (1, 2))
            return StepWork((forward,), (backward,))
        turned = self.q + self.kv
        if self.run.compiled:
            one = (Pass(turned, turned),)
            return StepWork(one, one) if self.config.rotary is not None else StepWork()
        forward, backward = [Pass(masters=joined)], [Pass(2 * width, 2 * width, joined, calls=4)]
        if self.run.attention_block is not None:  # queries scaled, keys and values laid out by heads
            forward.append(Pass(width, width, calls=3))
        if self.config.rotary is not None:  # four products of halves, a difference and a sum of them, then the halves joined
            forward.append(Pass(5 * turned, 4 * turned, loop="rotation", looped=turned, calls=14))
            backward.append(Pass(6 * turned, 5 * turned, loop="rotation", looped=turned, calls=16))
        if self.config.key_offset:
            forward.append(Pass(3 * self.kv, 4 * self.kv, calls=6))
            backward.append(Pass(3 * self.kv, 3 * self.kv, calls=8))
        return StepWork(tuple(forward), tuple(backward))

    def value_embedding(self, vocab_size: int) -> StepWork:
        """Rows looked up, times their gate, added to the values; back through all three, and the table's gradient."""
        kv = self.kv
        table = vocab_size * self.config.n_kv_heads * self.config.head_dim
        if self.run.compiled:
            return StepWork((Pass(2 * kv, kv),), (Pass(3 * kv, 2 * kv, table),))
        joined = self.q + 2 * kv if self.in_one_loop else 0
        return StepWork((Pass(4 * kv + joined, 3 * kv + joined, calls=6),), (Pass(6 * kv + joined, 4 * kv + joined, table, calls=9),))

    def scores(self) -> StepWork:
        """Q K^T and its softmax; back, dQ = dS K and dK = dS^T Q, in a fused kernel after the scores once more."""
        if self.run.attention_block is None:
            flops = 2 * self.config.n_heads * self.config.head_dim * self.pairs
            taken: dict[str, Any] = {"loop": "exponentials", "looped": self.config.n_heads * self.pairs}
            seen = Pass(self.q + self.kv, 0, flops=flops, **taken)
            back = Pass(self.q + self.kv, self.q + self.kv, flops=3 * flops, **taken)
            return StepWork((seen,), (back,))
        a, (groups, kv, e) = self.config, self._sizes()
        forward: list[Work] = []
        backward: list[Work] = [Pass(0, self.kv)]  # cleared, for blocks add to it
        for n, s in key_blocks(self.t, a.window, self.run.attention_block):
            scored = a.n_heads * n * s
            forward.append(Product(groups * n, e, s, kv, "count"))
            if self.in_one_loop:
                taken = min(scored, a.n_heads * self.pairs * n // self.t)
                forward.append(Pass(scored, scored, loop="exponentials", looped=taken, calls=3))
            else:  # the mask of a sequence is made and added to the scores of all heads
                forward.append(Pass(scored + 2 * n * s, scored + 2 * n * s, calls=11))
                forward.append(Pass(scored, scored, loop="softmax", looped=scored))
            backward += [Product(groups * n, s, e, kv, "count"), Product(s, groups * n, e, kv, "count")]
            backward += [Pass(2 * scored, scored), Pass(2 * kv * s * e + a.n_heads * n * e, kv * s * e + a.n_heads * n * e, calls=2)]
        return StepWork(tuple(forward), tuple(backward))

    def weighted_values(self) -> StepWork:
        """P V; back, dP = dO V^T and dV = P^T dO."""
        if self.run.attention_block is None:
            flops = 2 * self.config.n_heads * self.config.head_dim * self.pairs
            return StepWork((Pass(self.kv, self.q, flops=flops),), (Pass(2 * self.q + self.kv, self.kv, flops=2 * flops),))
        a, (groups, kv, e) = self.config, self._sizes()
        forward: list[Work] = []
        backward: list[Work] = [Pass(0, self.kv)]
        for n, s in key_blocks(self.t, a.window, self.run.attention_block):
            forward += [Product(groups * n, s, e, kv, "count"), Pass(a.n_heads * n * e, a.n_heads * n * e)]
            backward += [Product(groups * n, e, s, kv, "count"), Product(s, groups * n, e, kv, "count")]
            backward.append(Pass(2 * kv * s * e + 2 * a.n_heads * n * e, kv * s * e + 2 * a.n_heads * n * e, calls=3))
        return StepWork(tuple(forward), tuple(backward))

    def _sizes(self) -> tuple[int, int, int]:
        a = self.config
        return a.n_heads // a.n_kv_heads, a.n_kv_heads, a.head_dim
