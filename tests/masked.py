"""Masked language modelling in miniature: what it asks of a tokenizer, two languages beside another task, stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.stores import TASKS, VOCABULARY, random_units, store_of
from trainer.data.loader import Collator
from trainer.data.masking import Masking
from trainer.data.prepare import Prepared, tasks_of
from trainer.tasks.masked_lm import masked_tokens
from trainer.tasks.mlm import MLM
from trainer.tasks.spec import Unit

MIXTURE = {"nli": TASKS["nli"], "mlm": MLM, "mlm-de": MLM.in_language("de")}


class TinyTokenizer:
    """What masking asks of a tokenizer: <s>, <pad>, </s>, <unk>, <mask>, then ordinary tokens."""

    mask_token_id, pad_token_id, all_special_ids = 4, 1, [0, 1, 2, 3, 4]

    def __len__(self) -> int:
        return VOCABULARY


def masked_units(count: int, seed: int = 0, longest: int = 40) -> list[Unit]:
    """<s> random tokens </s>, of 1 to `longest` tokens between."""
    random = np.random.default_rng([seed, 7])
    units = []
    for example in range(count):
        size = int(random.integers(1, longest + 1))
        tokens = random.integers(5, VOCABULARY, size).tolist()
        units.append(Unit(sequences=[[0, *tokens, 2]], target=[masked_tokens(size)], example=example))
    return units


def masked_prepared(folder: Path, train: int = 30, dev: int = 9) -> dict[str, Prepared]:
    """Stores of MIXTURE, each task with units of its own."""
    prepared = {}
    for seed, (name, task) in enumerate(MIXTURE.items()):
        stores = []
        for split, count in (("train", train), ("dev", dev)):
            own = 10 * seed + len(stores)
            units = masked_units(count, own) if task.format == "masked_lm" else random_units(task, count, own)
            stores.append(store_of(folder, units, f"{name}-{split}"))
        prepared[name] = Prepared(task, *stores)
    return prepared


def masked_collator(prepared, seed: int = 1, split: str = "train", constant_tokens: int | None = None) -> Collator:
    stores = {name: getattr(item, split) for name, item in prepared.items()}
    masking = Masking(TinyTokenizer(), seed)
    return Collator(tasks_of(prepared), stores, TinyTokenizer.pad_token_id, constant_tokens, masking)
