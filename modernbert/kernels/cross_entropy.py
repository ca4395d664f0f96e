"""Cross-entropy of a decoder over masked positions (MLM), without keeping the logits.

M masked positions, D hidden, V vocabulary. The (M, V) logits of a step are its largest tensor by far (8,192
masked positions of a 50k vocabulary: 1.6 GB in float32, twice that with their gradient). They are made a
chunk of rows at a time, and as the loss is a scalar, the gradient of a chunk is finished in the forward pass,
while its logits are at hand; the backward only scales what was kept, (M, D) and (V, D).
Sources: Hsu et al., "Liger Kernel", arXiv:2410.10989 (gradient in the forward, by chunks); Wijmans et al.,
"Cut Your Losses in Large-Vocabulary Language Models", arXiv:2411.09009.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modernbert.errors import BackendError
from modernbert.kernels import dispatch

# Logits held at once. CPU: 64 MiB in float32. GPU: more, as each chunk is added to the whole (V, D) gradient.
CHUNK_LOGITS_CPU = 2**24
CHUNK_LOGITS_GPU = 2**27


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Mean over M of cross_entropy(hidden @ weight.T + bias, targets): a float32 (of float64 input, float64).

    Args:
        hidden: (M, D), the masked positions only.
        weight: (V, D); may be wider than `hidden` (float32 master weights), is used in its dtype.
        bias: (V,) or None.
        targets: (M,) int64 in [0, V). On a GPU one outside makes the loss NaN, as looking would wait for it.

    Raises:
        BackendError: a shape, dtype, device or (on CPU) a target that does not fit, or no masked position.
    """
    _check(hidden, weight, bias, targets)
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    if torch.is_grad_enabled():
        return _LinearCrossEntropy.apply(hidden, weight, bias, targets)
    return _chunked(hidden, weight, bias, targets, (False, False, False))[0]


def linear_cross_entropy_reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The definition, with all logits in memory."""
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, weight, bias), targets)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        loss, *gradients = _chunked(hidden, weight, bias, targets, ctx.needs_input_grad[:3])
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if kept is None else (kept * grad).to(kept.dtype) for kept in ctx.saved_tensors), None


def _chunked(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The loss and, of each input that needs one, its gradient. Outside autograd, and outside autocast."""
    wide = torch.promote_types(hidden.dtype, torch.float32)  # sums over many rows are kept in it
    count = hidden.shape[0]
    losses = hidden.new_empty(count, dtype=wide)
    grad_hidden = torch.empty_like(hidden) if needs[0] else None
    grad_weight = torch.zeros_like(weight, dtype=wide) if needs[1] else None
    grad_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and needs[2] else None
    decoder = weight.to(hidden.dtype)
    shift = None if bias is None else bias.to(hidden.dtype)
    limit = CHUNK_LOGITS_GPU if hidden.is_cuda else CHUNK_LOGITS_CPU
    chunk = max(1, limit // weight.shape[0])
    with torch.autocast(hidden.device.type, enabled=False):
        for start in range(0, count, chunk):
            rows = slice(start, start + chunk)
            logits = torch.nn.functional.linear(hidden[rows], decoder, shift)
            losses[rows], grad = _loss_and_gradient(logits, targets[rows], any(needs))
            if grad_hidden is not None:
                torch.mm(grad, decoder, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, grad.t(), hidden[rows])
            if grad_bias is not None:
                grad_bias += grad.sum(0, dtype=wide)
    # The gradients so far are those of the sum of losses.
    if grad_hidden is not None:
        grad_hidden /= count
    if grad_weight is not None:
        grad_weight = grad_weight.div_(count).to(weight.dtype)
    if grad_bias is not None and bias is not None:
        grad_bias = grad_bias.div_(count).to(bias.dtype)
    return losses.mean(), grad_hidden, grad_weight, grad_bias


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, where `total` may be wider than both."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _loss_and_gradient(logits: Tensor, targets: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """Losses (R,) and softmax - onehot (R, V) in the dtype of `logits`, which may be overwritten."""
    if dispatch.runs_triton(logits):
        from modernbert.kernels import cross_entropy_triton

        return cross_entropy_triton.loss_and_gradient_(logits, targets, gradient), logits
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_probability = torch.log_softmax(logits, dim=1, dtype=wide)
    index = targets[:, None]
    losses = -log_probability.gather(1, index)[:, 0]
    if not gradient:
        return losses, logits
    minus_one = log_probability.new_full((), -1.0).expand(index.shape)
    return losses, log_probability.exp_().scatter_add_(1, index, minus_one).to(logits.dtype)


def _check(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
    name = "linear_cross_entropy"
    dispatch.check_floats(name, hidden=hidden, weight=weight, bias=bias)
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        given = f"hidden is {tuple(hidden.shape)}, weight {tuple(weight.shape)}"
        raise BackendError(f"{name}: {given}; give (M, D) and (V, D)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise BackendError(f"{name}: bias has shape {tuple(bias.shape)}; give ({weight.shape[0]},)")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64 or targets.device != hidden.device:
        given = f"targets are {tuple(targets.shape)} {targets.dtype} on {targets.device}"
        raise BackendError(f"{name}: {given}; give ({hidden.shape[0]},) torch.int64 on {hidden.device}")
    if not targets.numel():
        raise BackendError(f"{name}: no masked position, so no mean loss; skip such a batch")
    if not targets.is_cuda and not 0 <= int(targets.min()) <= int(targets.max()) < weight.shape[0]:
        given = f"targets from {int(targets.min())} to {int(targets.max())}"
        raise BackendError(f"{name}: {given}; give masked positions only, each in [0, {weight.shape[0]})")
