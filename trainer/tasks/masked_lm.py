"""Masked language modelling (arXiv 1810.04805, section 3.1) on plain text, as one more task of a mixture.

The store holds whole sequences. Which tokens are hidden is drawn when a pack is made, anew at every draw:
`trainer.data.masking`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.tasks.framing import Frame, bare_pieces
from trainer.tasks.spec import PlacedUnit, Task, Unit

SHARE = 0.15  # of a sequence's tokens that are to be predicted
LARGEST_EXPONENT = 700.0  # a perplexity beyond e^700 is infinite in double precision


def masked_tokens(maskable: int) -> int:
    """How many of a sequence's ordinary tokens are predicted: 15%, rounded, but at least one."""
    return max(1, round(SHARE * maskable))


class MaskedLM:
    """One sequence a line of text, or several where it is longer than the task's limit; the head reads masked tokens.

    Roles: `text`.
    """

    name = "masked_lm"
    version = 1
    roles = ("text",)
    optional_roles = ()

    def outputs(self, task: Task) -> int:
        """Two a masked token: its cross-entropy, and 1 where it was the model's first guess. Logits are never kept."""
        return 2

    def metrics(self, task: Task) -> tuple[str, ...]:
        """Keys of `score` that may stand for the task; of a perplexity, less is better."""
        return ("accuracy",)

    def example(self, row: Mapping[str, Any], task: Task) -> dict | None:
        """{"id", "text"}; None for a blank text.

        Raises:
            ValueError: the text is missing or none.
        """
        text = row.get("text")
        if not isinstance(text, str):
            raise ValueError("text is missing" if text is None else "text is not text")
        return {"id": str(row.get("id", "")), "text": text} if text.strip() else None

    def labels(self, examples: list[dict]) -> tuple[str, ...]:
        """None: the vocabulary is the tokenizer's."""
        return ()

    def encode(self, examples: list[dict], first: int, task: Task, tokenizer, counts: dict[str, int]) -> list[Unit]:
        """A unit a text, or several of nearly equal length: a short rest would weigh as much as a whole sequence.

        The target is the number of tokens to be masked. Counts texts that are `split`, and sequences with
        `nothing_to_mask` (only special and unknown tokens), which are left out.
        """
        frame, special = Frame.of(tokenizer, texts=1), set(tokenizer.all_special_ids)
        room = task.max_length - frame.size
        units = []
        for i, encoded in enumerate(bare_pieces(tokenizer, [example["text"] for example in examples])):
            pieces = encoded.ids
            parts = max(1, -(-len(pieces) // room))
            if parts > 1:
                counts["split"] += 1
            for part in range(parts):
                own = pieces[part * len(pieces) // parts : (part + 1) * len(pieces) // parts]
                maskable = sum(piece not in special for piece in own)
                if not maskable:
                    counts["nothing_to_mask"] += 1
                    continue
                sequence, types = frame.build(own)
                units.append(
                    Unit(
                        sequences=[sequence],
                        types=[types] if frame.typed else None,
                        target=[masked_tokens(maskable)],
                        example=first + i,
                    )
                )
        return units

    def reference(self, example: dict) -> dict:
        """{"id"}: what is to be predicted is drawn with the mask."""
        return {"id": example["id"]}

    def collate(self, units: list[PlacedUnit], task: Task) -> dict[str, np.ndarray]:
        """Arrays of the m masked tokens of units that `trainer.data.masking.Masking` has masked.

        `rows`: int64 (m,) their positions; `target`: int64 (m,) what stood there; `weight`: float32 (m,), one over the
        number of masked tokens of their unit, whose loss is thus their mean.
        """
        none = np.empty(0, np.int64)
        sizes = np.array([len(unit.rows) for unit in units], np.int64)
        return {
            "rows": np.concatenate([none, *(unit.starts[0] + unit.rows for unit in units)]).astype(np.int64),
            "target": np.concatenate([none, *(unit.target for unit in units)]).astype(np.int64),
            "weight": np.repeat(1 / sizes, sizes).astype(np.float32),
        }

    def split(self, logits: np.ndarray, units: list[PlacedUnit]) -> list[np.ndarray]:
        """(m, 2) -> one array (masked tokens, 2) for each unit as the store has it."""
        return np.split(logits, np.cumsum([unit.target[0] for unit in units])[:-1]) if units else []

    def decode(self, outputs, examples, offsets, references, task: Task) -> list[tuple[float, int, int]]:
        """(sum of cross-entropies, right guesses, masked tokens) of each reference's text."""
        totals = np.zeros((len(references), 3))
        for scores, example in zip(outputs, examples, strict=True):
            totals[example] += (*scores.sum(0, dtype=np.float64), len(scores))
        return [(loss, int(right), int(masked)) for loss, right, masked in totals.tolist()]

    def score(self, predictions: list, references: list[dict], task: Task) -> dict[str, float]:
        """Share of masked tokens guessed right, in per cent, and the perplexity, e to their mean cross-entropy."""
        loss, right, masked = (sum(column) for column in zip(*predictions, strict=True)) if predictions else (0, 0, 0)
        mean = loss / max(1, masked)
        perplexity = math.inf if mean > LARGEST_EXPONENT else math.exp(mean)
        return {"accuracy": 100 * right / max(1, masked), "perplexity": perplexity}
