import pytest

from trainer.ui.progress import RECENT, Progress


def step(number, seconds=2.0, speed=1000.0, **fields):
    return {"event": "step", "step": number, "step_seconds": seconds, "useful_tokens_per_second": speed, **fields}


def test_eta_is_the_median_step_time_times_the_steps_left():
    progress = Progress()
    progress.update({"event": "start", "total_steps": 100, "first_step": 1})
    assert progress.eta_seconds is None
    for number, seconds in enumerate((60.0, 2.0, 2.5, 2.0, 2.5), 1):  # the first step compiles
        progress.update(step(number, seconds))
    assert progress.eta_seconds == 95 * 2.5
    for number in range(6, 6 + RECENT):
        progress.update(step(number, 1.0))
    assert progress.eta_seconds == 100 - 5 - RECENT


def test_eta_needs_a_total_and_never_goes_below_zero():
    progress = Progress()
    progress.update(step(1))
    assert progress.eta_seconds is None
    progress = Progress(total_steps=3)
    progress.update(step(4))
    assert progress.eta_seconds == 0


def test_tokens_per_second_is_all_tokens_by_all_time():
    progress = Progress()
    assert progress.tokens_per_second() is None
    progress.update(step(1, seconds=1.0, speed=4000.0))
    progress.update(step(2, seconds=3.0, speed=2000.0))
    assert progress.tokens_per_second() == (4000 + 6000) / 4
    assert progress.tokens_per_second(1) == 2000.0


def test_examples_and_rates_reached_add_up_over_steps():
    progress = Progress()
    progress.update({"event": "start", "tasks": ["mnli", "qqp", "ccg"], "rates": {"mnli": 0.5, "qqp": 0.25}})
    assert [(row.examples, row.reached, row.loss) for row in progress.tasks()] == [(0, None, None)] * 3
    progress.update(step(1, examples={"mnli": 3, "qqp": 0}))
    progress.update(step(2, examples={"mnli": 2, "qqp": 3}))
    rows = {row.name: row for row in progress.tasks()}
    assert list(rows) == ["mnli", "qqp", "ccg"]
    assert [row.examples for row in rows.values()] == [5, 3, 0]
    assert [row.reached for row in rows.values()] == [5 / 8, 3 / 8, 0.0]
    assert [row.asked for row in rows.values()] == [0.5, 0.25, None]


def test_task_losses_are_means_over_the_examples_of_recent_steps():
    progress = Progress()
    progress.update(step(1, task_loss={"mnli": 1.0, "qqp": 0.0}, examples={"mnli": 1, "qqp": 0}))
    progress.update(step(2, task_loss={"mnli": 2.0}, examples={"mnli": 3}))
    rows = {row.name: row for row in progress.tasks()}
    assert rows["mnli"].loss == (1.0 * 1 + 2.0 * 3) / 4
    assert rows["qqp"].loss is None  # a step without its examples says nothing about its loss
    for number in range(3, 3 + RECENT):
        progress.update(step(number, task_loss={"mnli": 0.5}, examples={"mnli": 1}))
    assert progress.tasks()[0].loss == pytest.approx(0.5)


def test_a_resumed_run_goes_on_from_the_counts_its_event_carries():
    progress = Progress()
    progress.update({"event": "start", "total_steps": 10, "first_step": 5, "tasks": ["mnli", "qqp"]})
    assert progress.step == 4
    progress.update({"event": "resume", "step": 4, "examples": {"mnli": 6, "qqp": 1}})
    progress.update(step(5, examples={"qqp": 3}))
    assert [(row.examples, row.reached) for row in progress.tasks()] == [(6, 0.6), (4, 0.4)]
