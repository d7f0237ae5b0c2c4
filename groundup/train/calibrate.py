"""A few seconds of trial: what this machine attains on the very code that will train."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections import Counter

import numpy as np
import torch

from groundup.account import cost, detect, total_memory_bytes
from groundup.account.hardware import CPU_USD_PER_CORE_HOUR
from groundup.account.plan import TOKENIZER_BYTES_PER_S
from groundup.account.rules import Machine
from groundup.account.shapes import architecture
from groundup.account.workload import Training
from groundup.config import ModelConfig
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.optim import OptimizerConfig, build_optimizer
from groundup.tokenizer.patterns import splitter
from groundup.train.step import StepConfig, TrainBatch, TrainState, train_step

TRIALS = {"cpu": ((64, 4, 512), (64, 4, 2048), (256, 2, 2048)), "cuda": ((256, 8, 4096), (256, 8, 32_768), (1536, 4, 32_768))}
"""(width, depth, tokens a step): a narrow model twice, then a wide one, with six times the FLOPs for each number between its products: with
less difference, noise decides which of the two a step's time is put down to."""
TRIAL_VOCABULARY = 512
TRIAL_STEPS = 5
LEAST_STEPS = 2
"""Steps of a trial that are timed, and how many are enough where they are slow."""
PROBE_BYTES, PROBE_BYTES_PER_S = 1 << 20, 4e6
"""Size of a text whose words are counted, and half a quiet core's speed at it: below it a machine tokenizes and counts slower as well
(docs/lab.md)."""


def pick_device() -> torch.device:
    """This rank's GPU if there is one, else the processor."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def measure_machine(device: torch.device, dtype: torch.dtype, *, seq_len: int = 256, most_s: float = math.inf) -> Machine:
    """Times trial steps, for about ``most_s`` at most, and solves for the three rates that the planner needs.

    seconds of a step = c + tokens * (FLOPs of a token * a + layers * width * b): a is the matrix products' share, b that of everything
    between them, c what even an empty step takes.
    """
    rows, seconds = [], []
    for width, depth, tokens in TRIALS[device.type]:
        config = architecture(
            "groundup", vocab_size=TRIAL_VOCABULARY, d_model=width, n_layers=depth, head_dim=32, context_length=seq_len, hash_rows=16_384
        )
        share = most_s / len(TRIALS[device.type])
        seconds.append(time_steps(config, device, dtype, batch_size=tokens // seq_len, seq_len=seq_len, most_s=share))
        rows.append([tokens * cost(config, Training(seq_len)).flops_per_token_training, tokens * width * depth])
    (few, many), (short, long, _) = (rows[0][1], rows[1][1]), seconds
    per_step = max(0.0, long - (long - short) * many / (many - few))
    per_step = min(per_step, 0.5 * min(seconds))  # noise may say more than a whole step took
    per_flop, per_activation = np.linalg.solve(np.array(rows[1:]), np.array(seconds[1:]) - per_step)
    if per_flop <= 0 or per_activation < 0:  # noise: put everything on the FLOPs of the larger model
        per_flop, per_activation = (seconds[-1] - per_step) / rows[-1][0], 0.0
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else total_memory_bytes()
    known = detect(device_name(device)) if device.type == "cuda" else None
    return Machine(
        device_name(device),
        device.type,
        float(per_flop),
        float(per_activation),
        matmul_rate(device, dtype),
        tokenizer_rate(),
        memory,
        CPU_USD_PER_CORE_HOUR * torch.get_num_threads() if device.type == "cpu" else known.usd_per_hour if known else None,
        float(per_step),
    )


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a plain matrix product, the best of a few: 1024^3 on a processor, 8192^3 on a GPU."""
    n = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


def tokenizer_rate() -> float:
    """Bytes/s of training the tokenizer and encoding: TOKENIZER_BYTES_PER_S, or as much less as a short count of words takes longer."""
    text = " ".join(f"{i * 2654435761 % 9973:x} of" for i in range(PROBE_BYTES // 8))
    started = time.perf_counter()
    Counter(splitter("gpt2")(text))
    return TOKENIZER_BYTES_PER_S * min(1.0, len(text) / (time.perf_counter() - started) / PROBE_BYTES_PER_S)


def time_steps(
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    batch_size: int,
    seq_len: int,
    n: int = TRIAL_STEPS,
    most_s: float = math.inf,
) -> float:
    """Median seconds of a training step of this model on random tokens, after one to warm up; of fewer where n take longer than most_s."""
    model = initialize(Decoder(config), 0).to(device)
    model.compute_dtype = dtype
    state = TrainState(model, build_optimizer(model.named_parameters(), OptimizerConfig()))
    settings = StepConfig(n + 1, batch_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (batch_size, seq_len + 1), generator=generator).to(device)
    batch = TrainBatch(ids[:, :-1], ids[:, 1:], torch.zeros_like(ids[:, :-1], dtype=torch.int32))
    times: list[float] = []
    while len(times) <= n and (len(times) <= LEAST_STEPS or sum(times[1:]) < most_s):
        started = time.perf_counter()
        state, _ = train_step(state, batch, settings)
        _wait(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
