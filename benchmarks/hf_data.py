"""Data of the Hugging Face arm: the same prepared stores, as padded batches of one task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, RandomSampler, Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler

from trainer.data.prepare import Prepared
from trainer.data.store import Store
from trainer.tasks import FORMATS
from trainer.tasks.spec import PlacedUnit, Task

STRATEGIES = ("random", "group_by_length", "batch_rebalance")  # of transformers' `train_sampling_strategy`
COUNTS = ("useful_tokens", "padded_tokens", "examples")  # what the collator counts in every batch
GOLDEN = (5**0.5 - 1) / 2


class UnitDataset(Dataset):
    """The training units of all tasks, one after another; an item is (task index, columns of the store)."""

    def __init__(self, stores: Sequence[Store]):
        self.stores = list(stores)
        self.ends = np.cumsum([len(store) for store in stores])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> tuple[int, dict[str, np.ndarray]]:
        task = int(np.searchsorted(self.ends, index, side="right"))
        store = self.stores[task]
        unit = index - (int(self.ends[task]) - len(store))
        return task, {name: store.column(name, unit) for name in ("tokens", "types", "lengths", "target", "rows")}


class PaddedCollator:
    """Units of one task -> the keyword arguments of `MultiHeadModel.forward`, and COUNTS.

    Args:
        multiple: the width is a multiple of this (8 suits the matrix units of GPUs).
    """

    def __init__(self, tasks: Mapping[str, Task], pad_token: int, multiple: int = 1):
        self.tasks, self.pad_token, self.multiple = list(tasks.items()), pad_token, multiple

    def __call__(self, items: list[tuple[int, dict[str, np.ndarray]]]) -> dict[str, Any]:
        """`input_ids`, `attention_mask` (and `token_type_ids`): int64 (sequences, width), a multiple-choice unit having
        one sequence an option; `arrays`: what the format's `collate` gives for positions in the flattened batch.

        Raises:
            ValueError: the units are of several tasks.
        """
        if len({task for task, _ in items}) != 1:
            raise ValueError("a padded batch holds one task only")
        name, task = self.tasks[items[0][0]]
        units = [unit for _, unit in items]
        lengths = np.concatenate([unit["lengths"] for unit in units])
        width = -(-int(lengths.max()) // self.multiple) * self.multiple
        mask = np.arange(width) < lengths[:, None]
        batch: dict[str, Any] = {
            "input_ids": self._padded(mask, [unit["tokens"] for unit in units], self.pad_token),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        if len(units[0]["types"]):
            batch["token_type_ids"] = self._padded(mask, [unit["types"] for unit in units], 0)
        placed, row = [], 0
        for unit in units:
            starts = (row + np.arange(len(unit["lengths"]), dtype=np.int64)) * width
            placed.append(PlacedUnit(starts, unit["lengths"], unit["target"], unit["rows"]))
            row += len(starts)
        arrays = FORMATS[task.format].collate(placed, task)
        batch |= {"task": name, "arrays": {key: torch.from_numpy(value) for key, value in arrays.items()}}
        return batch | dict(zip(COUNTS, (int(lengths.sum()), mask.size, len(units)), strict=True))

    @staticmethod
    def _padded(mask: np.ndarray, values: list[np.ndarray], filler: int) -> torch.Tensor:
        padded = np.full(mask.shape, filler, np.int64)
        padded[mask] = np.concatenate(values)
        return torch.from_numpy(padded)


class TaskBatches(Sampler[list[int]]):
    """Batches of one task each, the task drawn at the mixture's rates, the units by transformers' own samplers.

    All ranks of a micro-step get the same task, so that they reduce the gradients of the same head: the batches of the
    ranks follow one another, as accelerate deals them out.

    - random: `RandomSampler`.
    - group_by_length: `LengthGroupedSampler` over the task, with the batch size the Trainer would give it.
    - batch_rebalance: `BatchRebalanceSampler` over the task; an optimizer step is then of one task, as that sampler
      shares the examples of a whole step out among its micro-batches.

    Args:
        lengths: task -> int (units,): tokens of a unit's longest sequence, which set the width it needs.
        rates: task -> probability; steps: optimizer steps.
        micro_batch: examples of a micro-batch of a rank (with batch_rebalance: on average).
    """

    def __init__(
        self,
        lengths: Mapping[str, np.ndarray],
        rates: Mapping[str, float],
        strategy: str,
        micro_batch: int,
        accumulation: int,
        ranks: int,
        steps: int,
        seed: int,
    ):
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown sampling strategy {strategy!r}; one of: {', '.join(STRATEGIES)}")
        self.strategy, self.micro_batch, self.accumulation, self.ranks = strategy, micro_batch, accumulation, ranks
        self.steps, self.seed = steps, seed
        self.per_step = micro_batch * accumulation * ranks
        self.edges = np.cumsum([rates[name] for name in lengths])
        self.bases = np.cumsum([0, *(len(values) for values in lengths.values())])
        # A task smaller than a step is repeated, so that every step has its number of examples.
        self.units = [np.resize(np.arange(len(values)), max(len(values), self.per_step)) for values in lengths.values()]
        self.lengths = [
            values[units].tolist() for values, units in zip(lengths.values(), self.units, strict=True)
        ]  # the samplers want lists

    def __len__(self) -> int:
        return self.steps * self.accumulation * self.ranks

    def __iter__(self) -> Iterator[list[int]]:
        groups = [self._groups(task) for task in range(len(self.units))]
        draws = self.steps * (1 if self.strategy == "batch_rebalance" else self.accumulation)
        for draw in range(draws):
            # A low-discrepancy sequence (multiples of the golden ratio, modulo 1) keeps the tasks of any stretch near
            # their rates: turns of a few steps are then of nearly the same work.
            task = int(np.searchsorted(self.edges[:-1], (0.5 + draw * GOLDEN) % 1.0, side="right"))
            for batch in next(groups[task]):
                yield (self.bases[task] + self.units[task][batch]).tolist()

    def _groups(self, task: int) -> Iterator[list[list[int]]]:
        """Endless: what one draw of the task takes, a batch a rank (times the micro-steps with batch_rebalance)."""
        epoch, lengths = 0, self.lengths[task]
        while True:
            seed = [self.seed, task, epoch]
            mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
            generator = torch.Generator().manual_seed(mixed)
            if self.strategy == "batch_rebalance":
                sizes = (lengths, self.per_step, self.ranks, self.accumulation)
                ranks = [BatchRebalanceSampler(*sizes, seed=mixed, rank=rank) for rank in range(self.ranks)]
                batches = (batch for micro_step in zip(*ranks, strict=True) for batch in micro_step)
                yield from self._cut(batches, self.accumulation * self.ranks)
            elif self.strategy == "group_by_length":
                size = self.micro_batch * self.accumulation
                order = list(LengthGroupedSampler(size, lengths=lengths, generator=generator))
                groups = list(self._cut(self._cut(order, self.micro_batch), self.ranks))
                # That sampler starts each stretch of 50 batches with the longest examples. Over an epoch it does not
                # matter, but a benchmark of a few batches a task would see these only: same batches, random order.
                yield from (groups[i] for i in torch.randperm(len(groups), generator=generator).tolist())
            else:
                order = RandomSampler(range(len(lengths)), generator=generator)
                yield from self._cut(self._cut(order, self.micro_batch), self.ranks)
            epoch += 1

    @staticmethod
    def _cut(values, size: int) -> Iterator[list]:
        """Lists of `size` consecutive values; an incomplete last one is left out."""
        part = []
        for value in values:
            part.append(value)
            if len(part) == size:
                yield part
                part = []


def longest_sequences(prepared: Mapping[str, Prepared]) -> dict[str, np.ndarray]:
    """Task -> int32 (units,): tokens of the longest sequence of each training unit."""
    return {name: item.train.sequence_lengths.reshape(len(item.train), -1).max(1) for name, item in prepared.items()}


def tokens_per_example(prepared: Mapping[str, Prepared], rates: Mapping[str, float]) -> float:
    """Useful tokens of a drawn unit, on average."""
    return sum(rates[name] * float(item.train.tokens.mean()) for name, item in prepared.items())
