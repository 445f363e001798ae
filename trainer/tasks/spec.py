"""What a task is, and what a format must provide.

A *task* says where labelled rows come from and what their columns are called; its *format* knows how rows become
token sequences, which rows of the encoder's output a head reads, and how predictions are scored. Nothing here knows
about models: everything is plain Python and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from trainer.tasks.languages import fill_in, has_placeholder, language_of

SPLITS = ("train", "dev", "test")
TRAINING_SPLITS = ("train", "dev")


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
        labels: label names in the order of the head's outputs. Empty for token tagging whose training
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
        language: of its texts, an ISO 639-1 code.
        languages: of the test split; empty for a task that is no target.
        keep: (raw row, language) -> whether the row is of that language, for files that hold several.
        head: the task whose head it uses; "": its own.
        folder: below `data.folder`; "": its name.
        group: of a target, as XTREME groups them: sentence_pair, structured, qa or retrieval.
        answer_rules: language -> rules of `trainer.evaluation.squad.normalize`; "en" for the others.

    Paths of `files` and configurations of `hub` may hold {language} (de), {iso3} (deu), {name} (german) and {Name}
    (German), which stand for the task's language.
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
    language: str = "en"
    languages: tuple[str, ...] = ()
    keep: Callable[[dict, str], bool] | None = None
    head: str = ""
    folder: str = ""
    group: str = ""
    answer_rules: Mapping[str, str] = field(default_factory=dict)

    def in_language(self, code: str) -> Task:
        """The task in another language: "xnli-de", with the head and the folder of "xnli"; itself in its own.

        Paths and hub configurations without a placeholder are English: they are left out, unless the task has `keep`.
        A split of which that leaves a part without any path is left out too.

        Raises:
            UserError: no such language code.
            ValueError: the task is in a language other than English already.
        """
        language_of(code)
        if code == self.language:
            return self
        if self.language != "en":
            raise ValueError(f"{self.name} is in {self.language} already")
        files = {
            split: tuple(tuple(fill_in(p, code) for p in part if self.keep or has_placeholder(p)) for part in parts)
            for split, parts in self.files.items()
        }
        hub = {split: self.hub_parts(split, code) for split in self.hub}
        return replace(
            self,
            name=f"{self.name}-{code}",
            language=code,
            files={split: parts for split, parts in files.items() if all(parts)},
            hub={split: parts for split, parts in hub.items() if parts},
            head=self.head or self.name,
            folder=self.folder or self.name,
        )

    def hub_parts(self, split: str, code: str = "") -> tuple[HubPart, ...]:
        """The data sets of a split in a language (default: the task's), placeholders filled in.

        Where some configurations hold a placeholder and others do not, the latter are English and the former the other
        languages'.
        """
        code = code or self.language
        parts = self.hub.get(split, ())
        marked = tuple(part for part in parts if has_placeholder(part.config or ""))
        plain = tuple(part for part in parts if part not in marked)
        chosen = plain or marked if code == "en" else marked or (plain if self.keep or code == self.language else ())
        return tuple(replace(part, config=part.config and fill_in(part.config, code)) for part in chosen)


def hub_splits(dataset: str, config: str | None = None, revision: str = "main", **splits: str):
    """`Task.hub` of a task all of one data set; `splits`: the task's name of a split -> the data set's."""
    return {split: (HubPart(dataset, name, config, revision),) for split, name in splits.items()}


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
