"""A store and a head in miniature: units placed one after the other, and logits that point at their targets."""

from collections import Counter

import numpy as np

from trainer.tasks import FORMATS
from trainer.tasks.spec import PlacedUnit, Task, Unit


def examples_of(rows: list[dict], task: Task) -> list[dict]:
    read = (FORMATS[task.format].example(row, task) for row in rows)
    return [example for example in read if example is not None]


def encode(examples: list[dict], task: Task, tokenizer) -> tuple[list[Unit], Counter]:
    counts: Counter[str] = Counter()
    return FORMATS[task.format].encode(examples, 0, task, tokenizer, counts), counts


def place(units: list[Unit]) -> list[PlacedUnit]:
    placed, at = [], 0
    for unit in units:
        lengths = np.array([len(sequence) for sequence in unit.sequences], np.int32)
        starts = at + np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
        at += int(lengths.sum())
        placed.append(PlacedUnit(starts, lengths, np.array(unit.target, np.int32), np.array(unit.rows, np.int32)))
    return placed


def score_of_gold(logits: np.ndarray, units: list[Unit], examples: list[dict], task: Task) -> tuple[list, dict]:
    """Predictions and scores for the logits of a head, by way of split, decode and score."""
    kind = FORMATS[task.format]
    outputs = kind.split(logits.astype(np.float32), place(units))
    assert len(outputs) == len(units)
    references = [kind.reference(example) for example in examples]
    owners = np.array([unit.example for unit in units])
    predictions = kind.decode(outputs, owners, [np.array(unit.offsets) for unit in units], references, task)
    return predictions, kind.score(predictions, references, task)


def one_hot(targets, width: int) -> np.ndarray:
    return 10 * np.eye(width, dtype=np.float32)[np.asarray(targets)]
