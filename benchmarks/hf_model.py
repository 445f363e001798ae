"""The model of the Hugging Face arm: an untouched encoder over a padded batch, and a head a task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from trainer.config import RunConfig
from trainer.model.encoder import encoder_folder, quiet_transformers
from trainer.model.heads import HEADS, Arrays, HeadBank
from trainer.tasks.spec import Task


class MultiHeadModel(nn.Module):
    """Gives {"loss"}, as the Trainer wants it.

    Args:
        micro_batch: what loss sums are divided by. Micro-batches of batch_rebalance differ in size; dividing by the
            nominal one weighs every example of a step alike, as the mean does where sizes are equal.
    """

    def __init__(self, encoder: nn.Module, tasks: Mapping[str, Task], share: bool, seed: int, micro_batch: int):
        super().__init__()
        self.config = encoder.config
        self.encoder = encoder
        self.heads = HeadBank(tasks, encoder.config.hidden_size, encoder.config.hidden_dropout_prob, share, seed)
        self.head_of = {task: head for head, names in self.heads.members.items() for task in names}
        self.micro_batch = micro_batch

    def loss_sum(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        task: str,
        arrays: Arrays,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The task's loss summed over the units of a padded batch (sequences, width); only its head is run."""
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        head = self.heads.heads[self.head_of[task]]
        logits = head(hidden.flatten(0, 1)[arrays["rows"]])
        return HEADS[self.heads.tasks[task].format][1](logits, arrays)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        task: str,
        arrays: Arrays,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        return {"loss": self.loss_sum(input_ids, attention_mask, task, arrays, token_type_ids) / self.micro_batch}


def build_model(config: RunConfig, tasks: Mapping[str, Task], micro_batch: int) -> MultiHeadModel:
    """The encoder as transformers builds it, with all of its vocabulary and SDPA attention, in fp32 on the CPU.

    With `model.init: random` its weights are those our own arm starts from: same class, same seed.
    """
    name, revision = encoder_folder(config), config.model.revision
    settings = AutoConfig.from_pretrained(name, revision=revision)
    if config.model.dropout is not None:
        settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = config.model.dropout
    options = {"add_pooling_layer": False, "dtype": torch.float32, "attn_implementation": "sdpa"}
    with quiet_transformers():
        if config.model.init == "random":
            torch.manual_seed(config.seed)
            encoder = AutoModel.from_config(settings, **options)
        else:
            encoder = AutoModel.from_pretrained(name, config=settings, revision=revision, **options)
    if config.model.gradient_checkpointing:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})
    return MultiHeadModel(encoder, tasks, config.model.heads == "family", config.seed, micro_batch)
