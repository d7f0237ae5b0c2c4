"""Numbers that everybody in the field knows: ours are theirs, or the difference has a reason."""

import dataclasses

import pytest

from groundup.account import cost, find_device
from groundup.account.conventions import conventions
from groundup.account.inference import Serving, cache_bytes
from groundup.account.known import known_model
from groundup.account.law import FLOPS_PER_PARAMETER_TOKEN
from groundup.account.published import OPT_SHAPES, PUBLISHED_RUNS, opt_counted, opt_printed
from groundup.account.workload import Inference, Training
from groundup.config import Attention, Dense, Layer, ModelConfig, Norm

DAY = 86_400
GPT2 = ModelConfig(
    50_257,
    768,
    1024,
    (Layer(Attention(12, 12, 64, rotary=None), Dense(3072, "gelu"), Norm("layer")),) * 12,
    final_norm=Norm("layer"),
    tied=True,
)
GPT2_POSITIONS = 1024 * 768
PRINTED = {  # FLOPs an update; shares of projections, MLP, attention: the table that lectures show
    "760M": ("4.3e+15", "35%", "44%", "14.8%"),
    "1.3B": ("1.3e+16", "32%", "51%", "12.7%"),
    "2.7B": ("2.5e+16", "29%", "56%", "11.2%"),
    "6.7B": ("1.1e+17", "24%", "65%", "8.1%"),
    "13B": ("4.1e+17", "22%", "69%", "6.9%"),
    "30B": ("9.0e+17", "20%", "74%", "5.3%"),
    "66B": ("9.5e+17", "18%", "77%", "4.3%"),
    "175B": ("2.4e+18", "17%", "80%", "3.3%"),
}


def test_gpt2_parameters_with_the_position_table():
    assert cost(GPT2, Training(1024)).parameters + GPT2_POSITIONS == 124_337_664


def test_gpt2_forward_flops_with_full_attention():
    assert cost(GPT2, Training(1024)).tree.executed_forward_flops == 291_648_307_200


def test_gpt2_utilization_as_palm_counts():
    """100 sequences of 1,024 tokens in 755 ms on an A100."""
    found = conventions(GPT2, seq_len=1024, tokens_per_s=100 * 1024 / 0.755, peak_flops=find_device("a100").peak("bf16"))
    assert next(c.utilization for c in found if c.name == "6N + 12LHET") == pytest.approx(0.371, abs=0.0005)
    assert next(c.utilization for c in found if c.name == "exact, T x T pairs") == pytest.approx(0.371, abs=0.001)
    assert next(c.utilization for c in found if c.name == "exact, causal pairs") == pytest.approx(0.347, abs=0.0005)


def test_days_of_a_large_run():
    """70B parameters, 15T tokens, 1,024 H100, half of the peak."""
    flops = FLOPS_PER_PARAMETER_TOKEN * 70e9 * 15e12
    assert flops / (1024 * find_device("h100").peak("bf16") * 0.5) / DAY == pytest.approx(143.9, abs=0.05)


def test_headline_runs():
    gpt3, deepseek = PUBLISHED_RUNS["gpt-3"], PUBLISHED_RUNS["deepseek-v3"]
    assert gpt3.flops == pytest.approx(3.15e23)
    assert deepseek.flops == pytest.approx(3.3e24, rel=0.005)
    peak = find_device("h100-pcie").peak("fp8")
    assert deepseek.utilization(peak) == pytest.approx(0.2164, abs=0.0001)
    rounded = dataclasses.replace(deepseek, tokens=3.3e24 / 6 / deepseek.parameters, device_hours=2.79e6)
    assert rounded.utilization(peak) == pytest.approx(0.217, abs=0.0005), "from the rounded FLOPs"
    assert PUBLISHED_RUNS["llama-3.1-405b"].flops == pytest.approx(3.8e25, rel=0.01)
    assert 0.3 < PUBLISHED_RUNS["llama-3.1-405b"].utilization(find_device("h100").peak("bf16")) < 0.43, "the paper says 38 to 43 %"


def test_a_feed_forward_matrix_of_gpt3_in_fp32():
    gpt3 = ModelConfig(50_257, 12_288, 2048, (Layer(Attention(96, 96, 128, rotary=None), Dense(49_152, "gelu")),), tied=True)
    up = next(w for w in cost(gpt3, Training(1)).weights if w.name == "layers.0.mlp.up.weight")
    assert 4 * up.numbers == 2304 << 20


@pytest.mark.parametrize(
    "n_kv_heads, per_token, gigabytes, milliseconds",
    [(40, 819_200, (26.9, 79.7, 240.8), (7.92, 23.70, 71.78)), (8, 163_840, (22.8, 33.4, 65.6), (6.72, 9.88, 19.49))],
)
def test_serving_llama_2_13b(n_kv_heads, per_token, gigabytes, milliseconds):
    """On an H100 in 16 bits at 1,024 tokens of context; (weights without the lookup table + caches) / bandwidth bounds a step below."""
    config = known_model("llama-2-13b")
    layers = tuple(dataclasses.replace(x, mixer=dataclasses.replace(x.mixer, n_kv_heads=n_kv_heads)) for x in config.layers)
    config, h100 = dataclasses.replace(config, layers=layers), find_device("h100")
    assert cache_bytes(config, 1) == per_token
    for batch, gb, ms in zip((1, 64, 256), gigabytes, milliseconds, strict=True):
        served = Serving(config, Inference(1023, 1, batch), h100)
        assert served.memory_bytes / 1e9 == pytest.approx(gb, abs=0.05)
        assert 1e3 * served.seconds_per_token(1024) == pytest.approx(ms, abs=0.006)
        by_hand = 2 * (cost(config, Training(1)).parameters - 32_000 * 5120) + batch * 1024 * per_token
        assert served.seconds_per_token(1024) == pytest.approx(by_hand / 3.35e12)


@pytest.mark.parametrize("shape", OPT_SHAPES, ids=lambda shape: shape.name)
def test_the_printed_opt_table_to_its_printed_digit(shape):
    found = opt_printed(shape)
    assert (f"{found.flops:.1e}", f"{found.projections:.0%}", f"{found.mlp:.0%}", f"{found.attention:.1%}") == PRINTED[shape.name]


def test_what_the_opt_table_should_say():
    counted = [opt_counted(shape) for shape in OPT_SHAPES]
    assert all(found.mlp == pytest.approx(2 * found.projections) for found in counted), "8 D^2 to 16 D^2 at every size"
    assert f"{counted[0].mlp:.0%} {counted[-1].mlp:.0%}" == "51% 65%"
    assert f"{counted[-1].flops:.1e}" == "3.0e+18" and f"{opt_printed(OPT_SHAPES[-1]).flops:.1e}" == "2.4e+18"
    assert all(sum(found[1:]) == pytest.approx(1) for found in counted)


def test_opt_shapes_have_their_nominal_size():
    for shape in OPT_SHAPES:
        nominal = float(shape.name[:-1]) * {"M": 1e6, "B": 1e9}[shape.name[-1]]
        assert 12 * shape.n_layers * shape.d_model**2 + 50_272 * shape.d_model == pytest.approx(nominal, rel=0.08)
