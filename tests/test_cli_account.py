"""``groundup cost``: what it counts, prints and refuses."""

import dataclasses
import json

import pytest

from groundup import cli
from groundup.account import cost, find_device, training_memory
from groundup.account.execution import GPU
from groundup.account.known import known_model
from groundup.account.layout import Layout
from groundup.account.workload import Training
from groundup.config import to_dict

MODEL = "smollm2-135m"


def said(capsys, *arguments):
    cli.main(["cost", *arguments])
    return capsys.readouterr().out


def figures(capsys, *arguments):
    return json.loads(said(capsys, *arguments, "--json").splitlines()[-1])


def test_the_figures_are_the_accounts(capsys):
    found, config = figures(capsys, MODEL, "--seq-len", "2048", "--tokens", "1e9", "--mfu", "0.5", "--devices", "2"), known_model(MODEL)
    flops = cost(config, Training(2048)).flops_training(10**9)
    assert (found["parameters"], found["training_flops"]) == (134_515_008, flops)
    assert found["training_seconds"] == pytest.approx(flops / (0.5 * 2 * find_device("h100").peak("bf16")))
    assert found["training_usd"] == pytest.approx(2 * 2.95 * found["training_seconds"] / 3600)
    memory = training_memory(config, Training(2048, 8, run=GPU, matrices="adamw"))
    assert found["training_peak_bytes"] == memory.peak_bytes
    assert found["cache_bytes_per_token"] == 30 * 2 * 3 * 64 * 2


def test_bars_show_where_the_memory_goes(capsys):
    printed = said(capsys, MODEL, "--memory")
    bars = {line.split("█")[0].split("▏")[0].strip(): line.count("█") for line in printed.splitlines() if "█" in line}
    assert max(bars, key=bars.get) == "activations" and bars["activations"] == 40 and {"weights", "optimizer moments"} <= set(bars)


def test_a_run_and_its_configuration_count_alike(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(to_dict(known_model(MODEL))))
    by_folder, by_file = (figures(capsys, str(path), "--seq-len", "128") for path in (tmp_path, tmp_path / "config.json"))
    by_name = figures(capsys, MODEL, "--seq-len", "128")
    assert all(by_folder[key] == by_file[key] == by_name[key] for key in by_name if key != "model")


DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129_280,
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
}


def test_a_familys_own_configuration_is_counted(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DEEPSEEK_V3))
    printed = said(capsys, str(tmp_path), "--json")
    found = json.loads(printed.splitlines()[-1])
    assert (found["parameters"], found["cache_bytes_per_token"]) == (671_026_419_200 - 58 * 256, 2 * 61 * 576)
    assert 36e9 < found["active_parameters"] < 38e9 and found["training_peak_bytes"] > 16 * found["parameters"]
    one_token = (found["active_parameters"] - 129_280 * 7168) * 2 / 3.35e12
    assert found["seconds_per_output_token"] == pytest.approx(one_token, rel=0.01), "the chosen experts are read, the others not"


def test_conventions_count_a_measured_run_as_others_do(capsys):
    found = figures(capsys, MODEL, "--conventions", "--seq-len", "2048", "--tokens-per-s", "300000", "--devices", "2")
    exact = cost(known_model(MODEL), Training(2048)).mfu(300_000, 2 * find_device("h100").peak("bf16"))
    lines = found["conventions"]
    assert lines["exact, causal pairs"]["utilization"] == pytest.approx(exact)
    assert lines["6N"]["flops_per_token"] == 6 * 134_515_008
    printed = said(capsys, MODEL, "--conventions", "--mfu", "0.5")
    assert "50.0%" in printed and "nanoGPT" in printed


