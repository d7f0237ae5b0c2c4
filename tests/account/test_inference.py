"""What inference costs, against published models, the running decoder and closed forms."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_shapes import configs
from torch.utils.flop_counter import FlopCounterMode

from groundup.account import cost, find_device
from groundup.account.inference import Serving, cache_bytes, longest_sequence
from groundup.account.known import KNOWN, known_model
from groundup.account.tree import forward_pass
from groundup.account.workload import Inference, Training
from groundup.config import Attention, Dense, Experts, LatentAttention, Layer, LinearMixer, ModelConfig
from groundup.errors import UsageError
from groundup.infer.cache import KVCache
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize

PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "smollm2-1.7b": 1_711_376_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v3": 671_026_419_200 - 58 * 256,  # its biases of the choice of experts are no parameters here
}
LATENT = LatentAttention(n_heads=3, head_dim=4, rotary_dim=2, value_dim=5, kv_rank=7, q_rank=6)
LINEAR = LinearMixer(n_heads=4, n_key_heads=2, key_dim=3, value_dim=5, conv_width=4)
DEEPSEEK_V3 = LatentAttention(n_heads=128, head_dim=128, rotary_dim=64, value_dim=128, kv_rank=512, q_rank=1536)
# torch's counter passes over it
COUNTED = {torch.ops.aten.linalg_solve_triangular: lambda a, b, **_: math.prod(a) * b[-1]}
SMALL = ModelConfig(50, 24, 64, (Layer(Attention(4, 2, 8), Dense(40)), Layer(Attention(2, 1, 12), Dense(20, "relu2"))))


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_have_their_published_parameters(name):
    assert cost(known_model(name), Training(1)).parameters == PUBLISHED[name]


def test_the_cache_of_known_models_is_as_published():
    assert cache_bytes(KNOWN["llama-3.1-8b"], 1) == 131_072, "128 KiB a token in 16 bits"
    assert cache_bytes(KNOWN["llama-2-7b"], 4096) == 2 << 30, "2 GiB at 4,096 tokens: every head has its own keys"
    assert cache_bytes(KNOWN["llama-3.1-70b"], 1, 1.0) == 163_840


@settings(max_examples=25)
@given(config=configs(), n=st.integers(1, 24))
def test_a_prompt_costs_what_its_tokens_cost_one_after_another_but_for_the_logits(config, n):
    one_by_one = sum(forward_pass(config, 1, n_keys - 1).forward_flops for n_keys in range(1, n + 1))
    assert forward_pass(config, n).forward_flops == one_by_one - (n - 1) * 2 * config.d_model * config.vocab_size


def of_mixers(*mixers, mlp=None, context_length=64) -> ModelConfig:
    return ModelConfig(50, 24, context_length, tuple(Layer(mixer, mlp or Dense(20)) for mixer in mixers))


def counted_passes(config: ModelConfig, *lengths: int) -> list[int]:
    """FLOPs of torch's counter in passes of so many tokens one after another, each with logits of its last."""
    model, cache, found = initialize(Decoder(config), 0).eval(), KVCache(config, 3, torch.float32, torch.device("cpu")), []
    for length in lengths:
        tokens = torch.randint(50, (3, length))
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            model.logits(model.hidden(tokens, cache=cache)[:, -1:])
        cache.advance(tokens)
        found.append(counter.get_total_flops())
    return found


@pytest.mark.parametrize("n_keys", [2, 3, 17])
@pytest.mark.parametrize(
    "config", [SMALL, of_mixers(LATENT, dataclasses.replace(LATENT, q_rank=None), mlp=Experts(6, 2, 8, shared=Dense(8)))]
)
def test_a_decoding_step_multiplies_as_often_as_the_running_decoder(config, n_keys):
    assert counted_passes(config, n_keys - 1, 1)[1] == 3 * forward_pass(config, 1, n_keys - 1).forward_flops


def test_a_linear_mixers_passes_multiply_as_often_as_the_running_decoders():
    config = of_mixers(LINEAR, context_length=512)
    found = counted_passes(config, 150, 70, 1)
    assert found[:2] == [3 * forward_pass(config, n, cached).forward_flops for n, cached in ((150, 0), (70, 150))]
    step = forward_pass(config, 1, 220)
    assert step.mixing_flops == 6 * 4 * 3 * 5, "S^T k, k (v - S^T k)^T and S^T q of each head"
    assert found[2] == 3 * (step.forward_flops - step.mixing_flops), "which no product but a sum does there"


@pytest.mark.parametrize("n_keys", [2, 1000])
def test_decoding_attends_to_latents_and_what_a_token_costs_is_known(n_keys):
    h, e, r, v, c, q, d = 128, 128, 64, 128, 512, 1536, 7168
    config = ModelConfig(129_280, d, 4096, (Layer(DEEPSEEK_V3, Dense(18_432)),) * 61)
    step = forward_pass(config, 1, n_keys - 1)
    assert step.mixing_flops == 61 * 2 * h * (2 * c + r) * n_keys
    projections = d * q + q * h * (e + r) + d * (c + r) + c * h * (e + v) + h * v * d
    assert step.forward_flops - step.mixing_flops == 2 * (61 * (projections + 3 * d * 18_432) + d * 129_280)
    assert cache_bytes(config, n_keys, 1) == 61 * 576 * n_keys, "DeepSeek-V3 (2024): 512 + 64 numbers a token and layer"


def test_reading_a_prompt_makes_the_keys_of_all_heads():
    t, pairs = 33, 33 * 34 // 2
    read = forward_pass(of_mixers(LATENT), t)
    assert read.mixing_flops == 2 * 3 * (4 + 2 + 5) * pairs
    assert read.cached_numbers == (7 + 2) * t
    assert read.mixing_flops == cost(of_mixers(LATENT), Training(t)).tree.mixing_flops


