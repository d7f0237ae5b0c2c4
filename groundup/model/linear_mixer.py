"""A mixer of linear time: the gated delta rule (Yang, Kautz & Hatamizadeh 2025), chunk by chunk for training, step by step for decoding.

Each head keeps a matrix S [E, V] that maps keys to values. A token forgets some of it, then corrects what S says of its key:

    S_t = a_t S_{t-1} + k_t (b_t (v_t - a_t S_{t-1}^T k_t))^T,    o_t = S_t^T q_t,    a_t = exp(log_decay_t)

Symbols: H heads, E key_dim, V value_dim, c tokens of a chunk.
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from groundup.config import DELTA_CHUNK, LinearMixer
from groundup.kernels import elementwise
from groundup.model import functional as F
from groundup.model.parts import Cache, NormLayer, Weights

State = Float[Tensor, "b h e v"]


class _Convolution(torch.autograd.Function):
    """``causal_convolution`` that keeps its inputs only: autograd's own would keep each of the W shifted copies."""

    @staticmethod
    def forward(ctx, x, weight, earlier, documents):
        ctx.save_for_backward(x, weight, earlier, documents)
        y = x * weight[:, -1].to(x.dtype)
        for back, before in _shifted(x, earlier, documents, weight.shape[1]):
            y.addcmul_(before, weight[:, -1 - back].to(x.dtype))
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, earlier, documents = ctx.saved_tensors
        width, length = weight.shape[1], x.shape[1]
        padded = torch.cat((torch.zeros_like(earlier), grad * weight[:, -1].to(x.dtype)), dim=1)
        of_weight = [(grad * x).sum((0, 1), dtype=weight.dtype)]
        for back, before in _shifted(x, earlier, documents, width):
            of_weight.insert(0, before.mul_(grad).sum((0, 1), dtype=weight.dtype))
            given = torch.mul(grad, weight[:, -1 - back].to(x.dtype), out=before)
            if documents is not None:
                given.mul_(_same(documents, back)[..., None])
            padded[:, width - 1 - back : width - 1 - back + length] += given
        return padded[:, width - 1 :], torch.stack(of_weight, dim=1), padded[:, : width - 1], None


def _shifted(x: Tensor, earlier: Tensor, documents: Tensor | None, width: int) -> Iterator[tuple[int, Tensor]]:
    """For 1 to W - 1 tokens back: how far, and a copy of the inputs from there, 0 where another document was."""
    for back in range(1, width):
        before = torch.cat((earlier[:, width - 1 - back :], x), dim=1)[:, : x.shape[1]]
        yield back, before if documents is None else before.mul_(_same(documents, back)[..., None])


def _same(documents: Int[Tensor, "b t"], back: int) -> Bool[Tensor, "b t"]:
    same = torch.zeros_like(documents, dtype=torch.bool)
    same[:, back:] = documents[:, back:] == documents[:, : documents.shape[1] - back]
    return same


def causal_convolution(
    x: Float[Tensor, "b t c"],
    weight: Float[Tensor, "c w"],
    earlier: Float[Tensor, "b w1 c"],
    documents: Int[Tensor, "b t"] | None = None,
) -> Float[Tensor, "b t c"]:
    """y_t = sum_j weight_j x_{t - W + 1 + j} for each channel, over this document; ``earlier`` are the W - 1 inputs before these."""
    return _Convolution.apply(x, weight, earlier, documents)


