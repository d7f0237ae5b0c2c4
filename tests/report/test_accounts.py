"""Charts of what models cost: files that stand alone, and the numbers that they are drawn from."""

import xml.etree.ElementTree as ET

import pytest

from groundup import cli
from groundup.account import GPU, cost, training_memory
from groundup.account.known import known_model
from groundup.account.rules import shape_of_width
from groundup.account.shares import NAMES, shares_by_size, shares_of, step_timeline
from groundup.account.workload import Training
from groundup.errors import UsageError
from groundup.report.figure import save

MODEL = known_model("smollm2-135m")
PNG = b"\x89PNG\r\n\x1a\n"


def test_shares_sum_to_one_and_the_mlps_grows_with_the_model():
    sizes = shares_by_size(vocab_size=32_000, seq_len=1024, widths=(256, 1024, 4096))
    assert all(sum(size.shares.values()) == pytest.approx(1) and tuple(size.shares) == NAMES for size in sizes)
    assert sizes[0].shares["MLP"] < sizes[1].shares["MLP"] < sizes[2].shares["MLP"]
    assert sizes[0].shares["head"] > sizes[1].shares["head"] > sizes[2].shares["head"]


def test_a_layer_counted_once_is_the_whole_model_counted():
    (size,) = shares_by_size(vocab_size=32_000, seq_len=1024, widths=(384,))
    counted = cost(shape_of_width(384, vocab_size=32_000, context_length=1024), Training(1024))
    assert size.parameters == counted.parameters and size.shares == pytest.approx(shares_of(counted))


def test_shares_are_the_cost_trees():
    counted = cost(MODEL, Training(512))
    rows = {row.name: row.share for row in counted.rows()}
    found = shares_of(counted)
    assert found["head"] == pytest.approx(rows["head"]) and found["other"] == 0
    assert found["MLP"] == pytest.approx(sum(rows[f"layers.mlp.{name}"] for name in ("gate", "up", "down")))
    assert found["attention's pairs"] == pytest.approx(2 * rows["layers.mixer.scores"])


def test_a_step_climbs_to_the_loss_and_is_the_memorys_timeline_from_there():
    moments = step_timeline(MODEL, Training(256, 2, run=GPU, matrices="adamw"))
    timeline = training_memory(MODEL, Training(256, 2, run=GPU, matrices="adamw")).timeline
    forward = [moment for moment in moments if moment.name == "forward"]
    assert len(forward) == 31 and [moment.categories for moment in moments[31:]] == [moment.categories for moment in timeline]
    kept = [moment.categories["activations"] for moment in forward]
    assert kept == sorted(kept) and kept[-1] == timeline[0].categories["activations"] and kept[0] < 0.1 * kept[-1]
    assert [phase for phase in dict.fromkeys(moment.name for moment in moments)] == ["forward", "loss", "backward", "optimizer"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("cost smollm2-135m --seq-len 256", "parameters (billions)"),
        ("plan --budget 1h", "parameters (billions)"),
        ("plan llama-2-7b --devices 4", "data 4 (ZeRO-3)"),
    ],
)
def test_pictures_stand_alone(capsys, tmp_path, arguments, says):
    for name in ("picture.png", "picture.svg"):
        cli.main([*arguments.split(), "--plot", str(tmp_path / name)])
        assert f"wrote {tmp_path / name}" in capsys.readouterr().out.replace("\n", "")
    assert (tmp_path / "picture.png").read_bytes().startswith(PNG)
    drawn = ET.parse(tmp_path / "picture.svg").getroot()
    words = "".join(drawn.itertext())
    assert drawn.tag.endswith("svg") and says in words
    assert ("FLOPs a byte" in words and "weighted values" in words) == arguments.startswith("cost")


def test_a_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        save(tmp_path / "picture.gif", lambda figure: None)
    with pytest.raises(SystemExit):
        cli.main(["cost", "smollm2-135m", "--conventions", "--plot", str(tmp_path / "p.png")])
