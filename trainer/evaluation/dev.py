"""Evaluation in packs: the same packs at any number of ranks, hence the same predictions and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trainer import distributed
from trainer.data.loader import Collator, PackedBatch
from trainer.data.packing import pack_in_order
from trainer.data.prepare import Prepared
from trainer.data.store import Store
from trainer.distributed import World
from trainer.errors import UserError
from trainer.tasks import FORMATS
from trainer.tasks.spec import Task

Scores = dict[str, dict[str, float]]
LogitsOf = Callable[[PackedBatch], dict[str, torch.Tensor]]
PackProgress = Callable[[int, int], None]  # (packs done, packs in all) of this rank


@dataclass(frozen=True)
class Part:
    """One split of one task, and the head that reads it: a key of the model's logits."""

    head: str
    task: Task
    store: Store


def evaluate_dev(
    logits_of: LogitsOf,
    prepared: Mapping[str, Prepared],
    collator: Collator,
    pack_tokens: int,
    world: World,
    limit: int | None = None,
    progress: PackProgress | None = None,
) -> Scores:
    """Scores of every task's dev split, in per cent, on every rank.

    Args:
        logits_of: task logits of a pack; called equally often on every rank (with empty packs where need be).
        limit: examples a task at most.
        progress: told (packs done, packs in all) of this rank.

    Raises:
        UserError: a head gives what is no number.
    """
    parts = [Part(name, item.task, item.dev) for name, item in prepared.items()]

    def batch_of(part: int, units: np.ndarray) -> PackedBatch:
        return collator(np.full(len(units), part), units)

    outputs = run_packs(logits_of, parts, batch_of, pack_tokens, world, limit, progress)
    if not world.first:
        return distributed.from_first(None)
    scores = {}
    for part, found in zip(parts, outputs, strict=True):
        predictions, references = decode(part, found, limit)
        scores[part.head] = FORMATS[part.task.format].score(predictions, references, part.task)
    return distributed.from_first(scores)


def run_packs(
    logits_of: LogitsOf,
    parts: Sequence[Part],
    batch_of: Callable[[int, np.ndarray], PackedBatch],
    pack_tokens: int,
    world: World,
    limit: int | None = None,
    progress: PackProgress | None = None,
) -> list[list[np.ndarray]]:
    """What the heads give for the units of all parts, on every rank: for each part one array a unit, in store order.

    The packs of all parts, which the world size does not change, are dealt to the ranks in turn; in the last round
    ranks that have none left run an empty one, since a model cut over ranks needs all of them in every pass.

    Args:
        batch_of: (index of a part, its units) -> the pack that holds them; no units: an empty pack.
        limit: examples a part at most, from its front.

    Raises:
        UserError: a head gives what is no number; on every rank, at the end.
    """
    packs = [(index, units) for index, part in enumerate(parts) for units in _packs(part.store, pack_tokens, limit)]
    rounds = -(-len(packs) // world.size)
    nothing = 0, np.empty(0, np.int64)
    mine: list[dict[int, np.ndarray]] = [{} for _ in parts]
    broken: set[str] = set()  # told to all ranks, so that all of them stop
    for turn in range(rounds):
        at = turn * world.size + world.rank
        index, units = packs[at] if at < len(packs) else nothing
        logits = logits_of(batch_of(index, units).to(world.device))
        if len(units):
            part = parts[index]
            placed = [part.store.placed(unit, 0) for unit in units.tolist()]
            found = logits[part.head].float().cpu().numpy()
            if not np.isfinite(found).all():
                broken.add(part.task.name)
            outputs = FORMATS[part.task.format].split(found, placed)
            mine[index].update(zip(units.tolist(), outputs, strict=True))
        if progress:
            progress(turn + 1, rounds)
    told = distributed.gather_objects((mine, broken))
    if broken := sorted(set().union(*(names for _, names in told))):
        raise UserError(
            f"{', '.join(broken)}: the model's outputs are not all numbers, so there is nothing to score",
            why="its training diverged, its weights are damaged, or the dtype that it is computed in is too narrow",
            fix="evaluate an earlier checkpoint, or with engine.dtype=fp32; train with a lower train.learning_rate",
        )
    gathered = [outputs for outputs, _ in told]
    merged = [{unit: out for rank in gathered for unit, out in rank[index].items()} for index in range(len(parts))]
    return [[outputs[unit] for unit in range(len(outputs))] for outputs in merged]  # units are numbered in order


def decode(part: Part, outputs: Sequence[np.ndarray], limit: int | None = None) -> tuple[list, list[dict]]:
    """One prediction an example, and what they are scored against.

    Args:
        outputs: what `run_packs` gave for the part, under the same `limit`.
    """
    references = part.store.references()[:limit]
    offsets = [part.store.column("offsets", unit) for unit in range(len(outputs))]
    examples = part.store.example[: len(outputs)]
    return FORMATS[part.task.format].decode(outputs, examples, offsets, references, part.task), references


def _packs(store: Store, pack_tokens: int, limit: int | None) -> list[np.ndarray]:
    tokens = store.tokens if limit is None else store.tokens[store.example < limit]
    return pack_in_order(tokens, pack_tokens)
