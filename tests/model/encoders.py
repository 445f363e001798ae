"""Tiny encoders with random weights, large enough that a wrong neighbour or position shows."""

import copy

import torch
from transformers import AutoModel, BertConfig, CamembertConfig, RobertaConfig, XLMRobertaConfig, XLMRobertaXLConfig

from tests.stores import VOCABULARY

SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 70, "initializer_range": 0.3, "layer_norm_eps": 1e-5,
}  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**SIZES, pad_token_id=0, type_vocab_size=2),
    "roberta": RobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1),
    "xlm-roberta": XLMRobertaConfig(**SIZES, pad_token_id=1, type_vocab_size=1),
    "xlm-roberta-xl": XLMRobertaXLConfig(**SIZES, pad_token_id=1, type_vocab_size=1),
    "camembert": CamembertConfig(**SIZES, pad_token_id=1, type_vocab_size=1),
}


def tiny_encoder(kind: str, attention: str, seed: int = 0, **changes) -> torch.nn.Module:
    """In evaluation mode; equal weights for equal seeds, whatever the attention."""
    config = copy.deepcopy(CONFIGS[kind])
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    encoder = AutoModel.from_config(config, add_pooling_layer=False, attn_implementation=attention)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:  # biases and norms are zeros and ones at first, which would hide errors
                parameter += 0.1 * torch.randn_like(parameter)
    return encoder.eval()