def test_a_linear_mixers_state_and_step_do_not_grow():
    config = of_mixers(LINEAR)
    assert {cache_bytes(config, n, 4) for n in (1, 2, 60)} == {4 * (4 * 3 * 5 + 3 * (2 * 2 * 3 + 4 * 5))}
    assert forward_pass(config, 1, 1).forward_flops == forward_pass(config, 1, 59).forward_flops
    both = of_mixers(LINEAR, LATENT)
    assert cache_bytes(both, 60) == cache_bytes(config, 60) + cache_bytes(of_mixers(LATENT), 60)


def test_the_longest_sequence_that_fits_and_one_more_does_not():
    windowed = of_mixers(Attention(4, 2, 8, window=8))
    for config in (SMALL, windowed, of_mixers(LINEAR, LATENT, Attention(2, 1, 8, window=5))):
        for tokens in (3, 5, 7, 900):
            spare = cache_bytes(config, tokens) + 1
            found = longest_sequence(config, spare)
            assert found == tokens or (config is windowed and tokens == 900 and found is None)
    assert longest_sequence(of_mixers(LINEAR), 1e6) is None and longest_sequence(SMALL, 10) == 0


def test_one_sequence_reads_its_experts_and_a_large_batch_reads_all():
    config, h100 = of_mixers(SMALL.layers[0].mixer, mlp=Experts(8, 2, 40)), find_device("h100")
    counted = cost(config, Training(1))
    one, all_of_them = (Serving(config, Inference(8, 8), h100).read_bytes(n) / 2 for n in (1, math.inf))
    assert one == counted.active_parameters - 50 * 24, "a row of the embedding is nothing beside it"
    assert all_of_them == counted.parameters - 50 * 24
    two = Serving(config, Inference(8, 8), h100).read_bytes(2) / 2
    assert two - one == pytest.approx(3 / 4 * 2 * 3 * 24 * 40), "of the second's two, a quarter were the first's"


def test_the_cache_is_as_large_as_the_decoders():
    cache = KVCache(SMALL, 2, torch.float32, torch.device("cpu"))
    found = 0
    for i, layer in enumerate(SMALL.layers):
        new = torch.zeros(2, 9, layer.mixer.n_kv_heads, layer.mixer.head_dim)
        found += sum(t.numel() for t in cache.append(i, new, new))
    assert 2 * cache_bytes(SMALL, 9, 4) == 4 * found


def test_a_window_bounds_cache_and_attention():
    windowed = dataclasses.replace(
        SMALL, layers=tuple(dataclasses.replace(x, mixer=dataclasses.replace(x.mixer, window=8)) for x in SMALL.layers)
    )
    assert cache_bytes(windowed, 60) == cache_bytes(SMALL, 8)
    assert forward_pass(windowed, 1, 60 - 1).forward_flops == forward_pass(SMALL, 1, 8 - 1).forward_flops


def test_decoding_one_sequence_takes_the_time_of_reading_weights_and_cache():
    config, h100 = KNOWN["llama-3.1-8b"], find_device("h100")
    alone = Serving(config, Inference(1000, 200, 1), h100)
    read = (8_030_261_248 - 128_256 * 4096) * 2 + 1100 * 131_072
    assert alone.seconds_per_output_token == pytest.approx(read / 3.35e12)
    assert alone.seconds_to_first_token == pytest.approx(forward_pass(config, 1000).forward_flops / 989.4e12)


def test_from_the_compute_bound_batch_on_a_step_takes_longer_with_every_sequence():
    config, h100 = KNOWN["llama-3.1-8b"], find_device("h100")
    edge = Serving(config, Inference(), h100).compute_bound_batch
    assert edge == pytest.approx(989.4e12 / 3.35e12, rel=0.01), "two FLOPs and two bytes a number: the device's own ratio"

    def step(batch_size):  # over a single key, so that the weights are all that counts
        return Serving(config, Inference(1, 1, batch_size), h100).seconds_per_token(1)

    assert step(int(edge)) == pytest.approx(step(1), rel=0.01)
    assert step(2 * int(edge)) == pytest.approx(2 * step(int(edge)), rel=0.02)


def test_the_largest_batch_fits_and_one_more_does_not():
    serving = Serving(KNOWN["llama-3.1-8b"], Inference(7000, 1000), find_device("h100"))
    for more in (0, 1):
        asked = dataclasses.replace(serving, requests=Inference(7000, 1000, serving.largest_batch + more))
        assert (asked.memory_bytes <= asked.device.memory_bytes) == (more == 0)
    assert Serving(KNOWN["llama-3.1-405b"], Inference(), find_device("h100")).largest_batch == 0


@pytest.mark.parametrize(
    "requests, names",
    [
        (Inference(prompt_tokens=0), "prompt_tokens"),
        (Inference(batch_size=0), "batch_size"),
        (Inference(weight_bytes=0), "weight_bytes"),
        (Inference(60, 5), "65 tokens"),
    ],
)
def test_requests_that_cannot_be_are_refused(requests, names):
    with pytest.raises(UsageError, match=names):
        requests.check(SMALL)


def test_an_unknown_model_or_a_device_without_bandwidth_is_named():
    with pytest.raises(UsageError, match=r"gpt-9.*llama-2-7b"):
        known_model("gpt-9")
    unmeasured = dataclasses.replace(find_device("h100"), name="mystery", bandwidth_bytes_per_s=None)
    with pytest.raises(UsageError, match="mystery"):
        _ = Serving(SMALL, Inference(10, 10), unmeasured).seconds_per_output_token
