"""What a part of the model executes: matrix products and passes over memory, each with the numbers it reads and writes.

Sizes are for one sequence; ``of_batch`` gives those of a micro-batch. A product of the rows [T, k] with a weight [k, n] has more rows in a
larger batch, its weight's gradient a longer sum, and attention more products: which dim ``grows`` is all that batches need to know.

Some passes take longer than their bytes do, for what they compute between reading and writing: those name the ``Loop`` that they are, and
how many numbers go through it.

Symbols: T tokens of one sequence, D d_model, H heads, K kv heads, E head_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from groundup.account.execution import Execution
from groundup.config import Dense, HashEmbedding, Norm

MASTER_BYTES = 4
"""Weights, gradients and moments are fp32 whatever the activations are."""

Loop = Literal["exponentials", "softmax", "heads", "rotation", "norm"]
"""What is measured in numbers a second: exponentials of logits; a softmax of scores by PyTorch; norm and rotation of heads in the
processor's loop; rotation by PyTorch's operations; RMSNorm by them. All but the first two forward and backward at one mean rate."""


@dataclass(frozen=True)
class Product:
    """``count`` products [m, k] x [k, n] in one call: 2 m k n FLOPs each, m k + k n numbers read and m n written."""

    m: int
    """Rows of the left factor."""
    k: int
    """Length of the sums."""
    n: int
    """Columns of the right factor."""
    count: int = 1
    """Products in a call."""
    grows: Literal["m", "k", "count"] = "m"
    """What a batch multiplies."""
    chunk: int | None = None
    """At most so much of the dim that grows in a call, or all of it."""
    calls: int = 1
    """Calls that share out the dim that grows."""

    def of_batch(self, batch_size: int) -> Product:
        """The same for a micro-batch of so many sequences."""
        whole = batch_size * getattr(self, self.grows)
        return replace(self, **{self.grows: whole}, calls=-(-whole // self.chunk) if self.chunk else 1)

    @property
    def flops(self) -> int:
        """2 m k n of all products."""
        return 2 * self.m * self.k * self.n * self.count

    @property
    def smallest_dim(self) -> float:
        """The smallest of m, k and n in one call."""
        dims = {"m": self.m, "k": self.k, "n": self.n}
        return min(size / self.calls if name == self.grows else size for name, size in dims.items())

    def bytes(self, number_bytes: float) -> float:
        """Bytes read and written, each tensor once a call; what has not the dim that grows takes part in every call."""
        left, right, result = self.m * self.k, self.k * self.n, self.m * self.n
        if self.grows == "m":
            right *= self.calls
        elif self.grows == "k":
            result *= self.calls
        return (left + right + result) * self.count * number_bytes


@dataclass(frozen=True)
class Pass:
    """Numbers read and written by ``calls`` operations that do little else, or by one fused kernel that has products inside."""

    read: int = 0
    """Numbers read."""
    written: int = 0
    """Numbers written."""
    masters: int = 0
    """Numbers of fp32 read or written once a micro-batch, however large: weights and their gradients."""
    loop: Loop | None = None
    """What it is where that may take longer than its bytes."""
    looped: int = 0
    """Numbers that go through that loop."""
    flops: int = 0
    """FLOPs of the products inside."""
    calls: int = 1
    """Operations dispatched."""
    chunks_of: tuple[int, int] | None = None
    """(rows of a sequence, rows of a chunk): masters and calls count once for each chunk of the micro-batch's rows."""

    def of_batch(self, batch_size: int) -> Pass:
        """The same for a micro-batch of so many sequences."""
        grown = {name: batch_size * getattr(self, name) for name in ("read", "written", "looped", "flops")}
        if self.chunks_of is not None:
            chunks = -(-batch_size * self.chunks_of[0] // self.chunks_of[1])
            grown |= {"masters": chunks * self.masters, "calls": chunks * self.calls}
        return replace(self, **grown, chunks_of=None)

    def bytes(self, number_bytes: float) -> float:
        """Bytes read and written."""
        return (self.read + self.written) * number_bytes + self.masters * MASTER_BYTES


Work = Product | Pass


class StepWork(NamedTuple):
    """What one training step executes of a component."""

    forward: tuple[Work, ...] = ()
    """Going forward."""
    backward: tuple[Work, ...] = ()
    """Going back."""


NOTHING = StepWork()


def again(work: StepWork) -> StepWork:
    """The same where backward first goes forward once more."""
    return StepWork(work.forward, (*work.forward, *work.backward))


def moved_bytes(works: Iterable[Work], batch_size: int, number_bytes: float) -> float:
    """Bytes that a micro-batch reads and writes in these."""
    return sum(work.of_batch(batch_size).bytes(number_bytes) for work in works)


def linear(t: int, n_in: int, n_out: int, *, bias: bool, input_gradient: bool = True, chunk: int | None = None) -> StepWork:
    """X [T, in] W^T, then dX = dY W and dW = dY^T X."""
    forward: tuple[Work, ...] = (Product(t, n_in, n_out, chunk=chunk),)
    backward: tuple[Work, ...] = (Product(n_out, t, n_in, grows="k", chunk=chunk),)
    if input_gradient:
        backward = (Product(t, n_out, n_in, chunk=chunk), *backward)
    if not bias:
        return StepWork(forward, backward)
    return StepWork((*forward, Pass(t * n_out, t * n_out, n_out)), (*backward, Pass(t * n_out, 0, n_out)))


def _in_fp32(n: int, read: int, written: int, calls: int, run: Execution) -> Pass:
    """A chain of operations over n numbers that computes in fp32, with the casts before and after it where activations have two bytes."""
    if run.number_bytes == MASTER_BYTES:
        return Pass(read * n, written * n, calls=calls)
    return Pass((2 * read + 3) * n, (2 * written + 3) * n, calls=calls + 2)


def norm(spec: Norm, rows: int, dim: int, run: Execution) -> StepWork:
    """A norm over [rows, dim]: one pass each way where it is fused, then one for the gain and the bias; else its chain of operations."""
    n, gain = rows * dim, spec.weight + spec.bias
    if run.compiled or (run.fused_norm and spec.kind == "rms" and run.number_bytes == MASTER_BYTES):
        forward, backward = Pass(n, n), Pass(2 * n, n)
    elif run.fused_norm and spec.kind == "rms":  # length of the row, product; product, mean, sum, product (see ``kernels.elementwise``)
        forward, backward = Pass(2 * n, n, loop="norm", looped=n, calls=7), Pass(6 * n, 3 * n, loop="norm", looped=n, calls=4)
    elif spec.kind == "rms":  # square, mean, root, product; and their gradients
        forward, backward = _in_fp32(n, 3, 2, 5, run), _in_fp32(n, 7, 4, 9, run)
    else:  # mean, difference, square, mean, root, product; and their gradients
        forward, backward = _in_fp32(n, 5, 3, 7, run), _in_fp32(n, 9, 6, 12, run)
    if not gain or run.compiled:
        return StepWork((forward,), (backward,))
    affine = (
        Pass(n * gain, n * gain, gain * dim, calls=gain),
        Pass((3 * spec.weight + spec.bias) * n, 2 * spec.weight * n, gain * dim, calls=2 * gain),
    )
    return StepWork((forward, affine[0]), (affine[1], backward))


class _Chain(NamedTuple):
    """A pointwise function as a chain of operations, in numbers for each number of its result."""

    inputs: int
    read: int
    written: int
    calls: int
    read_back: int
    written_back: int
    calls_back: int


_ACTIVATIONS = {
    "relu2": _Chain(1, 2, 2, 2, 3, 2, 2),
    "swiglu": _Chain(2, 5, 3, 3, 14, 8, 8),
    "gelu": _Chain(1, 10, 8, 8, 17, 11, 11),
    "geglu": _Chain(2, 12, 9, 9, 21, 13, 13),
    "clamped_swiglu": _Chain(2, 9, 7, 7, 15, 9, 9),
}
"""Operations of ``kernels.elementwise`` and ``model.functional``, counted."""


def activation(mlp: Dense, t: int, run: Execution) -> StepWork:
    """The MLP's pointwise function over [T, F]: fused, inputs in and result out, and back that and the gradient in."""
    n, chain = t * mlp.d_ff, _ACTIVATIONS[mlp.activation]
    if run.compiled:
        inputs = n * chain.inputs
        return StepWork((Pass(inputs, n),), (Pass(inputs + n, inputs),))
    forward = Pass(n * chain.read, n * chain.written, calls=chain.calls)
    return StepWork((forward,), (Pass(n * chain.read_back, n * chain.written_back, calls=chain.calls_back),))


def residual(t: int, d: int) -> StepWork:
    """Two sums [T, D] of a stream and a branch, and of their gradients."""
    two = (Pass(4 * t * d, 2 * t * d, calls=2),)
    return StepWork(two, two)


def lookup(rows: int, vocab_size: int, dim: int) -> StepWork:
    """Rows of a table [V, dim]; back, the table's whole gradient is cleared and the rows are added to it."""
    return StepWork((Pass(rows * dim, rows * dim),), (Pass(2 * rows * dim, rows * dim, vocab_size * dim, calls=2),))


def hashed_lookup(spec: HashEmbedding, t: int, d: int) -> StepWork:
    """Row numbers of the n-grams, rows of the table, their sum and that with the tokens' vectors; back, the rows that were touched."""
    n, orders = t * d, len(spec.orders)
    forward = (Pass(12 * 2 * t * orders, 8 * 2 * t * orders, calls=12 * orders), Pass((2 * orders + 2) * n, (orders + 2) * n, calls=3))
    if spec.sparse:  # finding equal rows sorts them: log2 of 2^13 passes over numbers of 8 bytes, in three arrays
        return StepWork(forward, (Pass(39 * 2 * t * orders, 39 * 2 * t * orders, calls=8), Pass(3 * n * orders, 2 * n * orders, calls=3)))
    return StepWork(forward, (Pass(3 * n * orders, 2 * n * orders, spec.n_rows * d, calls=3),))


def head(t: int, d: int, vocab_size: int, *, bias: bool, run: Execution) -> StepWork:
    """Logits, and both gradients, a chunk of rows at a time; a copy of both gradients going back, scaled by what came from above."""
    rows = max(32, run.loss_chunk_bytes // (4 * vocab_size))
    forward, backward = linear(t, d, vocab_size, bias=bias, chunk=rows)
    scaled = Pass(3 * t * d, 3 * t * d, 3 * vocab_size * d, calls=6)  # both sides of the products by their factors, then the copies
    if run.number_bytes == MASTER_BYTES or run.compiled:
        return StepWork(forward, (*backward, scaled))
    # of each chunk the matrix's gradient comes in two bytes a number, is cast and added: 2 + 4 and 4 + 4 + 4
    added = Pass(masters=18 * vocab_size * d // MASTER_BYTES, calls=2, chunks_of=(t, rows))
    return StepWork(forward, (*backward, scaled, added))


def loss(t: int, vocab_size: int, *, softcap: bool, run: Execution) -> StepWork:
    """Logits [T, V] to their gradient in place; numbers of fp32, so twice as many where the activations have two bytes."""
    logits = t * vocab_size
    n = logits * (MASTER_BYTES // run.number_bytes)
    if run.compiled or run.fused_norm:
        works = [Pass(n, n, loop="exponentials", looped=logits, calls=20)]  # the rest of the calls are on one number a row
    else:
        works = [Pass(5 * n, 3 * n, calls=24)]
    if softcap:
        works.append(Pass(n * 7, n * 6, calls=6))
    if n > logits and not run.compiled:  # cast to fp32, and their gradient back
        works.append(Pass(3 * logits, 3 * logits, calls=2))
    return StepWork(tuple(works))
