"""Mixture rates: how often each task is drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trainer.config import MixtureSection
from trainer.errors import UserError


def mixture_rates(sizes: Mapping[str, int], mixture: MixtureSection, budget: float | None = None) -> dict[str, float]:
    """The probability of each task, summing to 1.

    Args:
        sizes: units (examples, or windows of span examples) of each task's training split.
        budget: units the whole run will draw; needed by `unimax` only.

    `temperature` is min(n, K)^(1/T) normalised (T5, arXiv 1910.10683, section 3.5.2); `proportional` is the same with
    T = 1 and no cap; `unimax` spreads the budget evenly, no task beyond `unimax_epochs` passes (arXiv 2304.09151,
    algorithm 1).

    Raises:
        UserError: a task has no data, or `weights` does not give every task a rate above 0.
    """
    for task, n in sizes.items():
        if n <= 0:
            raise UserError(f"task {task} has no training examples", fix=f"drop {task} from `tasks`, or check its data")
    n = np.array(list(sizes.values()), np.float64)
    if mixture.strategy == "proportional":
        raw = n
    elif mixture.strategy == "temperature":
        raw = np.minimum(n, mixture.cap or np.inf) ** (1.0 / mixture.temperature)
    elif mixture.strategy == "uniform":
        raw = np.ones_like(n)
    elif mixture.strategy == "weights":
        missing = [task for task in sizes if mixture.weights.get(task, 0) <= 0]
        if missing:
            raise UserError(
                f"mixture.strategy is weights, but mixture.weights gives no rate above 0 to {', '.join(missing)}",
                fix=f"add mixture.weights.{missing[0]}=1.0",
            )
        raw = np.array([mixture.weights[task] for task in sizes])
    else:
        raw = _unimax(n, n.sum() if budget is None else budget, mixture.unimax_epochs)
    return dict(zip(sizes, (raw / raw.sum()).tolist(), strict=True))


def _unimax(n: np.ndarray, budget: float, epochs: float) -> np.ndarray:
    """Units drawn of each task: an even share of what is left, smallest tasks first, at most `epochs` passes."""
    share = np.zeros_like(n)
    left = budget
    for done, i in enumerate(np.argsort(n, kind="stable")):
        share[i] = min(left / (len(n) - done), n[i] * epochs)
        left -= share[i]
    return share
