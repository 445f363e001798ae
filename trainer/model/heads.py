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
    return F.cross_entropy(windows, arrays["target"], reduction="sum") / 2


def tagging_loss(logits: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """Mean over the words of a unit; logits (m, tags)."""
    words = F.cross_entropy(logits.float(), arrays["target"], reduction="none", ignore_index=-1)
    owner = arrays["owner"]
    counts = torch.zeros_like(words).scatter_add_(0, owner, torch.ones_like(words))  # by unit; at most m units
    return (words / counts[owner]).sum()


HEADS: dict[str, tuple[type[nn.Module], Callable[[torch.Tensor, Arrays], torch.Tensor]]] = {
    "pair_classification": (SequenceHead, classification_loss),
    "multiple_choice": (SequenceHead, choice_loss),
    "span_extraction": (TokenHead, span_loss),
    "token_tagging": (TokenHead, tagging_loss),
}


class HeadBank(nn.Module):
    """The heads of a mixture.

    Args:
        share: one head for all tasks of a family, instead of one each.

    Raises:
        UserError: tasks of one family differ in what their head must give.
    """

    def __init__(self, tasks: Mapping[str, Task], hidden: int, dropout: float, share: bool, seed: int):
        super().__init__()
        self.tasks = dict(tasks)
        self.members: dict[str, list[str]] = {}
        for name, task in tasks.items():
            self.members.setdefault(f"{task.family}_family" if share and task.family else name, []).append(name)
        self.heads = nn.ModuleDict()
        for head, names in self.members.items():
            first = tasks[names[0]]
            for other in names[1:]:
                if (tasks[other].format, tasks[other].labels) != (first.format, first.labels):
                    raise UserError(
                        f"{names[0]} and {other} cannot share a head: their formats or label sets differ",
                        fix="model.heads=task, or another `family` for one of them",
                    )
            kind = HEADS[first.format][0]
            self.heads[head] = _initialise(kind(hidden, FORMATS[first.format].outputs(first), dropout), seed, head)

    def forward(self, hidden: torch.Tensor, arrays: Mapping[str, Arrays]) -> dict[str, torch.Tensor]:
        """Encoder output (T, H) -> task -> logits (rows of the task, outputs)."""
        logits = {}
        for head, names in self.members.items():
            counts = [len(arrays[name]["rows"]) for name in names]
            rows = torch.cat([arrays[name]["rows"] for name in names])
            logits |= zip(names, self.heads[head](hidden[rows]).split(counts), strict=True)
        return logits

    def loss_sum(self, task: str, logits: torch.Tensor, arrays: Arrays) -> torch.Tensor:
        """The task's loss, summed over its units in the pack; 0, still with a gradient, for none."""
        return HEADS[self.tasks[task].format][1](logits, arrays)


def _initialise(head: nn.Module, seed: int, name: str) -> nn.Module:
    """Normal(0, 0.02) weights and zero biases, from a generator of the head's own: other heads change nothing."""
    mixed = zlib.crc32(f"{seed} {name}".encode())  # torch's CPU generator ignores all but the lowest 32 bits
    generator = torch.Generator().manual_seed(mixed)
    for parameter_name, parameter in head.named_parameters():
        if parameter_name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=0.02, generator=generator)
    return head
