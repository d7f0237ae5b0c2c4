"""``groundup plan``: each question, its table of alternatives, and what it refuses."""

import json

import pytest

from groundup import cli
from groundup.account import cost, find_device
from groundup.account.answers import worth
from groundup.account.known import known_model
from groundup.account.law import EPOCH
from groundup.account.published import PUBLISHED_RUNS
from groundup.account.workload import Training

MODEL = "smollm2-135m"


def said(capsys, arguments):
    cli.main(["plan", *arguments.split()])
    return capsys.readouterr().out


def both(capsys, arguments):
    """What is printed for people, and the figures of its last line."""
    printed = said(capsys, arguments + " --json")
    return printed, json.loads(printed.splitlines()[-1])


def figures(capsys, arguments):
    return both(capsys, arguments)[1]


def test_a_budget_becomes_a_model_with_its_alternatives(capsys):
    printed, found = both(capsys, "--budget 2h --devices 2")
    for part in (
        "predicted loss",
        "Besiroglu",
        "one standard error",
        "Other shapes",
        "chosen: lowest loss",
        "chinchilla",
        "chosen: fastest",
    ):
        assert part in printed
    assert found["question"] == "best model" and found["seconds"] <= 7200
    assert found["usd"] == pytest.approx(2 * 2.95 * found["seconds"] / 3600)


def test_little_text_is_said_to_be_read_again(capsys):
    printed = said(capsys, "--budget 2h --devices 2 --text 1GB --mfu 0.4")
    assert "times" in printed and "plenty: nothing" not in printed


def test_a_model_on_tokens_takes_time_and_money(capsys):
    found = figures(capsys, f"{MODEL} --tokens 600B --devices 8 --mfu 0.5 --usd-per-hour 2 --seq-len 2048")
    flops = cost(known_model(MODEL), Training(2048)).flops_per_token_training * 600e9
    assert found["flops"] == pytest.approx(flops)
    assert found["seconds"] == pytest.approx(flops / (0.5 * 8 * find_device("h100").peak("bf16")))
    assert found["usd"] == pytest.approx(16 * found["seconds"] / 3600)
    assert found["bytes_per_device"] < find_device("h100").memory_bytes


def test_layouts_say_why_they_were_not_chosen(capsys):
    printed = said(capsys, "llama-3.1-8b --devices 8")
    assert "chosen: fastest" in printed and "slower" in printed and "has 79.0 GB" in printed and "optimizer moments" in printed


def test_a_budget_for_a_model_says_how_many_tokens(capsys):
    assert figures(capsys, f"{MODEL} --budget 1d --mfu 0.4")["seconds"] == pytest.approx(86_400)


def test_the_largest_model(capsys):
    printed, found = both(capsys, "--largest --device rtx4090 --seq-len 1024")
    assert "chosen: largest that fits" in printed and "fits in no layout" in printed
    assert 1e8 < found["parameters"] < 24 * 1.074e9 / 16


def test_what_can_be_served(capsys):
    printed, found = both(capsys, "llama-3.1-8b --serve")
    assert found["longest_context"] > 131_072 and found["largest_batch"]["131072"] >= 1
    assert "largest batch" in printed


def test_a_gain_in_money_days_and_bits(capsys):
    printed, found = both(capsys, f"{MODEL} --tokens 600B --mfu 0.5 --gain 5%")
    assert found["gain_usd"] == pytest.approx(found["usd"] * 0.05 / 1.05)
    assert found["gain_seconds"] == pytest.approx(found["seconds"] * 0.05 / 1.05)
    assert found["gain_bits_per_byte"] > 0
    run = PUBLISHED_RUNS["deepseek-v3"]
    there = worth(0.05, seconds=86_400 * run.days, usd=run.usd, parameters=run.parameters, tokens=run.tokens, law=EPOCH)
    row = next(line for line in printed.splitlines() if line.startswith("DeepSeek-V3"))
    assert f"${run.usd:,.0f}" in row and f"${there.usd:,.0f}" in row
    assert all(other.name in printed for other in PUBLISHED_RUNS.values())


def test_a_device_without_bf16_trains_in_fp16(capsys):
    assert "fp16 peak" in said(capsys, f"{MODEL} --device v100")


REFUSED = {
    "nothing asked": ("", "--budget 3d"),
    "a budget of zero": ("--budget 0d", "zero"),
    "a budget without a unit": ("--budget 5", "no unit"),
    "a budget too small": ("--budget 1e6flop", "1000000flop"),
    "an unknown device": ("--budget 1d --device abacus", "abacus"),
    "an unknown law": ("--budget 1d --law moore", "moore"),
    "an unknown model": ("gpt-9", "gpt-9"),
    "no devices": (f"{MODEL} --devices 0", "--devices 0"),
    "a share above one": (f"{MODEL} --mfu 1.5", "--mfu 1.5"),
    "no price": (f"{MODEL} --usd-per-hour 0", "--usd-per-hour"),
    "tokens of nothing": ("--tokens 1B --budget 1d", "--tokens"),
    "tokens that are none": (f"{MODEL} --tokens many", "many"),
    "no tokens": (f"{MODEL} --tokens 0B", "above zero"),
    "text that is tokens": ("--budget 1d --text 10B", "less than a kilobyte"),
    "text without a unit": ("--budget 1d --text 10", "no unit"),
    "a gain without a percent sign": (f"{MODEL} --gain 5", "no unit"),
    "no gain, of what would not fit": ("llama-3.1-70b --gain 0%", "'0%' is not above zero"),
    "tokens beyond numbers": (f"{MODEL} --tokens 1e999", "beyond all numbers"),
    "a picture in no folder": ("--budget 1d --plot nowhere/x.png", "no folder nowhere"),
    "two lengths of a run": (f"{MODEL} --tokens 1B --budget 1d", "give one"),
    "the largest of one model": (f"{MODEL} --largest", "the model"),
    "a text for the largest": ("--largest --text 1GB", "--text"),
    "serving nothing": ("--serve --budget 1d", "--serve"),
    "serving for a budget": (f"{MODEL} --serve --budget 1d", "--budget"),
    "a sequence of nothing": (f"{MODEL} --seq-len 0", "--seq-len 0"),
    "a sequence beyond the context": (f"{MODEL} --seq-len 9000", "9000"),
    "what fits by no layout": ("llama-3.1-70b", "of them would hold it"),
    "types of a budget": ("--budget 1d --weights-in int4", "--weights-in"),
    "weights that do not fit": ("llama-3.1-405b --serve", "--devices 11"),
}


@pytest.mark.parametrize(("arguments", "names"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_one_sentence_and_two(capsys, arguments, names):
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *arguments.split()])
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.err.count("\n") == 1 and names in printed.err and not printed.out
