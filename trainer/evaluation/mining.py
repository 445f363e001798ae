"""Mining translations out of two corpora, as XTREME does for BUCC: ratio margin, and a threshold tuned on other data.

The margin is that of Artetxe and Schwenk, arXiv 1811.01136, section 3; everything around it is as in XTREME's scripts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

import numpy as np
import torch

from trainer.evaluation.neighbours import Neighbours, nearest_both_ways

NEIGHBOURHOOD = 4
Pair = tuple[str, str]


def unique_sentences(sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Where different sentences first stand, int64 (u,) ascending, and whether each stands there only, bool (u,).

    Repeated sentences count once in neighbourhoods, but as nobody can tell which of their ids is meant, no pair of
    theirs is mined.
    """
    times, first = Counter(sentences), {}
    for place, sentence in enumerate(sentences):
        first.setdefault(sentence, place)
    return np.array(list(first.values()), np.int64), np.array([times[sentence] == 1 for sentence in first], bool)


def mine(left: torch.Tensor, right: torch.Tensor, device: torch.device | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows, each row in one pair at most, and their margins, the largest first.

    Candidates are, for each row of either side, the neighbour with the largest margin; greedily from the largest on,
    those are taken whose rows are both free.

    Args:
        left, right: float32 (n, H) and (m, H) of length 1.
        device: to compute on; default: where they are.

    Returns:
        int64 (pairs, 2), rows on the left and right, and float64 (pairs,).
    """
    forward, backward = nearest_both_ways(left, right, NEIGHBOURHOOD, device)
    means = [side.similarities.numpy().mean(1, dtype=np.float64) for side in (forward, backward)]
    left_best, left_margins = _best_margins(forward, *means)
    right_best, right_margins = _best_margins(backward, *means[::-1])
    rows = np.concatenate([np.arange(len(left)), right_best])
    columns = np.concatenate([left_best, np.arange(len(right))])
    margins = np.concatenate([left_margins, right_margins])
    order = np.argsort(-margins, kind="stable")
    free_rows, free_columns, taken = np.ones(len(left), bool), np.ones(len(right), bool), []
    for place, row, column in zip(order.tolist(), rows[order].tolist(), columns[order].tolist(), strict=True):
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            taken.append(place)
    return np.stack([rows[taken], columns[taken]], 1), margins[taken]


def _best_margins(side: Neighbours, own: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's neighbour with the largest ratio margin, and that margin.

    Args:
        own, other: mean similarity of each row, and of each row of the other side, to its neighbours.
    """
    indices = side.indices.numpy()
    margins = side.similarities.numpy() / ((own[:, None] + other[indices]) / 2)
    best = margins.argmax(1)[:, None]
    return np.take_along_axis(indices, best, 1)[:, 0], np.take_along_axis(margins, best, 1)[:, 0]


def tune_threshold(pairs: Sequence[Pair], margins: Sequence[float], gold: Set[Pair]) -> float:
    """The margin from which on pairs must be taken for the best F1: half way to the next smaller margin.

    Args:
        margins: (pairs,) in descending order.

    Returns:
        The largest such threshold; 0, with which XTREME takes everything, if no pair is in `gold`.
    """
    margins = np.asarray(margins)
    hits = np.cumsum([pair in gold for pair in pairs])
    if not len(pairs) or not hits[-1]:
        return 0.0
    f1 = 2 * hits / (np.arange(1, len(pairs) + 1) + len(gold))
    below = np.append(margins[1:], margins[-1])
    f1[:-1][margins[:-1] == margins[1:]] = -1  # no threshold lies between equal margins
    best = int(f1.argmax())
    return float((margins[best] + below[best]) / 2)