REFUSED = {
    "an unknown model": ("gpt-9", "llama-2-7b"),
    "an unknown device": (f"{MODEL} --device abacus", "abacus"),
    "a share above one": (f"{MODEL} --mfu 3", "--mfu"),
    "no devices": (f"{MODEL} --devices 0", "--devices"),
    "a speed that nothing uses": (f"{MODEL} --tokens-per-s 9", "--conventions"),
    "no speed": (f"{MODEL} --conventions --tokens-per-s 0", "above 0"),
    "too long a sequence": (f"{MODEL} --seq-len 9000", "9000"),
    "too long a prompt": (f"{MODEL} --prompt-tokens 9000", "8,192"),
    "heads that do not divide": (f"{MODEL} --layout tensor2", "tensor 2 does not divide the query heads 9; choose 1 or 3"),
    "more stages than layers": (f"{MODEL} --layout pp31", "pipeline 31 is more stages than the model's 30 layers"),
    "experts that are not there": (f"{MODEL} --layout dp8,ep4", "no experts"),
    "devices that are no layout's": (f"{MODEL} --layout dp4 --devices 8", "is for 4"),
    "what a layout shows anyway": (f"{MODEL} --layout dp4 --memory", "--memory has no part in what many devices take: leave it out"),
    "another optimizer": (f"{MODEL} --layout dp4 --matrices muon", "--matrices has no part"),
    "devices that cannot be joined": (f"{MODEL} --layout dp4 --device m1", "no links"),
    "no micro-batch": (f"{MODEL} --layout dp4 --micro-batches 0", "at least 1"),
    "micro-batches of no layout": (f"{MODEL} --micro-batches 4", "or give --layout too"),
    "a sequence of nothing": (f"{MODEL} --seq-len 0", "--seq-len 0: give at least 1"),
    "no tokens": (f"{MODEL} --tokens 0", "not above zero"),
    "tokens that are no number": (f"{MODEL} --tokens nan", "write it like 15T"),
    "tokens beyond numbers": (f"{MODEL} --tokens 1e999", "beyond all numbers"),
    "a speed that is no number": (f"{MODEL} --conventions --tokens-per-s nan", "--tokens-per-s nan"),
    "no prompt": (f"{MODEL} --prompt-tokens 0", "--prompt-tokens 0"),
    "no answer of a layout": (f"{MODEL} --layout dp2 --new-tokens -1", "--new-tokens -1"),
    "no picture": (f"{MODEL} --plot x.gif", "x.gif"),
    "a picture in no folder": (f"{MODEL} --plot nowhere/x.png", "no folder nowhere"),
    "no configuration": ("broken.json", "broken.json"),
    "a folder without one": (".", ".: a folder without a config.json"),
    "another's configuration": ("other.json", "hidden_size"),
    "no object": ("list.json", "list.json"),
    "a family that is not here": ("rwkv.json", "rwkv"),
}


@pytest.mark.parametrize(("arguments", "names"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_one_sentence_and_two(capsys, tmp_path, monkeypatch, arguments, names):
    monkeypatch.chdir(tmp_path)
    for name, text in {"broken": "{", "other": '{"hidden_size": 3}', "list": "[]", "rwkv": '{"model_type": "rwkv"}'}.items():
        (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(SystemExit) as ended:
        cli.main(["cost", *arguments.split()])
    printed = capsys.readouterr()
    assert ended.value.code == 2 and printed.err.count("\n") == 1 and names in printed.err and not printed.out


def test_a_layout_shows_what_is_sent_held_and_waited_for(capsys):
    arguments = (MODEL, "--seq-len", "512", "--layout", "data 4 zero 1 tensor 3 pipeline 2", "--micro-batches", "8", "--tokens", "1e9")
    printed, found = said(capsys, *arguments), figures(capsys, *arguments)
    for part in ("by whom they go to", "24 x H100 SXM", "mixer.query", "tensor", "pipeline", "Memory of the fullest device", "tokens/s"):
        assert part in printed
    layout = Layout(4, 3, 2, zero=1)
    assert found["layout"] == dataclasses.asdict(layout) and found["micro_batches"] == 8 and found["fits"]
    workload = Training(512, 1, 8, run=GPU, matrices="adamw", layout=layout)
    assert found["sent"] == pytest.approx(cost(known_model(MODEL), workload).sent._asdict())
    for group, n_bytes in found["sent"].items():
        assert n_bytes == pytest.approx(sum(part.get(group, 0) for part in found["sent_by_part"].values()))
    assert sum(found["seconds_by_part"].values()) == pytest.approx(found["step_seconds"])
    assert sum(found["memory"].values()) == pytest.approx(found["bytes_per_device"])
    assert found["seconds"] == pytest.approx(1e9 / found["tokens_per_step"] * found["step_seconds"])
    assert "Serving on 3 x H100 SXM, which share matrices" in printed
    assert found["largest_batch"] == (3 * int(0.92 * find_device("h100").memory_bytes) - 2 * 134_515_008) // (1200 * 30 * 2 * 3 * 64 * 2)


def test_a_mixture_trains_on_twenty_tokens_for_each_active_parameter(capsys):
    by_cost, by_layout = figures(capsys, "mixtral-8x7b"), figures(capsys, "mixtral-8x7b", "--layout", "dp8 ep8")
    assert by_cost["training_tokens"] == by_layout["tokens"] == 20 * 12_879_925_248


def test_what_goes_to_experts_has_a_column(capsys):
    arguments = ("mixtral-8x7b", "--seq-len", "512", "--layout", "data 8 (ZeRO-1, expert 8)", "--micro-batches", "2")
    printed, found = said(capsys, *arguments), figures(capsys, *arguments)
    assert "experts" in printed and "rows to experts and back" in printed
    rows = 2 * 512 * 2 * 4096 * 2  # micro-batches, tokens, experts of a token, width, bytes
    assert found["sent_by_part"]["layers.mlp"]["expert"] == 32 * 4 * rows * 7 / 8
