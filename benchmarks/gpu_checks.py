"""Whether what runs on this GPU computes what the references say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.gpu_jobs import Job, Outcome, Setting, bounded
from groundup.account.shapes import architecture
from groundup.config import ModelConfig
from groundup.kernels import elementwise
from groundup.kernels.attention import BACKENDS, HAS_TRITON, choose_backend
from groundup.kernels.cross_entropy import head_loss
from groundup.model import functional as F
from groundup.model.decoder import Decoder
from groundup.model.initialize import initialize
from groundup.optim import Muon, OptimizerConfig, build_optimizer
from groundup.optim.orthogonal import orthogonalize, polar_express
from groundup.train.step import StepConfig, TrainBatch, TrainState, train_step

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest error over the largest value: fp32 with room for another order of summation, not for TF32 (1e-3); bf16 has 8 bits (4e-3),
twice rounded on the way to a gradient."""


def correctness(setting: Setting) -> Iterator[Job]:
    """All checks, cheapest to understand first."""
    yield Job("attention that training would choose", lambda: Outcome(": ".join(choose_backend(setting.device))))
    yield from attention_checks(setting)
    for dtype in BOUNDS:
        yield Job(f"norms and activations, {_name(dtype)}", lambda d=dtype: check_elementwise(setting, d))
    for dtype in BOUNDS:
        for experts in (0, 3):
            yield Job(
                f"head and loss, {_name(dtype)}, {'mixture' if experts else 'softcap'}",
                lambda d=dtype, e=experts: check_head(setting, d, e),
            )
    for name in ("groundup", "qwen3"):
        yield Job(f"decoder {name}, loss and gradients against the CPU, fp32", lambda n=name: check_decoder(setting, n))
    yield Job("Newton-Schulz, singular values", lambda: check_orthogonalize(setting))
    yield Job("two runs from one seed, one step", lambda: check_determinism(setting))


