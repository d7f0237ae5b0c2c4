"""Seconds of training steps that others measured in a layout and published, as data with their sources: to hold the predictions against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from groundup.account.cluster import Cluster, Step, network_of, take_step
from groundup.account.devices import DEVICES, Device
from groundup.account.execution import Recompute
from groundup.account.known import known_model
from groundup.account.layout import Layout
from groundup.account.roofline import Ceilings
from groundup.account.spread import Counted
from groundup.config import Attention, Dense, Layer, ModelConfig, Norm


@dataclass(frozen=True)
class PublishedStep:
    """A training step whose model, devices, layout and time are public."""

    name: str
    """Model and what is special."""
    config: ModelConfig
    """The model."""
    seq_len: int
    """Tokens of a sequence."""
    device: str
    """Key of what it ran on."""
    devices: int
    """How many."""
    layout: Layout
    """Who did what."""
    sequences: int
    """Of the whole step."""
    micro_batch: int
    """Sequences of a replica that went through at a time."""
    recompute: Recompute
    """What backward computed again."""
    seconds: float
    """Of the step, measured."""
    source: str
    """Where it is published."""
    built: Device | None = None
    """The device as theirs was built, where it was not as in the table."""
    gibibytes: float | None = None
    """Memory of the fullest device as its allocator had it, if that is published."""

    def predicted(self) -> Step:
        """The same step by the roofline over datasheets, the layout's communication and its bubble."""
        device, counted = self.built or DEVICES[self.device], Counted(self.config, self.seq_len)
        ceilings = Ceilings.of_device(device, device.half_precision)
        cluster = Cluster(device, self.devices, network_of(self.device, device), device.half_precision, ceilings=ceilings)
        sizes = {"batch_size": self.sequences, "micro_batch": self.micro_batch}
        return take_step(counted, self.layout, cluster.for_model(counted), recompute=self.recompute, **sizes)


def published_steps() -> Iterator[PublishedStep]:
    """All of them: A100 and H100, 8 to 3,072 devices, 1.7B to 1T parameters, data, tensor and pipeline parallelism."""
    yield from _torchtitan()
    yield from _narayanan()
    yield from _korthikanti()


def _torchtitan() -> Iterator[PublishedStep]:
    """Published as tokens a second and device, on sequences of 8,192.

    Its H100s have 96 GB of slower memory and 500 W of 700. What it calls selective recomputes some operators of a layer, for which
    attention alone stands here.
    """
    h100 = replace(DEVICES["h100"], name="H100 HBM2e, 500 W", memory_bytes=96 << 30, bandwidth_bytes_per_s=2.4e12, power_w=500.0)
    end_of_2024, async_tp, at_first = (f"torchtitan, {which}" for which in ("December 2024", "June 2025", "performance notes of 2024"))
    rows: tuple[tuple[str, str, str, Layout, int, Recompute, float, float | None, str], ...] = (
        ("llama-3.1-8b", "", "h100", Layout(8, zero=3), 2, "attention", 5762, 82.4, end_of_2024),
        ("llama-3.1-8b", ", compiled", "h100", Layout(8, zero=3), 2, "attention", 6667, 77.0, end_of_2024),
        ("llama-3.1-8b", "", "h100", Layout(128, zero=3), 2, "attention", 5605, 67.0, end_of_2024),
        ("llama-3.1-8b", ", compiled", "h100", Layout(128, zero=3), 2, "attention", 6514, 62.0, end_of_2024),
        ("llama-3.1-8b", ", compiled", "h100", Layout(8, 8, zero=3), 12, "attention", 4378, None, async_tp),
        ("llama-3.1-70b", ", compiled", "h100", Layout(32, 8, zero=3), 16, "layers", 597.3, None, async_tp),
        ("llama-3.1-8b", "", "a100", Layout(64, zero=3), 1, "attention", 2973, None, at_first),
        ("llama-3.1-70b", "", "a100", Layout(64, zero=3), 1, "layers", 331, None, at_first),
    )
    for model, special, device, layout, micro, recompute, tokens_per_s, held, source in rows:
        sequences = layout.data * micro
        seconds = sequences * 8192 / layout.devices / tokens_per_s
        sizes = layout.devices, layout, sequences, micro, recompute, seconds, source, h100 if device == "h100" else None, held
        yield PublishedStep(model + special, known_model(model), 8192, device, *sizes)


