"""Dropout on a CPU, where drawing one random number an element costs more than the arithmetic around it.

torch's generator draws 64 bits at a time; a mask needs 16 of them to keep an element with a probability of k / 65536
(dropout of 0.1 becomes 6554 / 65536 = 0.100006). The generator is torch's own, so seeds mean what they always do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_LEVELS = 1 << 16


def keep_mask(elements: int, dropout: float) -> torch.Tensor:
    """bool (elements,): each True with probability 1 - dropout, to 1 in 65536. On the CPU."""
    draws = torch.empty(-(-elements // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    return draws.view(torch.int16)[:elements] >= round(dropout * _LEVELS) - _LEVELS // 2


def keep_scale(dropout: float) -> float:
    """What kept elements are multiplied by, for the probability that `keep_mask` really has."""
    return _LEVELS / (_LEVELS - round(dropout * _LEVELS))


class _DropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, update, residual, dropout):
        mask = keep_mask(update.numel(), dropout).view(update.shape)
        ctx.save_for_backward(mask)
        ctx.scale = keep_scale(dropout)
        return (update * mask).mul_(ctx.scale).add_(residual)

    @staticmethod
    def backward(ctx, gradient):
        (mask,) = ctx.saved_tensors
        return (gradient * mask).mul_(ctx.scale), gradient, None


def dropout_add(update: torch.Tensor, residual: torch.Tensor, dropout: float) -> torch.Tensor:
    """dropout(update) + residual, of one shape; with the cheap masks on a CPU, torch's own elsewhere."""
    if dropout == 0.0:
        return update + residual
    if update.device.type == "cpu":
        return _DropoutAdd.apply(update, residual, dropout)
    return F.dropout(update, dropout) + residual
