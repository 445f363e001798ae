import hashlib
import json

import numpy as np
import pytest

from trainer.data.stream import BLOCK, Stream, permutation, random_words

SIZES = {"tiny": 7, "small": 500, "large": 9_000}
RATES = {"tiny": 0.05, "small": 0.35, "large": 0.6}


def blocks(stream: Stream, count: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = [stream.next_block() for _ in range(count)]
    return np.concatenate([tasks for tasks, _ in drawn]), np.concatenate([units for _, units in drawn])


def test_every_unit_once_an_epoch_and_epochs_differ():
    tasks, units = blocks(Stream(SIZES, RATES, seed=3), 12)
    for task, (name, size) in enumerate(SIZES.items()):
        of_task = units[tasks == task]
        epochs = [of_task[i : i + size] for i in range(0, len(of_task) - size + 1, size)]
        assert len(epochs) >= 2
        for epoch in epochs:
            assert np.array_equal(np.sort(epoch), np.arange(size))
        assert all(not np.array_equal(a, b) for a, b in zip(epochs, epochs[1:], strict=False)), name


def test_rates_reached_are_the_rates_asked_for():
    stream = Stream(SIZES, RATES, seed=0)
    for _ in range(5):
        tasks, _ = stream.next_block()
        reached = np.bincount(tasks, minlength=3)
        assert np.abs(reached - BLOCK * np.array(list(RATES.values()))).max() <= 1
    assert sum(stream.drawn) == 5 * BLOCK


def test_rare_tasks_get_their_share_in_the_long_run():
    tasks, _ = blocks(Stream({"rare": 5, "common": 5}, {"rare": 0.3 / BLOCK, "common": 1 - 0.3 / BLOCK}, seed=1), 400)
    assert 90 <= np.sum(tasks == 0) <= 150  # 120 expected, standard deviation 9


def test_tasks_are_mixed_within_a_block():
    tasks, _ = Stream(SIZES, RATES, seed=0).next_block()
    shares = [np.mean(part == 2) for part in np.split(tasks, 8)]
    assert max(shares) - min(shares) < 0.15


@pytest.mark.parametrize("at", [0, 1, 5])
def test_continues_from_a_state_that_went_through_json(at):
    stream = Stream(SIZES, RATES, seed=9)
    for _ in range(at):
        stream.next_block()
    state = json.loads(json.dumps(stream.state()))
    expected = blocks(stream, 3)
    fresh = Stream(SIZES, RATES, seed=9)
    fresh.next_block()
    fresh.restore(state)
    found = blocks(fresh, 3)
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_state_is_a_copy():
    stream = Stream(SIZES, RATES, seed=9)
    state = stream.state()
    stream.next_block()
    assert state == {"block": 0, "drawn": [0, 0, 0]}


def test_seeds_differ():
    first, second = (Stream(SIZES, RATES, seed=seed).next_block() for seed in (0, 1))
    assert not np.array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])


def test_purposes_and_indices_have_words_of_their_own():
    drawn = [random_words(*key, 4).tolist() for key in ((0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0))]
    assert len({word for words in drawn for word in words}) == 16


def test_global_generators_change_nothing():
    np.random.seed(0)
    first = Stream(SIZES, RATES, seed=4).next_block()
    np.random.seed(1)
    np.random.random(10)
    second = Stream(SIZES, RATES, seed=4).next_block()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_permutation_is_one():
    assert np.array_equal(np.sort(permutation(5, "x", 0, 1000)), np.arange(1000))
    assert permutation(5, "x", 0, 0).shape == (0,)


def test_the_order_never_changes():
    """A change here gives every published run another order of examples: runs could no longer be continued."""
    tasks, units = blocks(Stream(SIZES, RATES, seed=2024), 3)
    digest = hashlib.blake2b(tasks.astype("<i8").tobytes() + units.astype("<i8").tobytes(), digest_size=8).hexdigest()
    assert digest == "fbd0c632780c93af"
    assert random_words(1, "block", 2, 2).tolist() == [17992255925727530601, 12640784969487135335]
