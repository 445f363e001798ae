"""Mixture rates: how often each task is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from trainer.config import MixtureSection
from trainer.errors import UserError
from trainer.tasks.spec import Task


def variants_of(tasks: Iterable[Task]) -> dict[str, str]:
    """Task -> the task it is a language variant of: mnli-de -> mnli; a task in its first language is its own."""
    return {task.name: task.name.removesuffix(f"-{task.language}") for task in tasks}


def mixture_rates(
    sizes: Mapping[str, int],
    mixture: MixtureSection,
    budget: float | None = None,
    variants: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """The probability of each task, summing to 1.

    Args:
        sizes: units (examples, or windows of span examples) of each task's training split.
        budget: units the whole run will draw; needed by `unimax` only.
        variants: see `variants_of`; tasks it does not name are their own.

    The language variants of one task count as one, of the sum of their sizes; its rate is shared among them by
    exponential smoothing, n^S normalised (S = 0.3 in XLM-R: arXiv 1911.02116, section 3; arXiv 1901.07291, 3.1).

    `temperature` is min(n, K)^(1/T) normalised (T5, arXiv 1910.10683, section 3.5.2); `proportional` is the same with
    T = 1 and no cap; `unimax` spreads the budget evenly, no task beyond `unimax_epochs` passes (arXiv 2304.09151,
    algorithm 1).

    Raises:
        UserError: a task has no data, or `weights` does not give every task a rate above 0.
    """
    for task, n in sizes.items():
        if n <= 0:
            raise UserError(f"task {task} has no training examples", fix=f"drop {task} from `tasks`, or check its data")
    members: dict[str, list[str]] = {}
    for task in sizes:
        members.setdefault((variants or {}).get(task, task), []).append(task)
    shares = {base: _smoothed([sizes[task] for task in names], mixture.smoothing) for base, names in members.items()}
    n = np.array([sum(sizes[task] for task in names) for names in members.values()], np.float64)
    if mixture.strategy == "proportional":
        raw = n
    elif mixture.strategy == "temperature":
        raw = np.minimum(n, mixture.cap or np.inf) ** (1.0 / mixture.temperature)
    elif mixture.strategy == "uniform":
        raw = np.ones_like(n)
    elif mixture.strategy == "weights":
        raw = np.empty_like(n)
        for i, (base, names) in enumerate(members.items()):
            given = _weights(base, names, mixture.weights)
            raw[i] = given.sum()
            shares[base] = given / given.sum() if len(given) > 1 else shares[base]
    else:
        raw = _unimax(n, n.sum() if budget is None else budget, mixture.unimax_epochs)
    rates = {
        task: float(whole * share)
        for (base, names), whole in zip(members.items(), raw / raw.sum(), strict=True)
        for task, share in zip(names, shares[base], strict=True)
    }
    return {task: rates[task] for task in sizes}


def _smoothed(sizes: list[int], smoothing: float) -> np.ndarray:
    raw = np.array(sizes, np.float64) ** smoothing
    return raw / raw.sum()


def _weights(base: str, names: list[str], weights: Mapping[str, float]) -> np.ndarray:
    """The weights of a task's variants where each has one, else the one weight of them all.

    Raises:
        UserError: some variants have a weight and others not, or one is not above 0.
    """
    together = base in weights and not any(task in weights for task in names if task != base)
    found = {base: weights[base]} if together else {task: weights.get(task, 0) for task in names}
    if not together and base in weights and base not in names:
        raise UserError(
            f"mixture.weights names {base} and some of its languages",
            why="they have one weight together, or one each",
            fix=f"drop mixture.weights.{base}, or those of {', '.join(names)}",
        )
    missing = [task for task, weight in found.items() if weight <= 0]
    if missing:
        raise UserError(
            f"mixture.strategy is weights, but mixture.weights gives no rate above 0 to {', '.join(missing)}",
            why=f"the languages of {base} have one weight together, or one each" if len(names) > 1 else "",
            fix=f"add mixture.weights.{missing[0]}=1.0",
        )
    return np.array(list(found.values()))


def _unimax(n: np.ndarray, budget: float, epochs: float) -> np.ndarray:
    """Units drawn of each task: an even share of what is left, smallest tasks first, at most `epochs` passes."""
    share = np.zeros_like(n)
    left = budget
    for done, i in enumerate(np.argsort(n, kind="stable")):
        share[i] = min(left / (len(n) - done), n[i] * epochs)
        left -= share[i]
    return share
