"""Task heads: each reads some rows of the encoder's output, whatever the pack holds.

Every head runs on every pack, on no rows if need be, in the same order on every rank: ZeRO-3 sees one module trace,
and every parameter has a gradient.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from trainer.errors import UserError
from trainer.model.lm_head import MaskedLMHead
from trainer.tasks import FORMATS
from trainer.tasks.spec import Task

Arrays = dict[str, torch.Tensor]


class SequenceHead(nn.Module):
    """(m, H) first tokens of sequences -> (m, outputs): dense, tanh, projection, as RoBERTa's classification head."""

    def __init__(self, hidden: int, outputs: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.out(self.dropout(torch.tanh(self.dense(self.dropout(rows)))))


class TokenHead(nn.Module):
    """(m, H) tokens -> (m, outputs): one projection."""

    def __init__(self, hidden: int, outputs: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.out(self.dropout(rows))


def classification_loss(logits: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    return F.cross_entropy(logits.float(), arrays["target"], reduction="sum")


def choice_loss(logits: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """Softmax over the options of an example; logits (units * options, 1)."""
    units = len(arrays["target"])
    options = len(logits) // units if units else 1
    return F.cross_entropy(logits.float().view(units, options), arrays["target"], reduction="sum")


def span_loss(logits: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """Mean of start and end cross-entropy over a window's candidates; logits (m, 2)."""
    absent = logits.new_full((1, 2), float("-inf"), dtype=torch.float32)
    windows = torch.cat([logits.float(), absent])[arrays["index"]]  # (units, L, 2); index -1 is `absent`
    # Starts and ends as rows: CUDA's kernel for a third dimension is not deterministic, which a recipe may ask for.
    rows = windows.transpose(1, 2).flatten(0, 1)
    return F.cross_entropy(rows, arrays["target"].flatten(), reduction="sum") / 2


def tagging_loss(logits: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """Mean over the words of a unit; logits (m, tags)."""
    words = F.cross_entropy(logits.float(), arrays["target"], reduction="none", ignore_index=-1)
    owner = arrays["owner"]
    counts = torch.zeros_like(words).scatter_add_(0, owner, torch.ones_like(words))  # by unit; at most m units
    return (words / counts[owner]).sum()


def masked_lm_loss(logits: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """Mean over the masked tokens of a unit; logits (m, 1 or 2), each token's cross-entropy first."""
    return (logits[:, 0] * arrays["weight"]).sum()


HEADS: dict[str, tuple[type[nn.Module], Callable[[torch.Tensor, Arrays], torch.Tensor]]] = {
    "pair_classification": (SequenceHead, classification_loss),
    "multiple_choice": (SequenceHead, choice_loss),
    "span_extraction": (TokenHead, span_loss),
    "token_tagging": (TokenHead, tagging_loss),
    "masked_lm": (MaskedLMHead, masked_lm_loss),
}


def members_of(tasks: Mapping[str, Task], share: bool) -> dict[str, list[str]]:
    """Head -> names of the tasks that it serves.

    Args:
        share: tasks of a family have one head.
    """
    members: dict[str, list[str]] = {}
    for name, task in tasks.items():
        own = task.head or name  # language variants of a task have one head, under any setting
        members.setdefault(f"{task.family}_family" if share and task.family else own, []).append(name)
    return members


class HeadBank(nn.Module):
    """The heads of a mixture.

    Args:
        tasks: those with equal `head`, or whose `head` is another of them, share it: mnli, mnli-de.
        share: one head for all tasks of a family, instead of one each.
        settings: the encoder's transformers configuration, which the heads of masked language models need.

    Raises:
        UserError: tasks that share a head differ in what it must give.
    """

    def __init__(self, tasks: Mapping[str, Task], hidden: int, dropout: float, share: bool, seed: int, settings=None):
        super().__init__()
        self.tasks = dict(tasks)
        self.members = members_of(tasks, share)
        self.heads = nn.ModuleDict()
        for head, names in self.members.items():
            first = tasks[names[0]]
            for other in names[1:]:
                if (tasks[other].format, tasks[other].labels) != (first.format, first.labels):
                    raise UserError(
                        f"{names[0]} and {other} cannot share a head: their formats or label sets differ",
                        fix="model.heads=task, or another `family` for one; languages of one task need equal `labels`",
                    )
            kind = HEADS[first.format][0]
            sizes = (settings,) if kind is MaskedLMHead else (hidden, FORMATS[first.format].outputs(first), dropout)
            self.heads[head] = _initialise(kind(*sizes), seed, head)

    def forward(
        self,
        hidden: torch.Tensor,
        arrays: Mapping[str, Arrays],
        factors: Mapping[str, float] | None = None,
        embedding: nn.Embedding | None = None,
    ) -> dict[str, torch.Tensor] | tuple[torch.Tensor, torch.Tensor]:
        """Read an encoder's output (T, H).

        Args:
            factors: task -> what to multiply its losses by.
            embedding: the encoder's word embeddings, which the heads of masked language models project onto.

        Returns:
            Task -> logits (rows of the task, outputs). With `factors`: the sum of factor * loss over all units, and the
            loss sums by task (tasks,), detached.
        """
        logits, language_models = {}, []
        for head, names in self.members.items():
            counts = [len(arrays[name]["rows"]) for name in names]
            rows = hidden[torch.cat([arrays[name]["rows"] for name in names])]
            if isinstance(self.heads[head], MaskedLMHead):
                loss, found = self._masked_lm(head, rows, arrays, factors, embedding)
                language_models.append(loss)
            else:
                found = self.heads[head](rows)
            logits |= zip(names, found.split(counts), strict=True)
        if factors is None:
            return logits
        sums = {name: self.loss_sum(name, logits[name], arrays[name]) for name in self.tasks}
        others = (name for name, task in self.tasks.items() if task.format != "masked_lm")
        loss = sum([*(factors[name] * sums[name] for name in others), *language_models])
        return loss, torch.stack([sums[name].detach() for name in self.tasks])

    def _masked_lm(
        self, head: str, rows: torch.Tensor, arrays: Mapping[str, Arrays], factors: Mapping | None, embedding
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The weighted loss of all tasks of a head at once, since its gradients are computed along with it, and what
        stands for logits: each masked token's cross-entropy; without factors, no loss, and the first guesses too."""
        names = self.members[head]
        target = torch.cat([arrays[name]["target"] for name in names])
        if factors is None:
            return None, self.heads[head](rows, target, embedding=embedding)
        largest = max(factors[name] for name in names) or 1.0  # weights stay near 1: fp16 loses small ones
        weights = torch.cat([arrays[name]["weight"] * (factors[name] / largest) for name in names])
        loss, each = self.heads[head](rows, target, weights, embedding=embedding)
        return largest * loss, each[:, None]

    def loss_sum(self, task: str, logits: torch.Tensor, arrays: Arrays) -> torch.Tensor:
        """The task's loss, summed over its units in the pack; 0, still with a gradient, for none."""
        return HEADS[self.tasks[task].format][1](logits, arrays)


def _initialise(head: nn.Module, seed: int, name: str) -> nn.Module:
    """Normal(0, 0.02) weights, zero biases, LayerNorm as it is, from a generator of the head's own: other heads change
    nothing."""
    mixed = zlib.crc32(f"{seed} {name}".encode())  # torch's CPU generator ignores all but the lowest 32 bits
    generator = torch.Generator().manual_seed(mixed)
    for parameter_name, parameter in head.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02, generator=generator)
    return head
