import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.mining_worker import planted
from trainer.evaluation.mining import mine, tune_threshold, unique_sentences


def test_repeated_sentences_count_once_and_are_marked():
    places, single = unique_sentences(["b", "a", "b", "c", "a", "d"])
    assert places.tolist() == [0, 1, 3, 5] and single.tolist() == [False, False, True, True]
    places, single = unique_sentences([])
    assert len(places) == len(single) == 0


def plain_mining(left: np.ndarray, right: np.ndarray, k: int = 4) -> dict[tuple[int, int], float]:
    """The method in plain words: every pair of a row and its best neighbour, the best pairs first."""
    similar = left @ right.T
    left_mean = np.sort(similar, 1)[:, ::-1][:, :k].mean(1)
    right_mean = np.sort(similar, 0)[::-1][:k].mean(0)
    margin = similar / ((left_mean[:, None] + right_mean[None]) / 2)
    candidates = []
    for i in range(len(left)):
        near = np.argsort(-similar[i], kind="stable")[:k]
        j = max(near, key=lambda j: margin[i, j])
        candidates.append((margin[i, j], i, int(j)))
    for j in range(len(right)):
        near = np.argsort(-similar[:, j], kind="stable")[:k]
        i = max(near, key=lambda i: margin[i, j])
        candidates.append((margin[i, j], int(i), j))
    pairs = {}
    for value, i, j in sorted(candidates, reverse=True):
        if all(i != a and j != b for a, b in pairs):
            pairs[i, j] = value
    return pairs


@pytest.mark.parametrize(("rows", "columns"), [(40, 60), (70, 30), (3, 2)])
def test_pairs_are_those_of_the_plain_method(rows, columns):
    generator = torch.Generator().manual_seed(rows)
    left, right = (
        torch.nn.functional.normalize(torch.randn(n, 8, generator=generator) + 0.7, dim=1) for n in (rows, columns)
    )
    expected = plain_mining(left.double().numpy(), right.double().numpy())
    pairs, margins = mine(left, right)
    found = {tuple(pair): margin for pair, margin in zip(pairs.tolist(), margins, strict=True)}
    assert found == pytest.approx(expected)
    assert (np.diff(margins) <= 0).all()
    assert len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == len(pairs)


def test_the_threshold_is_half_way_below_the_best_f1():
    pairs = [("a", "A"), ("b", "B"), ("c", "X"), ("d", "D"), ("e", "Y"), ("f", "Z")]
    margins = np.array([2.0, 1.8, 1.5, 1.4, 1.2, 1.1])
    gold = {("a", "A"), ("b", "B"), ("d", "D"), ("g", "G")}
    # F1 of the first 1 to 6: 2/5, 4/6, 4/7, 6/8, 6/9, 6/10
    assert tune_threshold(pairs, margins, gold) == pytest.approx((1.4 + 1.2) / 2)
    assert tune_threshold(pairs, margins, {("f", "Z")}) == 1.1  # nothing is left below the last
    assert tune_threshold(pairs, margins, {("n", "N")}) == tune_threshold([], np.empty(0), gold) == 0.0


def test_no_threshold_lies_between_equal_margins():
    pairs = [("a", "A"), ("b", "X"), ("c", "Y"), ("d", "D")]
    gold = {("a", "A"), ("d", "D")}
    assert tune_threshold(pairs, np.array([1.5, 1.5, 1.5, 1.2]), gold) == 1.2
    assert tune_threshold(pairs, np.array([1.5, 1.4, 1.4, 1.2]), {("a", "A")}) == pytest.approx(1.45)


def test_planted_pairs_are_found():
    left, right, gold = planted(3000, 2500, 64, 300, seed=0)
    pairs, margins = mine(left, right)
    threshold = tune_threshold([tuple(pair) for pair in pairs.tolist()], margins, gold)
    assert {tuple(pair) for pair in pairs[margins >= threshold].tolist()} == gold


@pytest.mark.long
def test_mining_two_hundred_thousand_sentences_stays_within_four_gigabytes():
    """About 31 TFLOP: minutes on a few cores."""
    command = [sys.executable, "-m", "tests.evaluation.mining_worker", "200000", "200000", "384", "20000"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["f1"] == 100.0, result
    assert result["peak_bytes"] < 4e9, result
