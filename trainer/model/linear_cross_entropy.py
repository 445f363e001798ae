"""Cross-entropy of a projection onto a large vocabulary, without ever holding all logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F

CHUNK = 256  # rows whose logits exist at one time


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight, bias, target, weights, chunk):
        needed = ctx.needs_input_grad
        for_rows = torch.empty_like(rows) if needed[0] else None
        for_weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        for_bias = torch.zeros_like(bias, dtype=torch.float32) if needed[2] else None
        losses = rows.new_empty(len(rows), dtype=torch.float32)
        for start in range(0, len(rows), chunk):
            part, gold = rows[start : start + chunk], target[start : start + chunk, None]
            log_probabilities = torch.addmm(bias, part, weight.T).float().log_softmax(-1)
            losses[start : start + chunk] = -log_probabilities.gather(1, gold)[:, 0]
            # Softmax minus one-hot, in the place of the logits.
            upper = log_probabilities.exp_().scatter_add_(1, gold, torch.full_like(gold, -1, dtype=torch.float32))
            upper *= weights[start : start + chunk, None]
            if for_bias is not None:
                for_bias += upper.sum(0)
            upper = upper.to(rows.dtype)
            if for_rows is not None:
                torch.mm(upper, weight, out=for_rows[start : start + chunk])
            if for_weight is not None:
                for_weight += upper.T @ part
        ctx.gradients = (for_rows, for_weight, for_bias, weight.dtype, bias.dtype)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    def backward(ctx, upper, _):
        for_rows, for_weight, for_bias, weight_dtype, bias_dtype = ctx.gradients
        return (
            None if for_rows is None else for_rows * upper.to(for_rows.dtype),
            None if for_weight is None else (for_weight * upper).to(weight_dtype),
            None if for_bias is None else (for_bias * upper).to(bias_dtype),
            None,
            None,
            None,
        )


def linear_cross_entropy(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    chunk: int = CHUNK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum over rows of cross_entropy(rows @ weight.T + bias, target), in fp32, and each row's own, detached.

    The gradients are computed along with the loss, `chunk` rows at a time, so that at most (chunk, V) logits exist; the
    backward pass only scales them, and needs no weights.

    Args:
        rows: (m, H), the masked positions alone; weight: (V, H); bias: (V,); target: int64 (m,).
        weights: float32 (m,), of each row's loss. In fp16, where small gradients vanish, keep them near 1 and multiply
            the sum instead.
    """
    return _LinearCrossEntropy.apply(rows, weight, bias, target, weights, chunk)


def linear_scores(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, target: torch.Tensor, chunk: int = CHUNK
) -> torch.Tensor:
    """float32 (m, 2): each row's cross-entropy, and 1 where its target has the highest logit; arguments as above."""
    scores = []
    for part, gold in zip(rows.split(chunk), target.split(chunk), strict=True):
        logits = F.linear(part, weight, bias).float()
        losses = F.cross_entropy(logits, gold, reduction="none")
        scores.append(torch.stack([losses, (logits.argmax(-1) == gold).float()], dim=1))
    return torch.cat(scores)
