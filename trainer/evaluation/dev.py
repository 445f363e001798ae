"""Evaluation on the dev sets, in packs: the same packs at any number of ranks, hence the same scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from trainer import distributed
from trainer.data.loader import Collator, PackedBatch, evaluation_packs
from trainer.data.prepare import Prepared
from trainer.distributed import World
from trainer.tasks import FORMATS

Scores = dict[str, dict[str, float]]


def evaluate_dev(
    logits_of: Callable[[PackedBatch], dict[str, torch.Tensor]],
    prepared: Mapping[str, Prepared],
    collator: Collator,
    pack_tokens: int,
    world: World,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores of every task's dev split, in per cent, on every rank.

    Args:
        logits_of: task logits of a pack; called equally often on every rank (with empty packs where need be).
        limit: examples a task at most.
        progress: told (packs done, packs in all) of this rank.
    """
    packs = evaluation_packs(prepared, pack_tokens, limit)
    names = list(prepared)
    rounds = -(-len(packs) // world.size)
    nothing = np.empty(0, np.int64)
    outputs: dict[str, dict[int, np.ndarray]] = {name: {} for name in names}
    for turn in range(rounds):
        at = turn * world.size + world.rank
        tasks, units = (packs[at].tasks, packs[at].units) if at < len(packs) else (nothing, nothing)
        logits = logits_of(collator(tasks, units).to(world.device))
        if len(units):
            name = names[int(tasks[0])]  # evaluation packs hold one task each
            placed = [prepared[name].dev.placed(unit, 0) for unit in units.tolist()]
            parts = FORMATS[prepared[name].task.format].split(logits[name].float().cpu().numpy(), placed)
            outputs[name].update(zip(units.tolist(), parts, strict=True))
        if progress:
            progress(turn + 1, rounds)
    gathered = distributed.gather_objects(outputs)
    if not world.first:
        return distributed.from_first(None)
    merged = {name: {u: out for part in gathered for u, out in part[name].items()} for name in names}
    return distributed.from_first({name: _score(prepared[name], merged[name], limit) for name in names})


def _score(item: Prepared, outputs: dict[int, np.ndarray], limit: int | None) -> dict[str, float]:
    units = range(len(outputs))  # units of a split are numbered in order, so these are the first ones
    references = item.dev.references()[:limit]
    offsets = [item.dev.column("offsets", unit) for unit in units]
    encoder = FORMATS[item.task.format]
    predictions = encoder.decode(
        [outputs[u] for u in units], item.dev.example[: len(outputs)], offsets, references, item.task
    )
    return encoder.score(predictions, references, item.task)
