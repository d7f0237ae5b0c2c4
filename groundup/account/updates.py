"""What the end of a step executes: clipping, and each optimizer's passes over memory, with the products of Muon and SOAP.

All numbers are fp32 masters, moved once a step whatever the batch; only the touched rows of a large table of hashed n-grams follow from it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from groundup.account.component import Weight
from groundup.account.execution import Execution
from groundup.account.memory import MOMENTS
from groundup.account.work import Pass, Product, Work
from groundup.config import SOAP_SIDE, HashEmbedding
from groundup.errors import UsageError

QUINTICS = 5
"""Newton-Schulz steps of Muon by default (see ``optim.Muon``)."""
REFRESH_EVERY = 10
"""Steps between two refreshes of SOAP's bases by default (see ``optim.SOAP``)."""
TURNED_COPY = 5
"""How much longer a processor takes to copy a matrix that it reads by columns: each number brings a whole cache line. Measured 3 to 8."""
_CHAIN = {"adamw": 18, "sgd": 8}
"""Numbers moved for each parameter by the chain of operations in ``optim``: reads and writes of each."""
_LOOP = {"adamw": 7, "sgd": 8}
"""The same where one loop does AdamW: four numbers read and three written."""


def update_work(
    weights: Sequence[Weight],
    *,
    matrices: str,
    others: str,
    run: Execution,
    hashed: HashEmbedding | None = None,
    step_tokens: int = 0,
    clipped: bool = True,
) -> dict[str, tuple[Work, ...]]:
    """The works of clipping ("clip") and of the update ("optimizer") of these parameters.

    ``matrices`` and ``others`` are methods as in ``optim.OptimizerConfig``; ``step_tokens`` are the tokens of a step, of whose n-grams a
    sparse table moves the rows. Raises UsageError for a method that is not known.
    """
    for method in (matrices, others):
        if method not in MOMENTS:
            raise UsageError(f"optimizer {method!r} has no known update; choose one of {', '.join(MOMENTS)}")
    dense = [w for w in weights if not (hashed is not None and hashed.sparse and w.name == "hash_embedding.weight")]
    stacked = [w for w in dense if w.kind == "matrix"]
    rest = [w for w in dense if w.kind != "matrix"]
    touched = 0
    if len(dense) < len(weights) and hashed is not None:
        width = next(w.shape[1] for w in weights if w.name == "hash_embedding.weight")
        touched = min(hashed.n_rows, step_tokens * len(hashed.orders)) * width
    works = [_pointwise(rest, others, run, touched)]
    works += [*_by_method(stacked, matrices, run)]
    numbers = sum(w.numbers for w in dense) + touched
    clip = (Pass(masters=3 * numbers, calls=2 * len(weights)),) if clipped else ()
    return {"clip": clip, "optimizer": tuple(works)}


def _pointwise(weights: Sequence[Weight], method: str, run: Execution, touched: int = 0) -> Pass:
    moved = (_LOOP if run.fused_norm else _CHAIN)[method]
    calls = 2 * len(weights) if run.fused_norm else moved // 2 * max(1, len(weights) // 30)  # many tensors in one launch
    return Pass(masters=moved * (sum(w.numbers for w in weights) + touched), calls=calls)


def _by_method(weights: Sequence[Weight], method: str, run: Execution) -> list[Work]:
    if method in _LOOP:
        return [_pointwise(weights, method, run), Pass(masters=2 * sum(w.numbers for w in weights) if method == "sgd" else 0)]
    found: list[Work] = []
    shapes: Counter[tuple[int, ...]] = Counter()
    for w in weights:  # of experts, each one's matrix
        sides = w.shape[-2:]
        shapes[tuple(sorted(sides)) if method == "muon" else sides] += math.prod(w.shape[:-2])
    for (rows, cols), count in shapes.items():
        found += _muon(rows, cols, count, run) if method == "muon" else _soap(rows, cols, count)
    if method == "muon" and run.fused_norm:  # matrices with more rows than columns go into their stack by columns, and come back so
        turned = sum(w.numbers for w in weights if w.shape[-2] > w.shape[-1])
        found.append(Pass(masters=(TURNED_COPY - 1) * (2 + 3) * turned))
    return found


def _muon(rows: int, cols: int, count: int, run: Execution) -> list[Work]:
    """``optim.muon`` on ``count`` matrices [rows, cols], rows <= cols: moments and weights, then ``optim.orthogonal``."""
    n, square = count * rows * cols, Product(rows, rows, rows, count, "count")
    gram, wide = Product(rows, cols, rows, count, "count"), Product(rows, rows, cols, count, "count")
    passes = Pass(masters=(3 + 3 + 2 + 2 + 1 + 2 + 2 + 3) * n, calls=8 + 3 * count)
    products = [gram]
    if run.fused_norm and cols >= 2 * rows:  # on a processor the iteration stays with the Gram matrix
        products += [square] * (QUINTICS + (QUINTICS - 1) + 2 * (QUINTICS - 1)) + [wide]
    else:
        products += [square, wide] * QUINTICS + [gram] * (QUINTICS - 1)
    return [passes, *products]


def _soap(rows: int, cols: int, count: int) -> list[Work]:
    """``optim.soap`` on ``count`` matrices [rows, cols]: two Gram products, five turns into a basis or out of it, a share of a refresh."""
    found: list[Work] = [Pass(masters=24 * count * rows * cols, calls=14 + 2 * count)]
    for side, other in ((rows, cols), (cols, rows)):
        if side <= SOAP_SIDE:
            found.append(Product(side, other, side, count, "count"))
            found += [Product(side, side, other, count, "count")] * 3
            # gram @ basis twice, and a QR of 8/3 side^3 FLOPs with Q (Golub & Van Loan 2013, section 5.2), every so many steps
            share = -(-count * (4 + 3) // (2 * REFRESH_EVERY))
            found.append(Product(side, side, side, max(1, share), "count"))
    return found
