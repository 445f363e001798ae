import numpy as np
import pytest

from trainer.evaluation.metrics import accuracy, binary_f1


def test_accuracy_of_a_hand_count():
    assert accuracy(["a", "b", "c", "a"], ["a", "b", "a", "b"]) == 50.0
    assert accuracy(np.array([1, 0, 2]), [1, 0, 2]) == 100.0


def test_binary_f1_of_a_hand_count():
    # 2 true positives, 1 false positive, 3 false negatives: 4 / (4 + 1 + 3)
    predictions = [1, 1, 1, 0, 0, 0, 0]
    references = [1, 1, 0, 1, 1, 1, 0]
    assert binary_f1(predictions, references, 1) == 50.0
    assert binary_f1(predictions, references, 0) == pytest.approx(100 * 2 / (2 + 3 + 1))


def test_binary_f1_without_any_positive_is_zero():
    assert binary_f1([0, 0], [0, 0], 1) == 0.0
    assert binary_f1([1, 0], [0, 0], 1) == 0.0


@pytest.mark.parametrize("metric", [accuracy, lambda p, r: binary_f1(p, r, 1)])
def test_lengths_must_agree_and_be_above_zero(metric):
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        metric([1], [1, 0])
    with pytest.raises(ValueError, match="no examples"):
        metric([], [])
