"""Seconds of a training step: closed forms on ceilings that are simple numbers, and what must hold for any model."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_shapes import LLAMA_3_8B, QWEN3_600M, SMOLLM2_135M, configs

from groundup.account import CPU, DEVICES, GPU, Ceilings, cost, find_device, step_time
from groundup.account.execution import IDEAL
from groundup.account.roofline import time_of
from groundup.account.updates import update_work
from groundup.account.work import Pass, Product
from groundup.account.workload import Training
from groundup.config import HashEmbedding
from groundup.errors import UsageError

FAST = 1e30


def ceilings(**changes) -> Ceilings:
    """1 TFLOP/s, 100 GB/s, nothing for dispatch."""
    plain = Ceilings("plain", "fp32", ((1.0, 1e12),), ((1.0, 1e11),), 0.0, peak_flops=1e12)
    return dataclasses.replace(plain, **changes)


def test_a_product_takes_the_longer_of_its_flops_and_its_bytes():
    square, thin = Product(1000, 1000, 1000), Product(1, 1000, 1000)
    assert time_of(square, ceilings(), 4)[0] == pytest.approx(2e9 / 1e12)
    assert time_of(thin, ceilings(), 4)[0] == pytest.approx(4 * (1000 + 1_000_000 + 1000) / 1e11)
    assert time_of(square, ceilings(), 4)[1].largest == "compute"
    assert time_of(thin, ceilings(), 4)[1].largest == "memory"


def test_dispatch_is_added_where_it_waits_and_hidden_where_it_does_not():
    work = Pass(10**6, 10**6, calls=10)
    busy = 8e6 / 1e11
    assert time_of(work, ceilings(dispatch_s=1e-6), 4)[0] == pytest.approx(busy + 1e-5)
    assert time_of(work, ceilings(dispatch_s=1e-6, overlapped=True), 4)[0] == pytest.approx(busy)
    assert time_of(work, ceilings(dispatch_s=1e-3, overlapped=True), 4)[0] == pytest.approx(1e-2)
    assert time_of(work, ceilings(dispatch_s=1e-3), 4)[1].largest == "dispatch"


def test_loops_bind_where_they_are_slower_than_memory():
    work = Pass(1000, 1000, loop="softmax", looped=1500)
    seconds, parts = time_of(work, ceilings(loop_rates=(("heads", 1e9), ("softmax", 1e6))), 4)
    assert seconds == pytest.approx(1.5e-3) and parts.largest == "loops"
    assert time_of(work, ceilings(), 4)[1].loops == 0


def test_what_counts_once_a_chunk_counts_for_the_rows_of_all_sequences():
    added = Pass(10, 20, masters=100, calls=2, chunks_of=(300, 128))
    assert added.of_batch(1).calls == 2 * 3 and added.of_batch(1).masters == 300
    assert added.of_batch(4) == Pass(40, 80, masters=100 * 10, calls=20)  # 1,200 rows in chunks of 128


def test_optimizers_work_at_the_rates_of_fp32():
    slow = ceilings(bandwidths=((1.0, 1e10),))
    of_bf16 = ceilings(precision="bf16", masters=slow)
    asked = Training(64, 2, run=dataclasses.replace(CPU, precision="bf16"))
    alone, apart = (step_time(SMOLLM2_135M, given, asked) for given in (ceilings(precision="bf16"), of_bf16))
    in_fp32 = step_time(SMOLLM2_135M, slow, Training(64, 2, run=CPU))
    seconds = [{timed.name: timed.seconds for timed in step.components} for step in (alone, apart, in_fp32)]
    assert seconds[1]["optimizer"] == pytest.approx(seconds[2]["optimizer"])
    assert seconds[1]["optimizer"] > seconds[0]["optimizer"]
    assert seconds[1]["head"] == seconds[0]["head"]


def test_rates_are_interpolated_over_the_logarithm_of_the_size():
    measured = ceilings(product_rates=((16.0, 1e9), (256.0, 5e9)))
    assert [measured.product_rate(dim) for dim in (1, 16, 64, 256, 9999)] == pytest.approx([1e9, 1e9, 3e9, 5e9, 5e9])


def test_a_step_bound_by_products_alone_takes_its_executed_flops():
    only_compute = ceilings(bandwidths=((1.0, FAST),))
    step = step_time(SMOLLM2_135M, only_compute, Training(256, 2, run=CPU, matrices="adamw"))
    assert step.seconds == pytest.approx(2 * cost(SMOLLM2_135M, Training(256, run=CPU)).tree.executed_training_flops / 1e12)
    assert step.hfu == pytest.approx(1) and step.mfu < 1
    assert step.tokens_per_s == pytest.approx(512 / step.seconds)


def test_a_step_bound_by_memory_alone_takes_its_bytes():
    only_memory = ceilings(product_rates=((1.0, FAST),))
    step = step_time(SMOLLM2_135M, only_memory, Training(64, 2, run=IDEAL, matrices="adamw"))
    tree, n = cost(SMOLLM2_135M, Training(64, run=IDEAL)).tree, SMOLLM2_135M
    matrices = sum(w.numbers for w in cost(n, Training(64)).weights if w.kind not in ("table", "vector"))
    moved = tree.forward_bytes(2, 2) + tree.backward_bytes(2, 2) + 12 * matrices  # with the casts of fp32 masters and back
    parameters = tree.parameters
    moved += 4 * parameters * (3 + 7)  # clipping, and AdamW in one loop
    assert step.seconds == pytest.approx(moved / 1e11)


def test_micro_batches_repeat_all_but_the_update():
    one, four = (step_time(SMOLLM2_135M, ceilings(), Training(128, 1, run=CPU, micro_batches=n, matrices="sgd")) for n in (1, 4))
    by_name = [{row.name: row.seconds for row in step.rows()} for step in (one, four)]
    assert by_name[1]["head"] == pytest.approx(4 * by_name[0]["head"])
    assert by_name[1]["optimizer"] == by_name[0]["optimizer"]
    assert by_name[0]["gradient sum"] == 0
    assert by_name[1]["gradient sum"] == pytest.approx(3 * 12 * one.cost.parameters / 1e11)
    assert four.tokens == 4 * 128


def test_what_a_part_executes_is_that_of_all_workers():
    alone, shared = (
        step_time(SMOLLM2_135M, ceilings(workers=n, tokens_a_worker=64), Training(64, 3, run=CPU, matrices="adamw")) for n in (1, 2)
    )
    query = {n: next(row for row in step.rows() if row.name == "layers.mixer.query") for n, step in ((1, alone), (2, shared))}
    assert query[1].flops == query[2].flops == 3 * 3 * 2 * 64 * 576 * 576 * 30
    assert query[1].n_bytes < query[2].n_bytes  # each reads the weights
    assert query[1].seconds > query[2].seconds


def test_workers_share_the_rows_of_a_batch_and_sum_their_gradients():
    alone, shared = ceilings(), ceilings(workers=4, tokens_a_worker=256)
    plain, quick = (step_time(SMOLLM2_135M, c, Training(128, 8, run=CPU, matrices="sgd")) for c in (alone, shared))
    by_name = [{row.name: row.seconds for row in step.rows()} for step in (plain, quick)]
    assert by_name[0]["layers.mlp.activation"] == pytest.approx(4 * by_name[1]["layers.mlp.activation"])
    assert by_name[1]["gradient sum"] > 0 == by_name[0]["gradient sum"]
    assert shared.workers_for(8, 32) == 1 and shared.workers_for(3, 4096) == 3


@given(configs(), st.integers(1, 4), st.integers(1, 40), st.sampled_from([CPU, GPU]), st.sampled_from(["muon", "adamw", "sgd", "soap"]))
def test_rows_sum_to_the_step_and_more_of_anything_is_never_faster(config, batch_size, seq_len, run, matrices):
    others = "sgd" if matrices == "sgd" and config.hash_embedding is None else "adamw"

    def step(**changes):
        given = {"batch_size": batch_size, "seq_len": seq_len, "run": run, "matrices": matrices, "others": others}
        return step_time(config, changes.pop("on", ceilings(dispatch_s=1e-6)), Training(**given | changes))

    plain = step()
    assert sum(row.seconds for row in plain.rows()) == pytest.approx(plain.seconds)
    assert all(row.seconds >= 0 and row.bound in row.parts._fields for row in plain.rows())
    assert 0 <= plain.mfu <= 1
    assert plain.seconds <= step(batch_size=batch_size + 1).seconds
    assert plain.seconds <= step(seq_len=seq_len + 1).seconds
    assert plain.seconds <= step(on=ceilings(dispatch_s=2e-6)).seconds
    assert plain.seconds >= step(on=ceilings(dispatch_s=1e-6, bandwidths=((1.0, 2e11),))).seconds


@pytest.mark.parametrize("matrices, numbers", [("adamw", 7), ("sgd", 8 + 2)])
def test_the_optimizers_bytes_by_hand(matrices, numbers):
    weights = [w for w in cost(SMOLLM2_135M, Training(1)).weights if w.kind == "matrix"]
    moved = sum(work.bytes(4) for work in update_work(weights, matrices=matrices, others="adamw", run=CPU)["optimizer"])
    assert moved == 4 * numbers * sum(w.numbers for w in weights)


def test_muons_products_are_those_of_its_iteration():
    """Matrices [r, c] with c >= 2r iterate on their Gram matrix on a processor: 2 r^2 c twice, and 17 products 2 r^3; else 15 products."""
    weights = [w for w in cost(QWEN3_600M, Training(1)).weights if w.name == "layers.0.mlp.up.weight"]
    r, c = 1024, 3072
    flops = {
        run: sum(work.flops for work in update_work(weights, matrices="muon", others="adamw", run=run)["optimizer"]) for run in (CPU, GPU)
    }
    assert flops[CPU] == 2 * (2 * r * r * c) + 17 * 2 * r**3
    assert flops[GPU] == 10 * 2 * r * r * c + 5 * 2 * r**3


def test_matrices_that_muon_turns_move_more_on_a_processor():
    weights = cost(QWEN3_600M, Training(1)).weights
    up, down = ([w for w in weights if w.name == f"layers.0.mlp.{leaf}.weight"] for leaf in ("up", "down"))
    turned, flat = (
        sum(work.bytes(4) for work in update_work(w, matrices="muon", others="adamw", run=CPU)["optimizer"]) for w in (up, down)
    )
    assert turned - flat == 4 * (5 - 1) * (2 + 3) * 3072 * 1024


def test_a_sparse_table_moves_the_rows_that_a_step_touches():
    config = dataclasses.replace(SMOLLM2_135M, hash_embedding=HashEmbedding((2,), 1 << 20))
    weights = cost(config, Training(1)).weights
    given = {"matrices": "sgd", "others": "adamw", "run": CPU, "hashed": config.hash_embedding}
    few, many, all_rows = (
        sum(work.bytes(4) for work in update_work(weights, step_tokens=n, **given)["optimizer"]) for n in (100, 200, 1 << 22)
    )
    assert many - few == 100 * 7 * 4 * 576
    assert all_rows - few == ((1 << 20) - 100) * 7 * 4 * 576


def test_utilization_of_a_large_model_by_datasheets_is_plausible():
    """Dense models of some billion parameters on H100s are usually reported between 35 and 50 %."""
    step = step_time(LLAMA_3_8B, Ceilings.of_device(find_device("h100")), Training(4096, 4, matrices="adamw"))
    assert 0.35 < step.mfu < 0.5 and step.mfu < step.hfu < step.mfu * 1.1
    compiled = step_time(
        LLAMA_3_8B,
        Ceilings.of_device(find_device("h100")),
        Training(4096, 4, matrices="adamw", run=dataclasses.replace(GPU, compiled=True)),
    )
    assert compiled.seconds < step.seconds


def test_a_small_model_on_a_large_device_waits_for_its_launches():
    step = step_time(SMOLLM2_135M, Ceilings.of_device(find_device("b200")), Training(128, 1))
    assert step.mfu < 0.1
    assert sum(row.seconds for row in step.rows() if row.bound == "dispatch") > 0.5 * step.seconds


@pytest.mark.parametrize("key", DEVICES)
def test_every_device_of_the_table_has_ceilings_below_its_datasheet(key):
    device = find_device(key)
    found = Ceilings.of_device(device, device.half_precision)
    assert found.best_product_rate < found.peak_flops == device.peak(device.half_precision)
    assert found.bandwidth(1e9) < device.bandwidth_bytes_per_s


def test_what_cannot_be_is_refused_with_the_number():
    h100 = find_device("h100")
    with pytest.raises(UsageError, match=r"1\.5"):
        Ceilings.of_device(h100, product_efficiency=1.5)
    with pytest.raises(UsageError, match="bandwidth"):
        Ceilings.of_device(dataclasses.replace(h100, bandwidth_bytes_per_s=None))
    with pytest.raises(UsageError, match="micro_batches"):
        step_time(SMOLLM2_135M, ceilings(), Training(8, 1, micro_batches=0))
    with pytest.raises(UsageError, match="lion"):
        step_time(SMOLLM2_135M, ceilings(), Training(8, 1, matrices="lion"))
    with pytest.raises(UsageError, match="above 0"):
        ceilings(peak_flops=0.0)
