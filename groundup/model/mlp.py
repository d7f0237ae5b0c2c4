"""Dense MLPs and mixtures of experts: the modules that hold their projections, and the router."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.config import GATED, Activation, Dense, Experts, Router
from groundup.kernels import elementwise
from groundup.model import functional as F
from groundup.model.parts import Weights


def activate(inner: Float[Tensor, "*n f"], gate: Float[Tensor, "*n f"] | None, activation: Activation) -> Float[Tensor, "*n f"]:
    """The function between an MLP's projections, of the up projection and, where it has one, the gate."""
    match activation:
        case "swiglu":
            return elementwise.swiglu(gate, inner)
        case "geglu":
            return F.gelu(gate) * inner
        case "clamped_swiglu":
            return F.clamped_swiglu(gate, inner)
        case "gelu":
            return F.gelu(inner)
        case "relu2":
            return elementwise.relu2(inner)


class DenseLayer(nn.Module):
    """Holds the projections of an MLP and applies them."""

    def __init__(self, config: Dense, d_model: int):
        super().__init__()
        self.config = config
        if config.activation in GATED:
            self.gate = Weights(config.d_ff, d_model, bias=config.bias)
        self.up = Weights(config.d_ff, d_model, bias=config.bias)
        self.down = Weights(d_model, config.d_ff, bias=config.bias)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """down(act(up(x))), or down(act(gate(x), up(x))) for a gated activation."""
        gate = F.linear(x, self.gate.weight, self.gate.bias) if self.config.activation in GATED else None
        inner = activate(F.linear(x, self.up.weight, self.up.bias), gate, self.config.activation)
        return F.linear(inner, self.down.weight, self.down.bias)


def route(
    logits: Float[Tensor, "n x"], n_active: int, router: Router, selection_bias: Float[Tensor, " x"] | None = None
) -> tuple[Float[Tensor, "n a"], Int[Tensor, "n a"]]:
    """The weights of each token's n_active experts, and which these are.

    Scores are s = softmax(logits) or sigmoid(logits), the choice is by s + selection_bias within the best groups, the weights are s of
    those chosen, over their sum where the router renormalizes, times its scale (DeepSeek-V2, section 2.2; DeepSeek-V3, section 2.1.2).
    """
    if router.score == "softmax_of_chosen":
        best, chosen = logits.topk(n_active, dim=-1)
        return torch.softmax(best, dim=-1) * router.scale, chosen
    scores = torch.softmax(logits, dim=-1) if router.score == "softmax" else torch.sigmoid(logits)
    choice = scores if selection_bias is None else scores + selection_bias
    if router.n_groups > 1:
        grouped = choice.unflatten(-1, (router.n_groups, -1))
        best = grouped.amax(-1) if router.group_score == "max" else grouped.topk(2, dim=-1).values.sum(-1)
        kept = torch.zeros_like(best, dtype=torch.bool).scatter(-1, best.topk(router.n_active_groups, dim=-1).indices, True)
        choice = grouped.masked_fill(~kept[..., None], float("-inf")).flatten(-2)
    chosen = choice.topk(n_active, dim=-1).indices
    weights = scores.gather(-1, chosen)
    if router.renormalize:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-20)
    return weights * router.scale, chosen


class _Combine(torch.autograd.Function):
    """Adds each row times its weight to the token it came from; keeps its inputs, where autograd would keep their products too."""

    @staticmethod
    def forward(ctx, rows, weights, token, n_tokens):
        ctx.save_for_backward(rows, weights, token)
        return rows.new_zeros(n_tokens, rows.shape[1]).index_add_(0, token, rows * weights[:, None])

    @staticmethod
    def backward(ctx, grad):
        rows, weights, token = ctx.saved_tensors
        given = grad[token]
        of_weights = (given * rows).sum(-1)
        return given.mul_(weights[:, None]), of_weights, None, None


class ExpertsLayer(nn.Module):
    """Holds a router and the projections of all experts, one tensor each, and applies them."""

    selection_bias: Tensor | None

    def __init__(self, config: Experts, d_model: int):
        super().__init__()
        self.config = config
        x, f = config.n_experts, config.d_ff
        self.router = Weights(x, d_model, bias=config.router.bias)
        # a buffer: it is balanced by counts of tokens, not by gradients
        self.register_buffer("selection_bias", torch.zeros(x) if config.router.selection_bias else None)
        if config.activation in GATED:
            self.gate = Weights(x, f, d_model, bias=config.bias)
        self.up = Weights(x, f, d_model, bias=config.bias)
        self.down = Weights(x, d_model, f, bias=config.bias)
        self.shared = DenseLayer(config.shared, d_model) if config.shared is not None else None
        self.shared_gate = Weights(1, d_model) if config.shared_gate else None

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """sum over a token's experts of weight * expert(x), plus the shared MLP. The router works in fp32: its choice is a step."""
        rows = x.flatten(0, 1)
        logits = F.linear(F.wide(rows), self.router.weight, self.router.bias)
        weights, chosen = route(logits, self.config.n_active, self.config.router, self.selection_bias)
        y = self.apply_experts(rows, weights.to(x.dtype), chosen).view_as(x)
        if self.shared is None:
            return y
        shared = self.shared(x)
        return y + (shared if self.shared_gate is None else torch.sigmoid(F.linear(x, self.shared_gate.weight)) * shared)

    def apply_experts(self, x: Float[Tensor, "n d"], weights: Float[Tensor, "n a"], chosen: Int[Tensor, "n a"]) -> Float[Tensor, "n d"]:
        """Rows sorted by expert, one MLP a run of rows, results added where they came from. An expert without rows costs nothing."""
        order = chosen.flatten().argsort(stable=True)
        token = order // chosen.shape[1]
        counts = torch.bincount(chosen.flatten(), minlength=self.config.n_experts).tolist()
        return _Combine.apply(self._by_expert(x[token], counts), weights.flatten()[order], token, len(x))

    def _by_expert(self, rows: Float[Tensor, "r d"], counts: list[int]) -> Float[Tensor, "r d"]:
        gates = self._parts("gate") if self.config.activation in GATED else [(None, None)] * len(counts)
        done = []
        for x, gate, up, down in zip(rows.split(counts), gates, self._parts("up"), self._parts("down"), strict=True):
            if len(x):
                gated = None if gate[0] is None else F.linear(x, *gate)
                done.append(F.linear(activate(F.linear(x, *up), gated, self.config.activation), *down))
        return torch.cat(done)

    def _parts(self, name: str) -> list[tuple[Tensor, Tensor | None]]:
        """Weight and bias of each expert. Unbound once: gradients of slices would each be as large as the whole."""
        held = getattr(self, name)
        biases = held.bias.unbind() if held.bias is not None else [None] * len(held.weight)
        return list(zip(held.weight.unbind(), biases, strict=True))
