"""Every variant of the ablation differs from the plan in what it says, and trains."""

import pytest

from benchmarks import ablation
from benchmarks.ablation import BATCH, LAYERS, SEQ_LEN, VARIANTS, VOCAB, WIDTH, rows, train_variant
from benchmarks.resources import Text
from groundup.account.shapes import architecture
from groundup.config import check
from groundup.errors import UsageError

PLANNED = architecture("groundup", vocab_size=VOCAB, d_model=WIDTH, n_layers=LAYERS, head_dim=48, context_length=SEQ_LEN, hash_rows=65_536)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_and_makes_sense(name):
    v = VARIANTS[name]
    config = check(v.change(PLANNED))
    settings = (dict(v.optimizer), v.schedule, v.batch_size, v.seq_len, v.zero_outputs)
    assert (name == "planned") == (config == PLANNED and settings == ({}, None, BATCH, SEQ_LEN, True))
    assert BATCH * SEQ_LEN % (v.batch_size * v.seq_len) == 0 or v.batch_size * v.seq_len == 2 * BATCH * SEQ_LEN


def test_two_variants_train_and_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("groundup.kernels.memory.keep_freed_memory", lambda: False)  # it would last for all later tests
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i}.txt").write_text(" ".join(str((i * k) % 97) for k in range(300)))
    (tmp_path / "work").mkdir()
    tokens = Text([str(folder)], 1_000_000, tmp_path / "work").tokens(300)
    summary = {}
    for name in ("planned", "no-offset"):
        summary[name] = {"what": name} | train_variant(name, tokens, 4 * BATCH * SEQ_LEN, 0)
    assert all(0 < row["bits_per_byte"] < 8 and row["seconds_per_1000_tokens"] > 0 for row in summary.values())
    table = rows(summary)
    assert table[0]["worse by"] == "" and float(table[1]["worse by"]) != 0


@pytest.mark.parametrize("arguments", [["--variants", "best"], ["--steps", "1"], ["--seeds", "0"]])
def test_bad_requests_are_refused(arguments):
    with pytest.raises(UsageError):
        ablation.main(arguments)
