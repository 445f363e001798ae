"""Packed attention: each sequence of a pack attends to itself alone, and no padding is computed.

Two backends are registered with transformers' attention interface; the offsets of the sequences reach them as keyword
arguments of the encoder's forward:

    packed_flash   CUDA, bf16 or fp16: one variable-length flash kernel, attention dropout included.
    packed_sdpa    anywhere, any dtype: one scaled_dot_product_attention call a sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

FLASH, SDPA = "packed_flash", "packed_sdpa"


def _need_offsets(cu_seqlens) -> None:
    if cu_seqlens is None:
        raise RuntimeError("packed attention was called without cu_seqlens: sequences would attend across each other")


def packed_sdpa(module, query, key, value, attention_mask, scaling=None, dropout=0.0, cu_seqlens=None, **kwargs):
    """(1, heads, T, d) queries, keys, values -> ((1, T, heads, d), None)."""
    _need_offsets(cu_seqlens)
    lengths = cu_seqlens.diff().tolist()
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    attended = [F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling) for q, k, v in parts]
    return torch.cat(attended, 2).transpose(1, 2), None


def packed_flash(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, cu_seqlens=None, max_seqlen=None, **kwargs
):
    """As `packed_sdpa`, in one FlashAttention-2 kernel.

    torch's public variable-length entry (torch.nn.attention.varlen) has no dropout, which XLM-R trains with, hence
    the operator below it, whose autograd formula is registered.
    """
    _need_offsets(cu_seqlens)
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    attended = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout, False, False, scale=scaling
    )[0]
    return attended.unsqueeze(0), None


AttentionInterface.register(SDPA, packed_sdpa)
AttentionInterface.register(FLASH, packed_flash)


def choose_attention(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """(backend, why), for a device and the dtype the encoder computes in."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        return FLASH, "variable-length flash attention"
    why = "there is no GPU" if device.type != "cuda" else "flash attention needs bf16 or fp16"
    return SDPA, f"one SDPA call a sequence, because {why}"
