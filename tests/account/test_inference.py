"""What inference costs, against published models, the running decoder and closed forms."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_shapes import configs
from torch.utils.flop_counter import FlopCounterMode

from groundup.account import cost, find_device
from groundup.account.cost import forward_pass
from groundup.account.inference import Serving, cache_bytes
from groundup.account.known import KNOWN, known_model
from groundup.account.workload import Inference, Training
from groundup.config import Attention, Dense, Layer, ModelConfig
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
}
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


@pytest.mark.parametrize("n_keys", [2, 3, 17])
def test_a_decoding_step_multiplies_as_often_as_the_running_decoder(n_keys):
    model = initialize(Decoder(SMALL), 0).eval()
    cache = KVCache(SMALL, 3, torch.float32, torch.device("cpu"))
    tokens = torch.randint(50, (3, n_keys))
    with torch.no_grad():
        model.hidden(tokens[:, :-1], cache=cache)
        cache.advance(tokens[:, :-1])
        with FlopCounterMode(display=False) as counter:
            model.logits(model.hidden(tokens[:, -1:], cache=cache))
    assert counter.get_total_flops() == 3 * forward_pass(SMALL, 1, n_keys - 1).forward_flops


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
