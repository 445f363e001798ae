"""Losses that are not finite, and losses that leap."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.config import load_recipe
from trainer.data.packing import Pack, StepPlan
from trainer.distributed import World
from trainer.events import Events
from trainer.exits import Exit, RunError
from trainer.watch import Watch
from trainer.watch.losses import FP16_OVERFLOWS, LEAST, SkipWatch, SpikeWatch


def test_the_run_ends_after_so_many_losses_in_a_row():
    watch = SkipWatch(3, "bf16")
    watch.add(4, True, "mnli in pack 0")
    watch.add(5, True, "mnli in pack 0")
    with pytest.raises(RunError, match="3 steps in a row, up to step 6, .*qqp in pack 1") as error:
        watch.add(6, True, "qqp in pack 1")
    assert error.value.exit_code == Exit.NOT_FINITE
    assert watch.total == 3


def test_a_good_step_between_starts_the_count_anew():
    watch = SkipWatch(2, "fp32")
    for step in (1, 3, 5, 7):
        watch.add(step, True, "")
    assert watch.total == 4


def test_overflows_of_fp16_are_expected_up_to_a_limit():
    watch = SkipWatch(3, "fp16")
    for step in range(1, FP16_OVERFLOWS):
        watch.add(step, False, "")
    with pytest.raises(RunError, match=f"the last {FP16_OVERFLOWS} steps overflowed in fp16"):
        watch.add(FP16_OVERFLOWS, False, "")


def test_gradients_count_but_in_fp16():
    watch = SkipWatch(2, "bf16")
    watch.add(1, False, "")
    with pytest.raises(RunError):
        watch.add(2, False, "")


def test_a_leap_is_flagged_and_noise_is_not():
    draw, watch = random.Random(0), SpikeWatch(10.0)
    assert all(watch.add(step, 2.0 + draw.gauss(0, 0.3)) is None for step in range(200))
    said = watch.add(200, 12.0)
    assert "step 200" in said and "leapt to 12" in said
    assert watch.add(201, 2.0) is None


def test_a_falling_loss_and_first_steps_are_never_flagged():
    watch = SpikeWatch(10.0)
    assert watch.add(1, 1.0) is None and watch.add(2, 1e6) is None
    assert all(SpikeWatch(10.0).add(step, 10 / (1 + step)) is None for step in range(100))


def test_zero_flags_none_and_nan_is_left_out():
    watch = SpikeWatch(0)
    assert all(watch.add(step, 1.0) is None for step in range(LEAST + 1))
    assert watch.add(99, 1e9) is None
    watch = SpikeWatch(10.0)
    for step in range(LEAST):
        watch.add(step, 1.0)
    assert watch.add(98, math.nan) is None
    assert watch.add(99, 5.0) is not None


def test_examples_are_named_by_their_numbers_in_the_prepared_data(tmp_path):
    """Not by those of units: a long example is several, and one that cannot be used is none."""
    said, examples = [], {"mnli": [0, 1, 2, 3], "squad_v1": [0, 0, 4, 4, 7]}
    prepared = {name: SimpleNamespace(train=SimpleNamespace(example=np.array(of))) for name, of in examples.items()}
    config = load_recipe(None, ["train.steps=1", f"run.folder={tmp_path}"])
    watch = Watch(config, World(0, 1, 0, 1, torch.device("cpu")), Events([said.append]), prepared, "fp32")
    pack = Pack(np.array([1, 0, 1, 1]), np.array([3, 1, 2, 4]), 90)
    losses = [torch.tensor([0.5, math.nan])]
    watch.skipped(1, StepPlan((pack,), 100, {}), [SimpleNamespace(number=0)], losses)
    assert "squad_v1 in pack 0 (examples 4, 7)" in said[0]["message"] and "mnli" not in said[0]["message"]
