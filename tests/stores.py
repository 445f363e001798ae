"""Hand-made units of every format with random tokens, and stores of them: no files to read, no tokenizer."""

from pathlib import Path

import numpy as np

from trainer.data.prepare import Prepared
from trainer.data.store import Store, columns_of, write_store
from trainer.tasks.spec import Task, Unit

TASKS = {
    "nli": Task("nli", "pair_classification", labels=("yes", "maybe", "no"), family="nli"),
    "choice": Task("choice", "multiple_choice", choices=4),
    "spans": Task("spans", "span_extraction", labels=("no_answer",), metric="f1"),
    "tags": Task("tags", "token_tagging", labels=("A", "B", "C", "D", "E")),
}
VOCABULARY = 60  # token ids from 5 up, so that none is a special one


def random_units(task: Task, count: int, seed: int = 0, longest: int = 24, types: int = 0) -> list[Unit]:
    """Units of 6 to `longest` tokens a sequence; with `types` > 0 also token type ids below it."""
    random = np.random.default_rng([seed, len(task.name)])
    units = []
    for example in range(count):
        sizes = random.integers(6, longest + 1, max(1, task.choices)).tolist()
        sequences = [random.integers(5, VOCABULARY, size).tolist() for size in sizes]
        unit = Unit(sequences=sequences, target=[int(random.integers(max(1, len(task.labels))))], example=example)
        if task.format == "multiple_choice":
            unit.target = [int(random.integers(task.choices))]
        elif task.format == "span_extraction":
            unit.rows = [3, sizes[0] - 1]
            unit.offsets = list(range(2 * (sizes[0] - 4)))
            first, last = sorted(random.integers(0, sizes[0] - 3, 2).tolist())
            unit.target = [first, last] if first else [0, 0]
        elif task.format == "token_tagging":
            words = random.choice(np.arange(1, sizes[0] - 1), int(random.integers(1, 5)), replace=False)
            unit.rows = sorted(words.tolist())
            unit.target = random.integers(0, len(task.labels), len(unit.rows)).tolist()
        if types:
            unit.types = [random.integers(0, types, size).tolist() for size in sizes]
        units.append(unit)
    return units


def store_of(folder: Path, units: list[Unit], name: str = "store") -> Store:
    examples = 1 + max((unit.example for unit in units), default=-1)
    references = [{"id": str(i)} for i in range(examples)]
    manifest = {"fingerprint": {}, "labels": [], "examples": examples, "counts": {}}
    write_store(folder / name, [columns_of(units)], references, manifest)
    return Store(folder / name)


def mixed_prepared(
    folder: Path, train: int = 12, dev: int = 7, **options
) -> tuple[dict[str, Prepared], dict[str, list[Unit]]]:
    """Stores of all four formats, and the units of their training splits."""
    prepared, units = {}, {}
    for name, task in TASKS.items():
        units[name] = random_units(task, train, seed=1, **options)
        dev_store = store_of(folder, random_units(task, dev, seed=2, **options), f"{name}-dev")
        prepared[name] = Prepared(task, store_of(folder, units[name], f"{name}-train"), dev_store)
    return prepared, units
