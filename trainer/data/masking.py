"""Dynamic masking: which tokens a masked language model has to predict, drawn anew whenever a pack is made.

The draw is a function of counters, as the stream is (`trainer.data.stream`) and dropout: in training of (seed, step,
pack, place in the pack), so that it depends neither on the number of ranks nor on where a run was interrupted; in
evaluation of the unit alone, so that scores compare across steps, runs and sizes of packs.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable

import numpy as np

from trainer.errors import UserError
from trainer.tasks.spec import PlacedUnit, Task

MASKED, REPLACED = 0.8, 0.1  # of the tokens to be predicted: become <mask>, become another one; the rest stays
EVALUATION = 0  # in the place of a step; training counts from 1


class Masking:
    """Masks units of masked language modelling.

    Args:
        tokenizer: its special tokens are never masked nor drawn as replacements, of which each other token of its
            vocabulary is as likely.

    Raises:
        UserError: the tokenizer has no mask token.
    """

    def __init__(self, tokenizer, seed: int):
        if tokenizer.mask_token_id is None:
            raise UserError(
                "the tokenizer has no mask token, which masked language modelling needs",
                fix="choose an encoder that was trained as a masked language model, or drop the task",
            )
        self.seed, self.mask = seed, tokenizer.mask_token_id
        self.special = np.array(sorted(tokenizer.all_special_ids))
        self.ordinary = np.setdiff1d(np.arange(len(tokenizer), dtype=np.int32), self.special)

    def __call__(
        self, tokens: np.ndarray, placed: PlacedUnit, unit: int, step: int, pack: int, place: int
    ) -> tuple[np.ndarray, PlacedUnit]:
        """A masked copy of the unit's tokens, and the unit with what to predict in it.

        Args:
            tokens: int32 (n,), with as many maskable ones as when the unit was encoded.
            placed: the unit as the store has it: `target` is how many tokens to mask.
            unit: its number in the store; place: its position among the units of its pack.
            step: EVALUATION, or the step, to which `pack` belongs.

        Returns:
            int32 (n,), and the unit with `rows`, ascending positions in its sequence, and `target`, what stood there.
        """
        maskable = np.flatnonzero(~np.isin(tokens, self.special))
        count = int(placed.target[0])
        words = self._words(len(maskable) + 2 * count, unit, step, pack, place)
        order, kinds, others = np.split(words, [len(maskable), len(maskable) + count])
        chosen = np.sort(maskable[np.argsort(order, kind="stable")[:count]])
        kinds = kinds / 2.0**64
        masked = tokens.copy()
        masked[chosen[kinds < MASKED]] = self.mask
        replaced = (kinds >= MASKED) & (kinds < MASKED + REPLACED)
        masked[chosen[replaced]] = self.ordinary[others[replaced] % np.uint64(len(self.ordinary))]
        return masked, dataclasses.replace(placed, rows=chosen.astype(np.int32), target=tokens[chosen])

    def _words(self, count: int, unit: int, step: int, pack: int, place: int) -> np.ndarray:
        """uint64 (count,): Philox's raw words, a stream numpy promises not to change."""
        evaluating = step == EVALUATION
        seed, purpose = (0, "mask for evaluation") if evaluating else (self.seed, "mask")
        key = np.array([seed, zlib.crc32(purpose.encode()) << 32], np.uint64)
        # The lowest word counts the draws of one unit.
        counter = np.array([0, unit, 0, 0] if evaluating else [0, place, pack, step], np.uint64)
        return np.random.Philox(key=key, counter=counter).random_raw(count)


def masking_of(tasks: Iterable[Task], tokenizer, seed: int) -> Masking | None:
    """What the collator of a mixture needs; None when none of its tasks is masked language modelling."""
    return Masking(tokenizer, seed) if any(task.format == "masked_lm" for task in tasks) else None
