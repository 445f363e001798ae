"""What a task is, and what a format must provide.

A *task* says where labelled rows come from and what their columns are called; its *format* knows how rows become
token sequences, which rows of the encoder's output a head reads, and how predictions are scored. Nothing here knows
about models: everything is plain Python and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

SPLITS = ("train", "dev")


@dataclass(frozen=True)
class HubPart:
    """One split of one data set on the Hugging Face hub."""

    dataset: str
    split: str
    config: str | None = None
    revision: str = "main"


@dataclass(frozen=True)
class Task:
    """A labelled data set and how to read it.

    Attributes:
        name: the name used in recipes, events and tables.
        format: a key of `trainer.tasks.FORMATS`.
        columns: role -> the names that column has in the wild, first match wins, e.g.
            {"first": ("premise", "sentence1")}. The roles are those of the format.
        labels: label names in the order of the head's outputs. Empty for token tagging, where the training
            split defines the set, for multiple choice and for spans.
        label_names: other spellings -> label name, e.g. {"e": "entailment"}.
        drop_labels: raw values that mean "no gold label"; such rows are dropped and counted.
        files: split -> parts; a part is a tuple of alternative paths below the task's folder, of which the first
            that exists is read (with or without .gz). All parts are needed.
        header: column names for delimited files without a header line.
        hub: split -> data set splits on the hub.
        adapt: turns one raw row into a row whose columns carry role names; for layouts `columns` cannot express.
        family: tasks of one family may share a head; they must have equal labels.
        choices: number of options of a multiple-choice example.
        max_length: tokens a sequence may have, special tokens included.
        metric: the score that stands for the task in one-number tables; a key of what the format's `score` returns.
    """

    name: str
    format: str
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    label_names: Mapping[str, str] = field(default_factory=dict)
    drop_labels: tuple[str, ...] = ()
    files: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    hub: Mapping[str, tuple[HubPart, ...]] = field(default_factory=dict)
    adapt: Callable[[dict], dict] | None = None
    family: str = ""
    choices: int = 0
    max_length: int = 256
    metric: str = "accuracy"


@dataclass
class Unit:
    """What the mixture draws: one example, or one window of a span example.

    Attributes:
        sequences: token ids of each sequence, special tokens included; several only for multiple choice.
        types: token type ids of each sequence, or None when the tokenizer has none.
        target: the answer as integers, in the format's own terms.
        rows: positions within the (single) sequence that matter to the head, in the format's own terms.
        example: index of the example within the split.
        offsets: character offsets (start, end flattened) of the candidates in `rows`; span extraction only.
    """

    sequences: list[list[int]]
    target: list[int]
    rows: list[int] = field(default_factory=list)
    types: list[list[int]] | None = None
    example: int = 0
    offsets: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class PlacedUnit:
    """A unit read back from the store, with its place in a pack.

    Attributes:
        starts: int64 (sequences,): where each sequence begins in the pack.
        lengths: int32 (sequences,).
        target, rows: int32 arrays as in `Unit`.
    """

    starts: np.ndarray
    lengths: np.ndarray
    target: np.ndarray
    rows: np.ndarray


class Format(Protocol):
    """How one kind of task is encoded, read by a head, and scored. Instances hold no state.

    The way of an example: raw row -> `example` -> `encode` -> store -> `collate` -> head -> `decode` -> `score`.
    """

    name: str
    version: int  # raised when `encode` changes, so that stale stores are noticed
    roles: tuple[str, ...]  # the roles a task's columns must name

    def outputs(self, task: Task) -> int:
        """Numbers the head gives for each row of the encoder's output that it reads."""

    def example(self, row: Mapping[str, Any], task: Task) -> dict | None:
        """The canonical example of a row whose columns carry role names; None drops it (no gold label).

        Raises ValueError (one line, without the place, which the caller adds) on a bad row.
        """

    def labels(self, examples: list[dict]) -> tuple[str, ...]:
        """The label set that training examples define, for tasks that declare none; empty where none is needed."""

    def encode(self, examples: list[dict], first: int, task: Task, tokenizer, counts: dict[str, int]) -> list[Unit]:
        """Units of consecutive examples, numbered from `first`; adds to `counts` (truncated, windows, ...)."""

    def reference(self, example: dict) -> dict:
        """What decoding and scoring need of an example, as plain JSON."""

    def collate(self, units: list[PlacedUnit], task: Task) -> dict[str, np.ndarray]:
        """Arrays for the head; always has `rows`: int64 (m,) positions in the pack, and works for no units."""

    def split(self, logits: np.ndarray, units: list[PlacedUnit]) -> list[np.ndarray]:
        """The head's float32 (m, outputs) for one pack, cut into one array a unit."""

    def decode(
        self,
        outputs: list[np.ndarray],
        examples: np.ndarray,
        offsets: list[np.ndarray] | None,
        references: list[dict],
        task: Task,
    ) -> list:
        """One prediction per reference.

        Args:
            outputs: what `split` gave, for every unit of the split, in store order.
            examples: int (units,): the example each unit belongs to (several windows may share one).
            offsets: each unit's character offsets; span extraction only.
        """

    def score(self, predictions: list, references: list[dict], task: Task) -> dict[str, float]:
        """Metrics of one prediction per reference, in per cent."""
