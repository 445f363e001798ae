"""The committed statistics of the nine tasks' prepared data: what a workload without that data is drawn from.

`nine_tasks.json` holds counts and lengths only, no text and no token ids. It is made by

    python -m benchmarks.lengths RECIPE [key=value ...] [--out FILE]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.prepare import Prepared
from trainer.data.store import Store
from trainer.tasks.spec import Task

PATH = Path(__file__).with_name("nine_tasks.json")
SHAPES = 400  # units of a task whose shape is kept

# Training examples of the published data sets (X-STILTs, arXiv 2005.13013, table 1, and the papers named in
# trainer/tasks/intermediate.py), since the prepared data may be a part of them. Cosmos QA's are the released files'.
PUBLISHED = {
    "anli_plus": 1104934,
    "mnli": 392702,
    "qqp": 363846,
    "squad_v1": 87599,
    "squad_v2": 130319,
    "hellaswag": 39905,
    "ccg": 38015,
    "cosmos_qa": 25262,
    "commonsense_qa": 9741,
}


def load(path: Path = PATH) -> dict[str, Any]:
    return json.loads(path.read_text())


def describe(prepared: Mapping[str, Prepared]) -> dict[str, Any]:
    """Statistics of prepared data.

    Returns:
        `used_vocabulary`: distinct token ids of all tasks; by task: counts, `used_vocabulary`, `lengths` {tokens of a
        sequence: sequences}, and `shapes`, those of units evenly spaced by their tokens: the lengths of the unit's
        sequences, then for spans where the context begins and ends, for tagging the number of words.
    """
    stores = {name: item.train for name, item in prepared.items()}
    used = {name: store.used_vocabulary() for name, store in stores.items()}
    return {
        "used_vocabulary": len(np.unique(np.concatenate(list(used.values())))),
        "tasks": {
            name: {**_task(item.task, item.train), "used_vocabulary": len(used[name])}
            for name, item in prepared.items()
        },
    }


def _task(task: Task, store: Store) -> dict[str, Any]:
    lengths, counts = np.unique(store.sequence_lengths, return_counts=True)
    return {
        "format": task.format,
        "choices": task.choices,
        "labels": len(task.labels),
        "examples": store.manifest["examples"],
        "published_examples": PUBLISHED.get(task.name),
        "units": len(store),
        "tokens": int(store.tokens.sum()),
        "lengths": dict(zip(map(str, lengths.tolist()), counts.tolist(), strict=True)),
        "shapes": [_shape(task, store, unit) for unit in _spaced(store.tokens)],
    }


def _spaced(tokens: np.ndarray) -> list[int]:
    order = np.argsort(tokens, kind="stable")
    places = np.linspace(0, len(order) - 1, min(SHAPES, len(order))).round().astype(np.int64)
    return order[places].tolist()


def _shape(task: Task, store: Store, unit: int) -> list[int]:
    shape = store.column("lengths", unit).tolist()
    if task.format == "span_extraction":
        shape += store.column("rows", unit).tolist()
    elif task.format == "token_tagging":
        shape.append(len(store.column("rows", unit)))
    return shape
