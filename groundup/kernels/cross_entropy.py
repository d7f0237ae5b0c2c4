"""The head and its loss in one pass: logits exist only for one chunk of rows at a time, and their gradients are taken at once.

Holding all logits costs N * V numbers three times over (logits, probabilities, gradient); here a chunk that fits the cache is
computed, turned into its own gradient in place, and multiplied into d_hidden and d_weight before the next chunk begins.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}  # logits alive at a time: the CPU's share of cache, the GPU's of memory


def chunk_rows(vocab_size: int, device_type: str) -> int:
    """Rows of logits computed at a time: what fits CHUNK_BYTES in fp32, at least 32."""
    return max(32, CHUNK_BYTES.get(device_type, 4 << 20) // (4 * vocab_size))


def _exponentials(logits: Float[Tensor, "n v"]) -> tuple[Float[Tensor, "n v"], Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """exp(logits - peak) in place of the logits, each row's peak, and each row's sum of exponentials."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and not torch.compiler.is_compiling():
        from groundup.kernels import fused  # only where it runs: a GPU's machine need not have numba

        return logits, *fused.exp_rows(logits)
    peak = logits.amax(1, keepdim=True)
    exps = logits.sub_(peak).exp_()
    return exps, peak, exps.sum(1, keepdim=True)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, gate_logits, expert_log_p, scale, cap, network_share, needs):
        w = weight.to(hidden.dtype)
        wide = torch.promote_types(hidden.dtype, torch.float32)  # what logits and sums are held in
        nll = torch.empty(2, hidden.shape[0], dtype=wide, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if needs else None
        d_weight = torch.zeros_like(weight, dtype=wide) if needs else None
        d_bias = torch.zeros_like(bias) if needs and bias is not None else None
        d_gate = torch.empty_like(gate_logits) if needs and gate_logits is not None else None
        rows = chunk_rows(weight.shape[0], hidden.device.type)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            x, y = hidden[part], targets[part, None]
            valid = (y >= 0).to(wide)
            index = y.clamp(min=0)
            logits = (x @ w.T).to(wide)
            if bias is not None:
                logits += bias
            capped = None
            if cap is not None:
                capped = torch.tanh_(logits.div_(cap))
                logits = capped * cap
            picked = logits.gather(1, index)
            exps, peak, total = _exponentials(logits)
            log_p = picked - peak - total.log()
            nll[0, part] = -(log_p * valid)[:, 0]
            share = scale * valid
            if gate_logits is None:
                nll[1, part] = nll[0, part]
            else:
                gates = torch.log_softmax(gate_logits[part].to(wide), dim=1)
                joint = gates + torch.cat((log_p, expert_log_p[part].to(wide)), dim=1)
                mixed = torch.logsumexp(joint, dim=1, keepdim=True)
                nll[1, part] = -(mixed * valid)[:, 0]
                blame = torch.exp(joint - mixed)  # the share of the target's probability that each expert gave
                if needs:
                    d_gate[part] = (1 - network_share) * share * (gates.exp() - blame)
                share = share * ((1 - network_share) * blame[:, :1] + network_share)
            if not needs:
                continue
            # d loss / d logits = (share / total) * (exps - total * onehot); the factor goes to the [n, D] sides of the products
            grad = exps.scatter_add_(1, index, -total)
            if capped is not None:
                grad *= 1 - capped.square_()
            factor = share / total
            if d_bias is not None:
                d_bias += (grad * factor).sum(0)
            g, factor = grad.to(hidden.dtype), factor.to(hidden.dtype)
            torch.mm(g, w, out=d_hidden[part])
            d_hidden[part] *= factor
            if g.dtype == wide:
                d_weight.addmm_(g.T, x * factor)
            else:
                d_weight += (g.T @ (x * factor)).to(wide)
        ctx.save_for_backward(d_hidden, d_weight, d_bias, d_gate)
        ctx.mark_non_differentiable(nll)
        return torch.lerp(nll[1].sum(), nll[0].sum(), network_share) * scale, nll

    @staticmethod
    def backward(ctx, grad, _):
        d_hidden, d_weight, d_bias, d_gate = (None if d is None else d * grad.to(d.dtype) for d in ctx.saved_tensors)
        return d_hidden, d_weight, d_bias, None, d_gate, None, None, None, None, None


def head_loss(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " n"],
    *,
    bias: Float[Tensor, " v"] | None = None,
    gate_logits: Float[Tensor, "n k1"] | None = None,
    expert_log_p: Float[Tensor, "n k"] | None = None,
    scale: float = 1.0,
    logit_softcap: float | None = None,
    network_share: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "2 n"]]:
    """scale * sum of nats of the targets (-1 costs nothing), and the nats of each target: row 0 the network alone, row 1 the mixture.

    With experts, p(y) = g_0 softmax(hidden weight^T)_y + sum_k g_k p_k(y), g = softmax(gate_logits); else both rows are the network's.
    The gradient of log p(y) reaches the network scaled by its posterior g_0 p_net(y) / p(y): the network learns what the experts do not
    know; ``network_share`` a of the loss is the network's own nats instead, (1 - a) nll_mixture + a nll_network.
    Oracle: ``model.functional.mixture_nll_reference``.
    """
    needs = torch.is_grad_enabled()  # inside a Function it never is, and scoring must not pay for gradients
    return _HeadLoss.apply(hidden, weight, bias, targets, gate_logits, expert_log_p, scale, logit_softcap, network_share, needs)