def random(*shape: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Normal numbers that are the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def packed_documents(batch: int, seq_len: int, mean_length: int, device: torch.device) -> Tensor:
    """[B, T] ascending documents of random lengths."""
    starts = torch.rand(batch, seq_len, generator=torch.Generator().manual_seed(7)) < 1 / mean_length
    return starts.int().cumsum(1).int().to(device)


def attention_checks(setting: Setting) -> Iterator[Job]:
    """Every backend that can run here against the reference in fp64, with every mask, head dims padded and not."""
    usable = ["sdpa", "blocked"]
    if HAS_TRITON and (setting.cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        usable.insert(0, "triton")
    elif not setting.cuda:
        yield Job("attention triton", lambda: Outcome("needs a GPU, or TRITON_INTERPRET=1", "skipped"))
    shapes = [(20, 2, 1, 16)] if setting.quick else [(300, 4, 2, 64), (513, 3, 1, 128), (200, 2, 2, 80), (1024, 4, 4, 64)]
    for name in usable:
        for dtype in BOUNDS:
            if dtype == torch.bfloat16 and (name == "blocked" or not setting.cuda):
                continue  # blocked is the CPU's and keeps its scores in the input's type; Triton's interpreter has no bf16 products
            for shape in shapes:
                label = f"attention {name}, {_name(dtype)}, T {shape[0]}, heads {shape[1]}/{shape[2]} of {shape[3]}"
                yield Job(label, lambda n=name, d=dtype, s=shape: check_attention(setting, n, d, *s))


def check_attention(setting: Setting, backend: str, dtype: torch.dtype, t: int, heads: int, kv: int, dim: int) -> Outcome:
    """Largest relative error of output and gradients over the four masks."""
    q, k, v, upstream = (random(2, t, n, dim, seed=i, dtype=dtype, device=setting.device) for i, n in enumerate((heads, kv, kv, heads)))
    worst, where = 0.0, ""
    owners = packed_documents(2, t, max(4, t // 5), setting.device)
    for documents in (None, owners):
        for window in (None, t // 3):
            inputs = [x.clone().requires_grad_() for x in (q, k, v)]
            exact = [x.double().requires_grad_() for x in (q, k, v)]
            out, wanted = BACKENDS[backend](*inputs, documents, window), F.attention_reference(*exact, documents, window)
            found = [out, *torch.autograd.grad(out, inputs, upstream)]
            references = [wanted, *torch.autograd.grad(wanted, exact, upstream.double())]
            for part, a, b in zip(("output", "dq", "dk", "dv"), found, references, strict=True):
                error = relative_error(a, b)
                if not error <= worst:
                    worst, where = error, f"{part}, {'documents' if documents is not None else 'no documents'}, window {window}"
    return bounded(f"largest error ({where})", worst, BOUNDS[dtype])


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    wanted = wanted.detach().double()
    return float((found.detach().double().to(wanted.device) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


def _errors(ours: Callable, reference: Callable, inputs: list[Tensor]) -> float:
    """Largest relative error of value and gradients of ours in the inputs' type against the reference in fp64."""
    mine = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    out, wanted = ours(*mine), reference(*exact)
    upstream = random(*out.shape, seed=9, dtype=out.dtype, device=out.device)
    found = [out, *torch.autograd.grad(out, mine, upstream)]
    references = [wanted, *torch.autograd.grad(wanted, exact, upstream.double())]
    return max(relative_error(a, b) for a, b in zip(found, references, strict=True))


def check_elementwise(setting: Setting, dtype: torch.dtype) -> Outcome:
    """Norms of the model, and activations with a backward of their own, against autograd through the equations in fp64."""
    x, y = (random(64, 256, seed=i, dtype=dtype, device=setting.device) for i in range(2))
    gain = random(256, seed=2, dtype=dtype, device=setting.device)
    errors = {
        "rms_norm": _errors(F.rms_norm, F.rms_norm, [x, gain]),
        "layer_norm": _errors(F.layer_norm, F.layer_norm, [x, gain, gain]),
        "swiglu": _errors(elementwise.swiglu, lambda a, b: F.silu(a) * b, [x, y]),
        "relu2": _errors(elementwise.relu2, F.relu2, [x]),
        "gelu": _errors(F.gelu, F.gelu, [x]),
    }
    if dtype == torch.float32:
        errors["fused rms_norm"] = _errors(elementwise.rms_norm, F.rms_norm, [x])
    worst = max(errors, key=lambda name: errors[name])
    return bounded(f"largest error ({worst})", errors[worst], BOUNDS[dtype])


def check_head(setting: Setting, dtype: torch.dtype, n_experts: int) -> Outcome:
    """The chunked head against all logits at once: loss, and gradients of hidden states, matrix and gates."""
    n, d, vocab = (70, 16, 97) if setting.quick else (3000, 256, 50_304)  # on a GPU three chunks of rows
    device = setting.device
    hidden, upstream_scale = random(n, d, seed=0, dtype=dtype, device=device), 1.0 / n
    weight = random(vocab, d, seed=1, dtype=torch.float32, device=device) / d**0.5
    targets = torch.randint(-1, vocab, (n,), generator=torch.Generator().manual_seed(2)).to(device)
    mixture, cap = [], None if n_experts else 15.0
    if n_experts:
        mixture = [random(n, n_experts + 1, seed=3, dtype=torch.float32, device=device)]
        expert_log_p = -random(n, n_experts, seed=4, dtype=torch.float32, device=device).abs() - 1

    def ours(h, w, gates=None):
        experts = expert_log_p if gates is not None else None
        return head_loss(h, w, targets, gate_logits=gates, expert_log_p=experts, scale=upstream_scale, logit_softcap=cap)[0]

    def reference(h, w, gates=None):
        logits = (h.float() @ w.to(h.dtype).float().T).float()
        logits = logits if cap is None else F.softcap(logits, cap)
        return F.mixture_nll_reference(logits, targets, gates, expert_log_p if gates is not None else None).sum() * upstream_scale

    errors = []
    inputs = [[x.clone().requires_grad_() for x in (hidden, weight, *mixture)] for _ in range(2)]
    losses = [ours(*inputs[0]), reference(*inputs[1])]
    gradients = [torch.autograd.grad(loss, of) for loss, of in zip(losses, inputs, strict=True)]
    for a, b in zip((losses[0], *gradients[0]), (losses[1], *gradients[1]), strict=True):
        errors.append(relative_error(a, b))
    return bounded("largest error (loss, d hidden, d weight, d gates)", max(errors), BOUNDS[dtype])


def small_model(name: str, setting: Setting) -> ModelConfig:
    """A model with every part of its architecture, the sparse table too, small enough for the CPU's side of a comparison."""
    width = 64 if setting.quick else 256
    rows = {"hash_rows": 16_384} if name == "groundup" else {}
    return architecture(name, vocab_size=512, d_model=width, n_layers=2, head_dim=32, context_length=256, **rows)


def random_batch(config: ModelConfig, rows: int, seq_len: int, device: torch.device, seed: int = 0) -> TrainBatch:
    """Random tokens in documents; the last token of a document has no target."""
    ids = torch.randint(config.vocab_size, (rows, seq_len + 1), generator=torch.Generator().manual_seed(seed))
    documents = packed_documents(rows, seq_len + 1, 300 + seed, torch.device("cpu"))
    targets = ids[:, 1:].where(documents[:, 1:] == documents[:, :-1], -1)
    return TrainBatch(*(x.contiguous().to(device) for x in (ids[:, :-1], targets, documents[:, :-1])))


def check_decoder(setting: Setting, name: str) -> Outcome:
    """Loss and every gradient in fp32 here against fp32 on the CPU, each error relative to its tensor's norm."""
    config = small_model(name, setting)
    found = []
    for device in (setting.device, torch.device("cpu")):
        model = initialize(Decoder(config), 0, zero_outputs=False).to(device)
        batch = random_batch(config, 2, 64 if setting.quick else 200, device)
        loss, _ = model.loss(batch.tokens, batch.targets, batch.documents, scale=1e-2)
        loss.backward()
        gradients = {n: p.grad.to_dense().cpu().double() for n, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": loss.detach().cpu().double()} | gradients)
    here, there = found
    errors = {n: float((here[n] - there[n]).norm() / there[n].norm().clamp_min(1e-30)) for n in there}
    worst = max(errors, key=lambda n: errors[n])
    return bounded(f"largest error ({worst})", errors[worst], BOUNDS[torch.float32])


def check_orthogonalize(setting: Setting) -> Outcome:
    """Singular values after Muon's iteration, of matrices whose own spread over two decades; bf16 on a GPU."""
    rows, cols = (48, 96) if setting.quick else (768, 3072)
    left, right = (torch.linalg.qr(torch.randn(n, rows, generator=torch.Generator().manual_seed(n)))[0] for n in (rows, cols))
    values = torch.logspace(0, -2, rows)
    matrix = ((left * values) @ right.T).to(setting.device)
    muon = Muon()
    out = orthogonalize(matrix[None], polar_express(muon.steps, muon.lower))[0].float().cpu()
    found = torch.linalg.svdvals(out)
    low, high = float(found.min()), float(found.max())
    status = "ok" if low >= 0.75 and high <= 1.25 else "FAILED"
    return Outcome(
        f"within [{low:.3f}, {high:.3f}] (bound [0.75, 1.25], exact arithmetic [0.85, 1.13])", status, {"low": low, "high": high}
    )


def check_determinism(setting: Setting) -> Outcome:
    """Whether two runs of one training step from one seed end in equal bits; micro-batches, documents and the sparse table included."""
    config = replace(small_model("groundup", setting), logit_softcap=15.0)
    ends = []
    for _ in range(2):
        model = initialize(Decoder(config), 0, zero_outputs=False).to(setting.device)
        model.compute_dtype = setting.dtype
        state = TrainState(model, build_optimizer(model.named_parameters(), OptimizerConfig()))
        batch = random_batch(config, 4, 64 if setting.quick else 256, setting.device)
        state, _ = train_step(state, batch, StepConfig(10, micro_batch_size=2))
        ends.append({n: p.detach().clone() for n, p in state.model.named_parameters()})
    different = [n for n in ends[0] if not torch.equal(ends[0][n], ends[1][n])]
    text = "all weights equal, bit for bit" if not different else f"{len(different)} tensors differ, such as {different[0]}"
    return Outcome(text, "FAILED" if different else "ok", {"different": different})


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
