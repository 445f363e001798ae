"""Step reports, the learning rate and the factors of losses, without a model."""

import itertools
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer import loop
from trainer.config import TrainSection, load_recipe
from trainer.data.loader import Step
from trainer.data.packing import Pack, StepPlan
from trainer.events import Events, JsonLines
from trainer.exits import RunError
from trainer.loop import _note_best, _report, learning_rate, loss_factors, train
from trainer.tasks.intermediate import MNLI
from trainer.tasks.mlm import MLM
from trainer.tasks.spec import Task


def test_what_a_step_reports():
    heard = []
    session = SimpleNamespace(
        prepared={"a": None, "b": None},
        engine=SimpleNamespace(memory_bytes=lambda: 7),
        events=Events([heard.append]),
        watch=SimpleNamespace(read=lambda *news: heard.append({"event": "read", "news": news})),
    )
    plan = StepPlan((Pack(np.array([0, 0, 1]), np.array([1, 2, 3]), 90),), 100, {})
    sums = torch.tensor([4.0, 3.0, 15.0, 0.25])  # losses, then a rank's own news
    figures = {"factors": {"a": 0.5, "b": 2.0}, "rate": 1e-3, "norm": torch.tensor(1.5), "began": time.monotonic() - 3}
    _report(session, 1, plan, sums, **figures)
    event, read = heard
    assert read["news"] == (1, [15.0, 0.25], event["step_seconds"], event["loss"])
    assert (event["step"], event["loss"], event["grad_norm"]) == (1, 0.5 * 4 + 2 * 3, 1.5)
    assert event["task_loss"] == {"a": 2.0, "b": 3.0} and event["examples"] == {"a": 2, "b": 1}
    assert (event["tokens"], event["pack_fill"], event["memory_bytes"]) == (90, 0.9, 7)
    assert event["learning_rate"] == 1e-3 and event["step_seconds"] == pytest.approx(3, abs=0.5)
    assert event["useful_tokens_per_second"] == pytest.approx(90 / event["step_seconds"])


def test_learning_rate_warms_up_and_never_reaches_zero():
    train = TrainSection(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, train) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert rates[9] == max(rates) == 1.0
    assert all(a > b > 0 for a, b in zip(rates[9:], rates[10:], strict=False))


def test_loss_factors():
    tasks = {
        "nli": Task("nli", "pair_classification", labels=("a", "b", "c")),
        "mc": Task("mc", "multiple_choice", choices=4),
    }
    plain = loss_factors(TrainSection(steps=1, loss_weights={"mc": 3.0}), tasks, 8)
    assert plain == {"nli": 1 / 8, "mc": 3 / 8}
    scaled = loss_factors(TrainSection(steps=1, log_classes=True), tasks, 8)
    assert scaled == {"nli": pytest.approx(1 / 8 / math.log(3)), "mc": pytest.approx(1 / 8 / math.log(4))}
    text = {"mlm": Task("mlm", "masked_lm")}
    assert loss_factors(TrainSection(steps=1, log_classes=True), text, 8, 4000) == {
        "mlm": pytest.approx(1 / 8 / math.log(4000))
    }


def test_the_best_evaluation_counts_the_languages_of_a_task_as_one_task():
    tasks = {task.name: task for task in (MNLI, MLM, MLM.in_language("de"), MLM.in_language("fr"))}
    run = SimpleNamespace(tasks=tasks, best={})

    def best(step: int, mnli: float, *mlm: float) -> dict:
        values = dict(zip(tasks, (mnli, *mlm), strict=True))
        _note_best(run, step, {name: {"accuracy": value, "perplexity": 1.0} for name, value in values.items()})
        return run.best

    assert best(1, 60.0, 10.0, 20.0, 30.0) == {"score": 40.0, "step": 1}  # of 60 and 20
    assert best(2, 50.0, 18.0, 25.0, 32.0)["step"] == 1, "37.5, although the plain mean of the four is higher"
    assert best(3, 61.0, 10.0, 20.0, 30.0)["step"] == 3


@pytest.fixture
def steps_of(tmp_path, monkeypatch):
    """What a run of six steps does between them, evaluated at every other one and stopped after step `stop`."""
    did, events = [], JsonLines(tmp_path / "run/events.jsonl")
    data = Step(StepPlan((Pack(np.array([0]), np.array([1]), 90),), 100, {}), [SimpleNamespace(to=lambda device: None)])
    monkeypatch.setattr(loop, "_save", lambda run, step, plan: did.append(f"save {step}") or f"step-{step}")

    def evaluate(run, step):
        did.append(f"evaluate {step}")
        scores = {"mnli": {"accuracy": 9.0 - step}}
        run.events.emit("evaluation", step=step, scores=scores)
        return scores

    monkeypatch.setattr(loop, "_evaluate", evaluate)

    def start(first: int, stop: int = 0) -> SimpleNamespace:
        did.clear()
        overrides = ["train.steps=6", "tasks=[mnli]", "evaluation.every_steps=2", f"run.folder={tmp_path}"]
        run = SimpleNamespace(
            world=SimpleNamespace(device=torch.device("cpu")),
            config=load_recipe(None, overrides), prepared={"mnli": None}, tasks={"mnli": MNLI}, tokenizer="",
            loader=lambda: itertools.repeat(data), best={}, examples={"mnli": 0}, decay=1.0, did=did,
            first_step=first, total_steps=6, events=Events([events]),
            checkpoints=SimpleNamespace(poll=lambda: None, finish=lambda: did.append("saved")),
        )  # fmt: skip
        run.engine = SimpleNamespace(
            memory_bytes=lambda: 7,
            skipped_steps=lambda: 0,
            forward_seconds=0.0,
            step=lambda rate: 1.0,
            micro_step=lambda *_: torch.ones(1),
        )
        run.watch = SimpleNamespace(
            stopping=None, timed=zip, extras=lambda seconds: torch.zeros(1),
            read=lambda step, *_: setattr(run.watch, "stopping", "SIGTERM" if step == stop else None),
        )  # fmt: skip
        return run

    return start


@pytest.mark.parametrize("stop", [4, 6])
def test_a_step_is_saved_before_it_is_evaluated_and_a_signal_comes_before_that(steps_of, stop):
    run = steps_of(1)
    train(run)
    assert run.did[:-1] == ["save 2", "evaluate 2", "save 4", "evaluate 4", "save 6", "saved", "evaluate 6"]
    run = steps_of(1, stop)
    with pytest.raises(RunError, match=f"stopped by SIGTERM, after saving step-{stop}"):
        train(run)
    assert run.did[-2:] == [f"save {stop}", "saved"]


def test_the_best_is_known_after_a_stop_before_or_after_its_evaluation(steps_of):
    with pytest.raises(RunError):
        train(steps_of(1, stop=2))
    for first in ("evaluate 2", "save 3"):  # it had been ended before that evaluation, then after it
        run = steps_of(3, stop=3)
        with pytest.raises(RunError):
            train(run)
        assert run.did[0] == first and run.best == {"score": 7.0, "step": 2}