def delta_rule_recurrent(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t h e"],
    v: Float[Tensor, "b t h v"],
    log_decay: Float[Tensor, "b t h"],
    beta: Float[Tensor, "b t h"],
    documents: Int[Tensor, "b t"] | None = None,
    state: State | None = None,
) -> tuple[Float[Tensor, "b t h v"], State]:
    """The module's equation, token by token: the oracle of ``delta_rule``, and what decoding runs."""
    s = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3]) if state is None else state
    outputs = []
    for t in range(q.shape[1]):
        if documents is not None and t:
            s = s * (documents[:, t] == documents[:, t - 1])[:, None, None, None]
        s = s * log_decay[:, t].exp()[..., None, None]
        known = (s * k[:, t, ..., None]).sum(-2)
        correction = (v[:, t] - known) * beta[:, t, :, None]
        s = s + k[:, t, ..., None] * correction[..., None, :]
        outputs.append((s * q[:, t, ..., None]).sum(-2))
    return torch.stack(outputs, dim=1), s


def delta_rule(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t h e"],
    v: Float[Tensor, "b t h v"],
    log_decay: Float[Tensor, "b t h"],
    beta: Float[Tensor, "b t h"],
    documents: Int[Tensor, "b t"] | None = None,
    state: State | None = None,
    *,
    keep: bool = False,
    chunk: int = DELTA_CHUNK,
) -> tuple[Float[Tensor, "b t h v"], State | None]:
    """The same in products of chunks, and with ``keep`` the state after them (Yang et al. 2024, section 3.2; 2025, section 3.3).

    Within a chunk the corrections u solve (I + A) u = b v - (b a k) S, where A_ij = b_i a_{j..i} k_i . k_j below the diagonal; then
    o = (a q) S + (a_{j..i} q_i . k_j) u, and S becomes a S + (a k)^T u. Nothing is read or kept across the end of a document; a ``state``
    is of the first one.
    """
    q, k, v = (rearrange(x, "b t h d -> b h t d") for x in (q, k, v))
    log_decay, beta = (rearrange(x, "b t h -> b h t") for x in (log_decay, beta))
    # laid out by heads once, or each product would keep a copy of its own; split, for the gradient of a slice is as long as the whole
    split = [x.split(chunk, dim=2) for x in (q.contiguous(), k.contiguous(), v, log_decay, beta)]
    owners = [None] * len(split[0]) if documents is None else documents.split(chunk, dim=1)
    outputs = []
    before = None if documents is None else documents[:, :1]  # the document that the state is of
    for i, (*arguments, here) in enumerate(zip(*split, owners, strict=True)):
        o, state = _chunk(*arguments, here, before, state, keep=keep or i < len(owners) - 1)
        outputs.append(o)
        before = None if here is None else here[:, -1:]
    return rearrange(torch.cat(outputs, dim=2), "b h t v -> b t h v"), state


