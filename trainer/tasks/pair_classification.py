"""One or two texts, one label: natural language inference, paraphrase, single-sentence classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.tasks.framing import text_of
from trainer.tasks.spec import PlacedUnit, Task, Unit


class PairClassification:
    """One sequence an example; the head reads its first token.

    Roles: `first`, `second` (left out of a task's columns: single-text classification), `label`.
    """

    name = "pair_classification"
    version = 1
    roles = ("first", "second", "label")
    optional_roles = ("second",)

    def outputs(self, task: Task) -> int:
        """One logit a label."""
        return len(task.labels)

    def metrics(self, task: Task) -> tuple[str, ...]:
        """Keys of `score` that may stand for the task."""
        return ("accuracy", "f1") if len(task.labels) == 2 else ("accuracy",)

    def example(self, row: Mapping[str, Any], task: Task) -> dict | None:
        """{"id", "first", "second", "label": label name}; `second` is "" for a single text; None without gold label.

        Raises:
            ValueError: the label is none of the task's, or a text is missing.
        """
        label = label_name(row.get("label"), task)
        if label is None:
            return None
        paired = "second" in row or "second" in task.columns
        second = text_of(row, "second") if paired else ""
        return {"id": str(row.get("id", "")), "first": text_of(row, "first"), "second": second, "label": label}

    def labels(self, examples: list[dict]) -> tuple[str, ...]:
        """None: tasks declare theirs."""
        return ()

    def encode(self, examples: list[dict], first: int, task: Task, tokenizer, counts: dict[str, int]) -> list[Unit]:
        """One unit an example; the longer text is cut first. Counts `truncated` examples."""
        if not examples:
            return []
        texts = [[example["first"] for example in examples]]
        if any(example["second"] for example in examples):
            texts.append([example["second"] for example in examples])
        batch = tokenizer(*texts, truncation="longest_first", max_length=task.max_length)
        types = batch["token_type_ids"] if "token_type_ids" in tokenizer.model_input_names else None
        units = []
        for i, example in enumerate(examples):
            if batch.encodings[i].overflowing:
                counts["truncated"] += 1
            units.append(
                Unit(
                    sequences=[batch["input_ids"][i]],
                    types=[types[i]] if types else None,
                    target=[task.labels.index(example["label"])],
                    example=first + i,
                )
            )
        return units

    def reference(self, example: dict) -> dict:
        """{"id", "label"}."""
        return {"id": example["id"], "label": example["label"]}

    def collate(self, units: list[PlacedUnit], task: Task) -> dict[str, np.ndarray]:
        """`rows`: int64 (n,) first token of each sequence; `target`: int64 (n,) label index."""
        return {
            "rows": np.array([unit.starts[0] for unit in units], np.int64),
            "target": np.array([unit.target[0] for unit in units], np.int64),
        }

    def split(self, logits: np.ndarray, units: list[PlacedUnit]) -> list[np.ndarray]:
        """(n, labels) -> n arrays (labels,)."""
        return list(logits)

    def decode(self, outputs, examples, offsets, references, task: Task) -> list[str]:
        """The label name with the highest logit; "" for a reference without a unit."""
        predictions = [""] * len(references)
        for logits, example in zip(outputs, examples, strict=True):
            predictions[example] = task.labels[int(np.argmax(logits))]
        return predictions

    def score(self, predictions: list, references: list[dict], task: Task) -> dict[str, float]:
        """Accuracy; with two labels also the F1 of the second one (GLUE's QQP and MRPC), in per cent."""
        gold = [reference["label"] for reference in references]
        pairs = list(zip(predictions, gold, strict=True))
        scores = {"accuracy": 100 * sum(p == g for p, g in pairs) / max(1, len(pairs))}
        if len(task.labels) == 2:
            positive = task.labels[1]
            hits = sum(p == g == positive for p, g in pairs)
            total = predictions.count(positive) + gold.count(positive)
            scores["f1"] = 100 * 2 * hits / total if total else 0.0
        return scores


def label_name(raw: Any, task: Task) -> str | None:
    """A raw label resolved by name; None where it is one of the task's `drop_labels`.

    Raises:
        ValueError: it is missing or none of the task's labels.
    """
    if raw is None:
        raise ValueError("label is missing")
    text = str(raw)
    if text in task.drop_labels:
        return None
    name = task.label_names.get(text, text)
    if name not in task.labels:
        raise ValueError(f"label {text!r} is none of {', '.join([*task.labels, *task.label_names])}")
    return name
