"""Fused encoder layers: transformers' layers with fewer, larger operations, and the same result.

Queries, keys and values come from one product; dropout, residual and LayerNorm are one operation (compiled on GPUs,
with cheap masks on CPUs); attention is called on rows as they lie. Parameters keep transformers' names, but for
`query`, `key` and `value`, which are one `qkv`; `plain_names` undoes that.

Every parameter is used by the module that owns it, as ZeRO-3 requires: it gathers them module by module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from trainer.model.attention import BACKENDS
from trainer.model.dropout import dropout_add

_PARTS = ("query", "key", "value")


class PackedSelfAttention(nn.Module):
    """(T, H) -> (T, H), each sequence of the pack for itself."""

    def __init__(self, plain: nn.Module, attend: Callable[..., torch.Tensor]):
        super().__init__()
        self.attend = attend
        self.heads, self.dropout, self.scaling = plain.num_attention_heads, plain.dropout.p, plain.scaling
        parts = [getattr(plain, part) for part in _PARTS]
        self.qkv = nn.Linear(parts[0].in_features, 3 * parts[0].out_features, device="meta")
        self.qkv.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
        self.qkv.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))

    def forward(self, hidden: torch.Tensor, **offsets) -> torch.Tensor:
        query, key, value = self.qkv(hidden).view(len(hidden), 3, self.heads, -1).unbind(1)
        dropout = self.dropout if self.training else 0.0
        return self.attend(query, key, value, **offsets, dropout=dropout, scaling=self.scaling).flatten(1)


class AddNorm(nn.Module):
    """LayerNorm(dropout(update) + residual); parameters as LayerNorm's."""

    def __init__(self, norm: nn.LayerNorm, dropout: float, compiled: bool):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.dropout, self.compiled = dropout, compiled

    def forward(self, update: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        dropout = self.dropout if self.training else 0.0
        # Packs have one shape in training only; evaluation is not worth compiling each of its own.
        add_norm = _compiled_add_norm() if self.compiled and self.training else _add_norm
        return add_norm(update, residual, self.weight, self.bias, self.eps, dropout)


def _add_norm(update, residual, weight, bias, eps: float, dropout: float):
    return F.layer_norm(dropout_add(update, residual, dropout), weight.shape, weight, bias, eps)


@cache
def _compiled_add_norm():
    def add_norm(update, residual, weight, bias, eps: float, dropout: float):
        return F.layer_norm(F.dropout(update, dropout) + residual, weight.shape, weight, bias, eps)

    return torch.compile(add_norm, dynamic=False)


def compiled_graphs() -> int:
    """How many graphs torch.compile has made in this process: constant once packs of one shape have been seen."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo.utils.counters["stats"]["unique_graphs"] if dynamo else 0


class PostNormLayer(GradientCheckpointingLayer):
    """A layer of BERT, RoBERTa, XLM-R: (1, T, H) -> (1, T, H)."""

    def __init__(self, plain: nn.Module, attend: Callable[..., torch.Tensor], compiled: bool):
        super().__init__()
        self.attention, self.intermediate, self.output = plain.attention, plain.intermediate, plain.output
        self.attention.self = PackedSelfAttention(plain.attention.self, attend)
        for block in (self.attention.output, self.output):
            block.LayerNorm = AddNorm(block.LayerNorm, block.dropout.p, compiled)

    def forward(self, hidden_states, attention_mask=None, encoder_hidden_states=None, **kwargs):
        hidden = hidden_states[0]
        update = self.attention.output.dense(self.attention.self(hidden, **_offsets(kwargs)))
        hidden = self.attention.output.LayerNorm(update, hidden)
        update = self.output.dense(self.intermediate(hidden))
        return self.output.LayerNorm(update, hidden)[None]


class PreNormLayer(GradientCheckpointingLayer):
    """A layer of XLM-R XL: (1, T, H) -> (1, T, H)."""

    def __init__(self, plain: nn.Module, attend: Callable[..., torch.Tensor], compiled: bool):
        super().__init__()
        self.attention, self.intermediate, self.output = plain.attention, plain.intermediate, plain.output
        self.LayerNorm = plain.LayerNorm
        self.attention.self = PackedSelfAttention(plain.attention.self, attend)
        self.dropout = plain.attention.output.dropout.p

    def forward(self, hidden_states, attention_mask=None, encoder_hidden_states=None, **kwargs):
        hidden = hidden_states[0]
        attended = self.attention.self(self.attention.self_attn_layer_norm(hidden), **_offsets(kwargs))
        update = self.attention.output.dense(attended)
        hidden = dropout_add(update, hidden, self.dropout if self.training else 0.0)
        return (self.output.dense(self.intermediate(self.LayerNorm(hidden))) + hidden)[None]


def _offsets(kwargs: Mapping) -> dict:
    if kwargs.get("lengths") is None:
        raise RuntimeError("a fused layer was called without the lengths of the pack's sequences")
    return {name: kwargs[name] for name in ("cu_seqlens", "max_seqlen", "lengths")}


def fuse(encoder: nn.Module, attention: str, compiled: bool) -> None:
    """Replace the encoder's layers, in place.

    Args:
        attention: a name of BACKENDS.
        compiled: compile the elementwise operations (GPUs; ZeRO stages that keep parameters whole).
    """
    kind = PreNormLayer if encoder.config.model_type == "xlm-roberta-xl" else PostNormLayer
    layers = encoder.encoder.layer
    for index, plain in enumerate(layers):
        layers[index] = kind(plain, BACKENDS[attention], compiled).train(plain.training)


def plain_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights or gradients of fused layers under transformers' names; others unchanged."""
    plain = {}
    for name, value in state.items():
        if ".self.qkv." in name:
            plain |= {name.replace(".qkv.", f".{part}."): x for part, x in zip(_PARTS, value.chunk(3), strict=True)}
        else:
            plain[name] = value
    return plain
