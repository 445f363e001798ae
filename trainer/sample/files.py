"""Drawing distinct, balanced examples and writing them byte for byte the same everywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TRAIN, DEV = 360, 90  # examples of most tasks; both divide by 2, 3 and 5


def stream(seed: int, name: str) -> random.Random:
    """A generator of its own for each file, so that changing one task leaves the others' bytes alone."""
    return random.Random(f"{seed}/{name}")  # a text seed is hashed with SHA-512: equal on every Python


def draw(
    rng: random.Random,
    make: Callable[[random.Random, Any], tuple],
    labels: Sequence,
    count: int,
    taken: set | None = None,
) -> list[tuple]:
    """`count` different examples `(*make(rng, label), label)`, labels in equal shares, in random order.

    Args:
        make: one example without its label, as a tuple of texts.
        taken: examples that may not come again, e.g. those of the training split; the new ones are added.
    """
    taken = set() if taken is None else taken
    examples = []
    for i in range(count):
        label = labels[i % len(labels)]
        for _ in range(10_000):
            example = make(rng, label)
            if example not in taken:
                break
        else:
            raise RuntimeError(f"{make.__name__} has too few different examples for {count} of label {label!r}")
        taken.add(example)
        examples.append((*example, label))
    rng.shuffle(examples)
    return examples


def others(rng: random.Random, pool: Sequence, *used, count: int = 1) -> list:
    """`count` different members of `pool`, none of them among `used`."""
    return rng.sample([x for x in pool if x not in used], count)


def place(rng: random.Random, right: str, wrong: Iterable[str], position: int) -> tuple[str, ...]:
    """The options of a multiple-choice example, the right one at `position`."""
    options = list(wrong)
    rng.shuffle(options)
    options.insert(position, right)
    return tuple(options)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))  # bytes: no platform's line ends


def write_lines(path: Path, lines: Iterable[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def write_tsv(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Unquoted tab-separated rows under a header; columns a row lacks are left empty."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(str(row.get(name, "")) for name in columns) for row in rows]
    write_lines(path, lines)
