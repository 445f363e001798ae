"""Step reports, the learning rate and the factors of losses, without a model."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.config import TrainSection
from trainer.data.packing import Pack, StepPlan
from trainer.events import Events
from trainer.loop import StepReport, learning_rate, loss_factors
from trainer.tasks.spec import Task


def session(device: str, heard: list):
    return SimpleNamespace(
        world=SimpleNamespace(device=torch.device(device)),
        prepared={"a": None, "b": None},
        engine=SimpleNamespace(memory_bytes=lambda: 7),
        events=Events([heard.append]),
    )


def values(step: int):
    plan = StepPlan((Pack(np.array([0, 0, 1]), np.array([1, 2, 3]), 90),), 100, {})
    sums, factors = torch.tensor([4.0, 3.0]), {"a": 0.5, "b": 2.0}
    return step, plan, sums, factors, 1e-3, torch.tensor(1.5), 0.0


def test_on_a_cpu_a_step_is_reported_at_once():
    heard = []
    StepReport(session("cpu", heard)).add(*values(1))
    (event,) = heard
    assert (event["step"], event["loss"], event["grad_norm"]) == (1, 0.5 * 4 + 2 * 3, 1.5)
    assert event["task_loss"] == {"a": 2.0, "b": 3.0} and event["examples"] == {"a": 2, "b": 1}
    assert (event["tokens"], event["pack_fill"], event["memory_bytes"]) == (90, 0.9, 7)
    assert event["useful_tokens_per_second"] == pytest.approx(90 / event["step_seconds"])


def test_on_a_gpu_a_step_is_reported_when_the_next_one_is_on_its_way():
    heard = []
    report = StepReport(session("cuda", heard))
    report.add(*values(1))
    assert heard == []
    report.add(*values(2))
    assert [event["step"] for event in heard] == [1]
    report.flush()
    report.flush()
    assert [event["step"] for event in heard] == [1, 2]
    # The second's time is from the first report on: no moment is counted twice.
    assert heard[1]["step_seconds"] < heard[0]["step_seconds"]


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
