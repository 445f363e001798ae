"""Which rank the others wait for."""

from trainer.watch.stragglers import WINDOW, Stragglers


def reports(own, seconds=1.0, factor=1.5, windows=1):
    watch = Stragglers([f"host{rank // 2}" for rank in range(len(own))], factor)
    return [said for said in (watch.add(own, seconds) for _ in range(windows * WINDOW)) if said]


def test_the_slowest_rank_is_named_with_its_host_and_cost():
    (said,) = reports([0.10, 0.11, 0.40, 0.10])
    assert "wait for rank 2 on host1" in said
    assert "4.0 times theirs, 30% of everyone's time" in said


def test_it_is_said_once_a_window():
    assert len(reports([0.1, 0.4], windows=3)) == 3


def test_equal_ranks_one_rank_and_what_costs_nothing_are_not_said():
    assert not reports([0.10, 0.12, 0.11])
    assert not reports([0.5])
    assert not reports([0.001, 0.010])  # ten times as long, and under one per cent of the time


def test_each_window_is_counted_from_zero():
    watch = Stragglers(["a", "b"], 1.5)
    for _ in range(WINDOW):
        watch.add([0.1, 0.4], 1.0)
    assert not [said for said in (watch.add([0.1, 0.1], 1.0) for _ in range(WINDOW)) if said]