def _narayanan() -> Iterator[PublishedStep]:
    """Published as X FLOP/s a device with layers recomputed, F = 96 B T L D^2 (1 + T/6D + V/16LD) a step (Narayanan et al. 2021, eq. 3).

    Micro-batches are not printed with the table: four sequences here, or one where there is a pipeline.
    """
    rows = (  # name, H, D, L, tensor, pipeline, devices, B, X / 1e12
        ("1.7B", 24, 2304, 24, 1, 1, 32, 512, 137),
        ("3.6B", 32, 3072, 30, 2, 1, 64, 512, 138),
        ("7.5B", 32, 4096, 36, 4, 1, 128, 512, 142),
        ("18.4B", 48, 6144, 40, 8, 1, 256, 1024, 135),
        ("39.1B", 64, 8192, 48, 8, 2, 512, 1536, 138),
        ("76.1B", 80, 10_240, 60, 8, 4, 1024, 1792, 140),
        ("145.6B", 96, 12_288, 80, 8, 8, 1536, 2304, 148),
        ("310.1B", 128, 16_384, 96, 8, 16, 1920, 2160, 155),
        ("529.6B", 128, 20_480, 105, 8, 35, 2520, 2520, 163),
        ("1008B", 160, 25_600, 128, 8, 64, 3072, 3072, 163),
    )
    t = 2048
    for name, heads, d, n_layers, tensor, pipeline, devices, sequences, rate in rows:
        config = _gpt(d, n_layers, heads)
        flops = 96 * sequences * t * n_layers * d * d * (1 + t / (6 * d) + config.vocab_size / (16 * n_layers * d))
        layout, micro = Layout(devices // (tensor * pipeline), tensor, pipeline), 4 if pipeline == 1 else 1
        seconds = flops / (devices * rate * 1e12)
        sizes = devices, layout, sequences, micro, "layers", seconds, "Narayanan et al. 2021, table 1"
        yield PublishedStep(f"GPT {name}", config, t, "a100", *sizes)


def _korthikanti() -> Iterator[PublishedStep]:
    """Published as seconds of a step: layers recomputed without sequence parallelism, and attention recomputed with it."""
    rows = (  # name, H, D, L, pipeline, interleave, B, micro-batch, seconds with layers again, and with attention again
        ("22B", 64, 6144, 48, 1, 1, 4, 4, 1.42, 1.10),
        ("175B", 96, 12_288, 96, 8, 3, 64, 1, 18.13, 13.75),
        ("530B", 128, 20_480, 105, 35, 3, 280, 1, 49.05, 37.83),
        ("1T", 160, 25_600, 128, 64, 1, 512, 1, 94.42, 71.49),
    )
    for name, heads, d, n_layers, pipeline, interleave, sequences, micro, whole, selective in rows:
        layout = Layout(1, 8, pipeline, interleave=interleave)
        policies: tuple[tuple[Recompute, float], ...] = (("layers", whole), ("attention", selective))
        for recompute, seconds in policies:
            sizes = layout.devices, layout, sequences, micro, recompute, seconds, "Korthikanti et al. 2022, tables 3 and 5"
            yield PublishedStep(f"GPT {name}", _gpt(d, n_layers, heads), 2048, "a100", *sizes)


def _gpt(d_model: int, n_layers: int, n_heads: int) -> ModelConfig:
    """A GPT of Megatron-LM: 51,200 tokens, MLPs 4 D wide, 2,048 learned positions."""
    attention = Attention(n_heads, n_heads, d_model // n_heads, rotary=None, bias=True, output_bias=True)
    layer = Layer(attention, Dense(4 * d_model, "gelu", bias=True), Norm("layer", bias=True))
    return ModelConfig(51_200, d_model, 2048, (layer,) * n_layers, final_norm=layer.norm, tied=True, learned_positions=True)
