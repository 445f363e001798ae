"""Metrics of label predictions, in per cent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def accuracy(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Share of predictions that equal their reference, in per cent.

    Args:
        predictions, references: (n,) labels that compare with ==.

    Raises:
        ValueError: the lengths differ, or there is nothing to score.
    """
    check_lengths(predictions, references)
    return 100.0 * sum(bool(p == r) for p, r in zip(predictions, references, strict=True)) / len(references)


def binary_f1(predictions: Sequence[Any], references: Sequence[Any], positive: Any) -> float:
    """F1 of the class `positive`, 2TP / (2TP + FP + FN), in per cent; 0 where that is 0/0, as scikit-learn has it.

    Args:
        predictions, references: (n,) labels that compare with ==.
        positive: the label that counts; all others are one class.

    Raises:
        ValueError: the lengths differ, or there is nothing to score.
    """
    check_lengths(predictions, references)
    both = sum(bool(p == positive and r == positive) for p, r in zip(predictions, references, strict=True))
    either = sum(bool(p == positive) for p in predictions) + sum(bool(r == positive) for r in references)
    return 200.0 * both / either if either else 0.0


def check_lengths(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    """Raises ValueError unless there is one prediction for each of at least one reference."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    if not len(references):
        raise ValueError("there are no examples to score")
