"""The head of a masked language model: XLM-R's and BERT's, tied to the encoder's word embeddings."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import ACT2FN

from trainer.model.linear_cross_entropy import linear_cross_entropy, linear_scores

_BERT = "cls.predictions"
_NAMES = {  # ours -> those of transformers' models for masked LM: RoBERTa's kind, BERT's
    "dense.weight": ("lm_head.dense.weight", f"{_BERT}.transform.dense.weight"),
    "dense.bias": ("lm_head.dense.bias", f"{_BERT}.transform.dense.bias"),
    "layer_norm.weight": ("lm_head.layer_norm.weight", f"{_BERT}.transform.LayerNorm.weight"),
    "layer_norm.bias": ("lm_head.layer_norm.bias", f"{_BERT}.transform.LayerNorm.bias"),
    "bias": ("lm_head.bias", f"{_BERT}.bias"),
}


class MaskedLMHead(nn.Module):
    """Dense, GELU, LayerNorm, and the projection onto the vocabulary, of which only the bias is the head's own.

    Args:
        settings: the encoder's transformers configuration.
    """

    def __init__(self, settings):
        super().__init__()
        self.dense = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.activation = ACT2FN[settings.hidden_act if settings.model_type == "bert" else "gelu"]
        self.layer_norm = nn.LayerNorm(settings.hidden_size, eps=settings.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(settings.vocab_size))

    def forward(
        self, rows: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None, *, embedding: nn.Embedding
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """What masked tokens cost; all their logits never exist.

        The embedding's weight is read within this call and nowhere else: ZeRO-3 gathers a foreign parameter when it is
        read in a module's forward pass, and from the next pass on together with the module's own.

        Args:
            rows: (m, H), the encoder's output at masked positions; target: int64 (m,), what stood there.
            weights: float32 (m,), of each row's loss, in training.
            embedding: the encoder's word embeddings, not trimmed.

        Returns:
            `linear_cross_entropy` with weights, else `linear_scores`.
        """
        rows = self.layer_norm(self.activation(self.dense(rows)))
        if weights is None:
            return linear_scores(rows, embedding.weight, self.bias, target)
        return linear_cross_entropy(rows, embedding.weight, self.bias, target, weights)


def pretrained_state(model: nn.Module) -> dict[str, torch.Tensor] | None:
    """The `MaskedLMHead` state of transformers' model for masked LM; None where its projection is not tied."""
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        return None
    state = model.state_dict()
    return {own: next(state[name] for name in names if name in state) for own, names in _NAMES.items()}