def _chunk(q, k, v, log_decay, beta, documents, before, state, *, keep: bool) -> tuple[Tensor, Tensor | None]:
    """One chunk of ``delta_rule``, [B, H, c, .]: its outputs and the state after it."""
    total = log_decay.cumsum(-1)
    visible = _visible(q.shape[2], documents, q.device)
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~visible, float("-inf")).exp()
    weighted = k * beta[..., None]
    system = (weighted @ k.transpose(-1, -2)) * between
    right = v * beta[..., None]
    if state is not None:
        carried = total.exp() if before is None else total.exp() * (documents == before)[:, None]
        right = torch.cat((right, weighted * carried[..., None]), dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    new = solved if state is None else solved[..., : v.shape[-1]] - solved[..., v.shape[-1] :] @ state
    o = ((q @ k.transpose(-1, -2)) * between) @ new
    if state is not None:
        o = o + (q * carried[..., None]) @ state
    if not keep:
        return o, None
    kept = (total[..., -1:] - total).exp()
    kept = kept if documents is None else kept * (documents == documents[:, -1:])[:, None]
    after = (k * kept[..., None]).transpose(-1, -2) @ new
    return o, after if state is None else after + state * carried[..., -1, None, None]


def _visible(length: int, documents: Tensor | None, device: torch.device) -> Bool[Tensor, "#b 1 c c"]:
    lower = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    return lower if documents is None else lower & (documents[:, None, :, None] == documents[:, None, None, :])


def unit(x: Float[Tensor, "*n e"]) -> Float[Tensor, "*n e"]:
    """x / sqrt(|x|^2 + 1e-6)."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class LinearMixerLayer(nn.Module):
    """Holds the projections of a gated delta rule and applies them: projections, a short convolution, the rule, a gated norm."""

    def __init__(self, config: LinearMixer, d_model: int):
        super().__init__()
        self.config = c = config
        keys, values = c.n_key_heads * c.key_dim, c.n_heads * c.value_dim
        self.query, self.key = Weights(keys, d_model), Weights(keys, d_model)
        self.value, self.output_gate = Weights(values, d_model), Weights(values, d_model)
        self.beta, self.decay = Weights(c.n_heads, d_model), Weights(c.n_heads, d_model)
        self.convolution = Weights(2 * keys + values, c.conv_width)
        self.log_rate = nn.Parameter(torch.zeros(c.n_heads))
        self.decay_bias = nn.Parameter(torch.zeros(c.n_heads))
        self.norm = NormLayer(c.norm, c.value_dim)
        self.output = Weights(d_model, values)

    def forward(self, x, tokens, rotary, documents, backend: str, cache: Cache | None, index: int) -> Tensor:
        """[B, T, D] -> [B, T, D]. A cache holds the last inputs of the convolution and the state, whatever the length."""
        c = self.config
        o = self.rule(x, documents, cache, index).to(x.dtype)
        gate = F.linear(x, self.output_gate.weight).unflatten(-1, (c.n_heads, c.value_dim))
        y = elementwise.swiglu(F.wide(gate), F.wide(self.norm(o))).to(x.dtype)
        return F.linear(y.flatten(2), self.output.weight)

    def rule(self, x: Float[Tensor, "b t d"], documents: Tensor | None, cache: Cache | None, index: int) -> Float[Tensor, "b t h v"]:
        """What the heads read from their states, in fp32."""
        c = self.config
        mixed = torch.cat([F.linear(x, part.weight) for part in (self.query, self.key, self.value)], dim=-1)
        held = None if cache is None else cache.state(index)
        earlier = mixed.new_zeros(len(x), c.conv_width - 1, mixed.shape[-1]) if held is None else held[0]
        state = None if held is None else held[1]
        turned = F.silu(causal_convolution(mixed, self.convolution.weight, earlier, documents))
        arguments = (*self.heads(turned), *self.gates(x))
        if cache is None or x.shape[1] > 1:
            o, state = delta_rule(*arguments, documents, state, keep=cache is not None)
        else:
            o, state = delta_rule_recurrent(*arguments, None, state)
        if cache is not None:
            cache.keep_state(index, (torch.cat((earlier, mixed), dim=1)[:, x.shape[1] :], state))
        return o

    def heads(self, mixed: Float[Tensor, "b t c"]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit queries / sqrt(E) and unit keys [B, T, H, E], values [B, T, H, V], in fp32; heads share a key head in groups."""
        c = self.config
        keys = c.n_key_heads * c.key_dim
        q, k, v = F.wide(mixed).split([keys, keys, c.n_heads * c.value_dim], dim=-1)
        groups = c.n_heads // c.n_key_heads
        q, k = (unit(part.unflatten(-1, (c.n_key_heads, c.key_dim))).repeat_interleave(groups, dim=2) for part in (q, k))
        return q * c.key_dim**-0.5, k, v.unflatten(-1, (c.n_heads, c.value_dim))

    def gates(self, x: Float[Tensor, "b t d"]) -> tuple[Float[Tensor, "b t h"], Float[Tensor, "b t h"]]:
        """log a = -exp(log_rate) softplus(decay(x) + decay_bias), and b = sigmoid(beta(x))."""
        step = F.wide(F.linear(x, self.decay.weight)) + self.decay_bias
        return -self.log_rate.exp() * torch.logaddexp(step, torch.zeros_like(step)), torch.sigmoid(F.wide(F.linear(x, self.beta.weight)))
