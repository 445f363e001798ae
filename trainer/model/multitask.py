"""The model that is trained: one encoder pass over a pack, then the heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from trainer.data.loader import PackedBatch
from trainer.model.encoder import position_offset
from trainer.model.heads import HeadBank


class MultiTaskModel(nn.Module):
    def __init__(self, encoder: nn.Module, heads: HeadBank):
        super().__init__()
        self.encoder, self.heads = encoder, heads
        self.position_offset = position_offset(encoder.config)

    def encode(self, batch: PackedBatch) -> torch.Tensor:
        """Last hidden states (T, H) of a pack."""
        return self.encoder(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None] + self.position_offset,
            token_type_ids=batch.token_type_ids[None],
            cu_seqlens=batch.cu_seqlens,
            max_seqlen=batch.max_seqlen,
            lengths=batch.lengths,
        ).last_hidden_state[0]

    def forward(self, batch: PackedBatch, factors: Mapping[str, float] | None = None, hidden_only: bool = False):
        """One pack.

        Args:
            factors: task -> what to multiply its losses by.

        Returns:
            With `factors`: the sum of factor * loss over the pack's units, and the loss sums by task (tasks,).
            With `hidden_only`: the last hidden states (T, H). Else: task -> logits.
        """
        hidden = self.encode(batch)
        if hidden_only:
            return hidden
        return self.heads(hidden, batch.heads, factors, embedding=self.encoder.get_input_embeddings())
