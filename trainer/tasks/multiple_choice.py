"""A prompt and several options, one of which is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.tasks.framing import Frame, bare_pieces, text_of
from trainer.tasks.spec import PlacedUnit, Task, Unit


class MultipleChoice:
    """A sequence (prompt, option) for each option; the head scores its first token, softmax over the options.

    Roles: `prompt`, `choices` (one column with a list, or a column an option), `label` (index, digits or a letter).
    """

    name = "multiple_choice"
    version = 1
    roles = ("prompt", "choices", "label")
    optional_roles = ()

    def outputs(self, task: Task) -> int:
        """One score a sequence."""
        return 1

    def metrics(self, task: Task) -> tuple[str, ...]:
        """Keys of `score` that may stand for the task."""
        return ("accuracy",)

    def example(self, row: Mapping[str, Any], task: Task) -> dict | None:
        """{"id", "prompt", "choices": texts, "label": index}; None without gold label.

        Raises:
            ValueError: a text is missing, the number of options is not the task's, the label names no option.
        """
        if str(row.get("label")) in task.drop_labels:
            return None
        choices = list(row["choices"])
        if len(choices) != task.choices:
            raise ValueError(f"{len(choices)} options instead of {task.choices}")
        for i, choice in enumerate(choices):
            if not isinstance(choice, str) or not choice.strip():
                raise ValueError(f"option {i} is empty")
        label = option_index(row.get("label"), task)
        return {"id": str(row.get("id", "")), "prompt": text_of(row, "prompt"), "choices": choices, "label": label}

    def labels(self, examples: list[dict]) -> tuple[str, ...]:
        """None: options have no names."""
        return ()

    def encode(self, examples: list[dict], first: int, task: Task, tokenizer, counts: dict[str, int]) -> list[Unit]:
        """One unit an example, a sequence an option.

        A prompt that is too long keeps its end, where the question stands; an option is cut, at its end, only where
        it is too long by itself. Counts `truncated` examples.
        """
        frame = Frame.of(tokenizer, texts=2)
        room = task.max_length - frame.size
        prompts = bare_pieces(tokenizer, [example["prompt"] for example in examples])
        options = iter(bare_pieces(tokenizer, [choice for example in examples for choice in example["choices"]]))
        units = []
        for i, (example, encoded) in enumerate(zip(examples, prompts, strict=True)):
            prompt, choices = encoded.ids, [next(options).ids for _ in example["choices"]]
            if len(prompt) + max(map(len, choices)) > room:
                counts["truncated"] += 1
            built = [frame.build(prompt[max(0, len(prompt) + len(c) - room) :], c[:room]) for c in choices]
            units.append(
                Unit(
                    sequences=[tokens for tokens, _ in built],
                    types=[types for _, types in built] if frame.typed else None,
                    target=[example["label"]],
                    example=first + i,
                )
            )
        return units

    def reference(self, example: dict) -> dict:
        """{"id", "label": index}."""
        return {"id": example["id"], "label": example["label"]}

    def collate(self, units: list[PlacedUnit], task: Task) -> dict[str, np.ndarray]:
        """`rows`: int64 (n * choices,) first token of each sequence; `target`: int64 (n,) index of the right option."""
        rows = [unit.starts for unit in units]
        return {
            "rows": np.concatenate(rows).astype(np.int64) if rows else np.empty(0, np.int64),
            "target": np.array([unit.target[0] for unit in units], np.int64),
        }

    def split(self, logits: np.ndarray, units: list[PlacedUnit]) -> list[np.ndarray]:
        """(n * choices, 1) -> n arrays (choices,)."""
        ends = np.cumsum([len(unit.starts) for unit in units])
        return np.split(logits[:, 0], ends[:-1]) if units else []

    def decode(self, outputs, examples, offsets, references, task: Task) -> list[int]:
        """Index of the option with the highest score; -1 for a reference without a unit."""
        predictions = [-1] * len(references)
        for logits, example in zip(outputs, examples, strict=True):
            predictions[example] = int(np.argmax(logits))
        return predictions

    def score(self, predictions: list, references: list[dict], task: Task) -> dict[str, float]:
        """Accuracy in per cent."""
        right = sum(p == reference["label"] for p, reference in zip(predictions, references, strict=True))
        return {"accuracy": 100 * right / max(1, len(references))}


def option_index(raw: Any, task: Task) -> int:
    """The option a raw label means: 2, "2" and "C" are the third.

    Raises:
        ValueError: it is missing or means none of the task's options.
    """
    text = str(raw if raw is not None else "").strip()
    text = str(task.label_names.get(text, text))
    index = int(text) if text.isdecimal() else ord(text.upper()) - ord("A") if len(text) == 1 else -1
    if not 0 <= index < task.choices:
        raise ValueError(f"label {raw!r} is none of the {task.choices} options")
    return index
