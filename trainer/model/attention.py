"""Packed attention: each sequence of a pack attends to itself alone, and no padding is computed.

Three backends, called by fused layers directly and by transformers' own through its attention interface:

    packed_varlen  CUDA, bf16 or fp16: one variable-length flash kernel, attention dropout included.
    packed_cpu     CPU: as packed_sdpa, but with cheap dropout masks and one autograd node for the whole pack.
    packed_sdpa    anywhere, any dtype: one scaled_dot_product_attention call a sequence.

Each takes queries, keys and values (T, heads, d), the offsets of the sequences (`cu_seqlens` on the device,
`max_seqlen` and `lengths` on the host, so that no backend waits for the device), and gives (T, heads, d).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from trainer.errors import UserError
from trainer.model.dropout import keep_mask, keep_scale

# No name with "flash" in it: transformers would look for a kernel of that name on the hub, and load no model.
FLASH, CPU, SDPA = "packed_varlen", "packed_cpu", "packed_sdpa"


def packed_sdpa(query, key, value, *, lengths: Sequence[int], dropout=0.0, scaling=None, **_) -> torch.Tensor:
    parts = zip(*(x.transpose(0, 1).split(lengths, 1) for x in (query, key, value)), strict=True)
    attended = [
        F.scaled_dot_product_attention(q[None], k[None], v[None], dropout_p=dropout, scale=scaling)[0]
        for q, k, v in parts
    ]
    return torch.cat(attended, 1).transpose(0, 1)


def packed_varlen(query, key, value, *, cu_seqlens, max_seqlen: int, dropout=0.0, scaling=None, **_) -> torch.Tensor:
    """torch's public variable-length entry (torch.nn.attention.varlen) has no dropout, which XLM-R trains with, hence
    the operator below it, whose autograd formula is registered."""
    return torch.ops.aten._flash_attention_forward(
        query, key, value, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout, False, False, scale=scaling
    )[0]


def packed_cpu(query, key, value, *, lengths: Sequence[int], dropout=0.0, scaling=None, **_) -> torch.Tensor:
    if dropout == 0.0:  # torch's CPU flash kernel is faster, but has no dropout
        return packed_sdpa(query, key, value, lengths=lengths, scaling=scaling)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _DroppedAttention.apply(query, key, value, lengths, dropout, scaling)


class _DroppedAttention(torch.autograd.Function):
    """softmax(q k' scaling), dropped out, times v, a sequence at a time: its scores stay in the core's cache."""

    @staticmethod
    def forward(ctx, query, key, value, lengths, dropout, scaling):
        heads = query.shape[1]
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        scale = keep_scale(dropout)
        masks = keep_mask(heads * sum(n * n for n in lengths), dropout).split([heads * n * n for n in lengths])
        attended = query.new_empty(query.shape[1], heads, query.shape[2])
        kept, probabilities, start = [], [], 0
        for length, flat in zip(lengths, masks, strict=True):
            rows, mask = slice(start, start + length), flat.view(heads, length, length)
            scores = torch.bmm(query[:, rows], key[:, rows].transpose(1, 2)).mul_(scaling)
            probability = torch.softmax(scores, -1)
            attended[rows] = torch.bmm(probability * mask, value[:, rows]).mul_(scale).transpose(0, 1)
            probabilities.append(probability)
            kept.append(mask)
            start += length
        ctx.save_for_backward(query, key, value, *probabilities, *kept)
        ctx.settings = (lengths, scale, scaling)
        return attended

    @staticmethod
    def backward(ctx, gradient):
        lengths, scale, scaling = ctx.settings
        query, key, value, *saved = ctx.saved_tensors
        gradient = gradient.transpose(0, 1) * scale
        gradients = query.new_empty(3, query.shape[1], *gradient.shape[::2])  # (3, T, heads, d)
        start = 0
        for length, probability, mask in zip(lengths, saved[: len(lengths)], saved[len(lengths) :], strict=True):
            rows = slice(start, start + length)
            upper = gradient[:, rows]
            for_value = torch.bmm((probability * mask).transpose(1, 2), upper)
            for_probability = torch.bmm(upper, value[:, rows].transpose(1, 2)).mul_(mask)
            for_scores = torch._softmax_backward_data(for_probability, probability, -1, probability.dtype)
            for_scores.mul_(scaling)
            gradients[0, rows] = torch.bmm(for_scores, key[:, rows]).transpose(0, 1)
            gradients[1, rows] = torch.bmm(for_scores.transpose(1, 2), query[:, rows]).transpose(0, 1)
            gradients[2, rows] = for_value.transpose(0, 1)
            start += length
        return *gradients.unbind(0), None, None, None


BACKENDS: dict[str, Callable[..., torch.Tensor]] = {FLASH: packed_varlen, CPU: packed_cpu, SDPA: packed_sdpa}


def _for_transformers(attend: Callable[..., torch.Tensor]):
    """A backend in the shapes of transformers: (1, heads, T, d) in, ((1, T, heads, d), None) out."""

    def attention(
        module, query, key, value, attention_mask, scaling=None, dropout=0.0,
        cu_seqlens=None, max_seqlen=None, lengths=None, **kwargs,
    ):  # fmt: skip
        if lengths is None:
            raise RuntimeError("packed attention without the lengths of its sequences: they would see each other")
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        offsets = {"cu_seqlens": cu_seqlens, "max_seqlen": max_seqlen, "lengths": lengths}
        return attend(query, key, value, **offsets, dropout=dropout, scaling=scaling).unsqueeze(0), None

    return attention


for _name, _attend in BACKENDS.items():
    AttentionInterface.register(_name, _for_transformers(_attend))


def choose_attention(asked: str, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """(backend, why), for `kernels.attention`, a device and the dtype the encoder computes in.

    Raises:
        UserError: the backend asked for does not run there.
    """
    flash_fits = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    fits = {FLASH: flash_fits, CPU: device.type == "cpu", SDPA: True}
    if asked != "auto":
        if not fits[asked]:
            raise UserError(
                f"kernels.attention is {asked}, which does not run on {device.type} in {dtype}",
                fix="kernels.attention=auto, or packed_sdpa",
            )
        return asked, f"{asked}, as the recipe asks"
    if flash_fits:
        return FLASH, "variable-length flash attention"
    if fits[CPU]:
        return CPU, "a sequence at a time, because there is no GPU"
    return SDPA, "one SDPA call a sequence, because flash attention needs bf16 or fp16"
