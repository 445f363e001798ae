"""Planted faults: each ends in its own exit code and cause, and leaves a checkpoint to go on from."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time

import psutil
import pytest

from tests.launching import DEMO, ROOT, deepspeed, finish, process_of_rank, start_ranks, steps, wait_for_step, xstilts
from trainer.events import read_events
from trainer.exits import Exit

FAULTS = f"task_files=[{ROOT / 'tests/fault_tasks.py'}]"


def command(store, tmp_path, name="run", *more):
    return ["train", str(DEMO), store, f"run.folder={tmp_path}", f"run.name={name}", "train.steps=8", FAULTS,
            "checkpoint.every_steps=2", "evaluation.end_limit=1", *more]  # fmt: skip


def fails(process, code, timeout=240):
    """Wait for the end; the last lines of its output."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, output[-4000:]
    return output


def warnings(run):
    return [event["message"] for event in read_events(run / "events.jsonl") if event["event"] == "warning"]


def exits(run):
    return {path.name: json.loads(path.read_text()) for path in (run / "ranks").glob("exit-*.json")}


@pytest.mark.parametrize(
    "stage, dtype",
    [
        pytest.param(0, "fp32", marks=pytest.mark.slow),
        pytest.param(3, "fp32", marks=pytest.mark.slow),
        *(
            pytest.param(*layout, marks=pytest.mark.long)
            for layout in ((0, "bf16"), (1, "bf16"), (2, "fp32"), (2, "bf16"), (3, "bf16"))
        ),
    ],
)
def test_a_step_without_a_finite_loss_is_skipped_once_and_said(stage, dtype, store, tmp_path):
    settings = [f"engine.config=ds_configs/zero{stage}.json", f"engine.dtype={dtype}"]
    done = xstilts(*command(store, tmp_path, "run", *settings), TEST_FAULT="nan@4")
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = [text for text in warnings(tmp_path / "run") if "finite" in text]
    assert said.startswith("step 4: the loss is not finite: ") and "in pack 0 (examples " in said
    losses = {step: event["loss"] for step, event in steps(tmp_path / "run").items()}
    assert [step for step, loss in losses.items() if loss != loss] == [4]
    # What the update of step 4 left out must be all that differs: step 5 sees the weights that step 4 saw.
    whole = xstilts(*command(store, tmp_path, "whole", *settings))
    assert whole.returncode == 0, whole.stderr[-3000:]
    expected = steps(tmp_path / "whole")
    assert [losses[step] for step in (1, 2, 3)] == [expected[step]["loss"] for step in (1, 2, 3)]
    assert losses[5] != expected[5]["loss"]
    assert abs(losses[8] - expected[8]["loss"]) < 0.2 * expected[8]["loss"]


@pytest.mark.slow
def test_losses_that_stay_infinite_end_the_run_and_name_the_examples(store, tmp_path):
    more = ["watch.nonfinite_steps=3"]
    process = start_ranks(command(store, tmp_path, "run", *more), 2, env={"TEST_FAULT": "nan@4-:1"})
    output = fails(process, Exit.NOT_FINITE)
    cause = output.strip().splitlines()
    said = [line for line in cause if "exit 22: 3 steps in a row, up to step 6, had no finite loss" in line]
    assert said and "in pack 1 (examples " in said[0]
    assert exits(tmp_path / "run")["exit-0.json"]["code"] == Exit.NOT_FINITE
    again = finish(start_ranks(command(store, tmp_path), 2))
    assert "continued from" in again
    assert max(steps(tmp_path / "run")) == 8


@pytest.mark.slow
def test_a_hang_is_ended_and_the_rank_that_hangs_is_named(store, tmp_path):
    more = ["watch.hang_seconds=6", "watch.hang_factor=4"]
    began = time.monotonic()
    process = deepspeed(command(store, tmp_path, "run", *more), 2, env={"TEST_FAULT": "hang@5:1"})
    output = fails(process, Exit.HANG)
    assert time.monotonic() - began < 120
    said = [line for line in output.splitlines() if "exit 23" in line]
    assert any("held up by rank 1 on " in line and ", in forward of step 5" in line for line in said), said
    stacks = [path.read_text() for path in (tmp_path / "run/ranks").glob("stacks-*.txt")]
    assert any("faulty_encode" in text for text in stacks)
    assert "continued from" in finish(start_ranks(command(store, tmp_path), 2))


@pytest.mark.parametrize(
    "number, rank",
    [
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 0, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_rank_saves_and_leaves(number, rank, store, tmp_path):
    process = deepspeed(command(store, tmp_path, "run", "train.steps=40", "checkpoint.every_steps=100"), 2)
    wait_for_step(process, tmp_path / "run", 5)
    os.kill(process_of_rank(process, rank), number)
    output = fails(process, Exit.STOPPED)
    last = max(steps(tmp_path / "run"))
    assert f"stopped by {number.name}, after saving {tmp_path / 'run/checkpoints'}/step-{last}" in output
    assert last < 40 and (tmp_path / f"run/checkpoints/step-{last}/manifest.json").is_file()
    again = finish(start_ranks(command(store, tmp_path, "run", "train.steps=40", "checkpoint.every_steps=100"), 2))
    assert f"continued from {tmp_path / 'run/checkpoints'}/step-{last}" in again.replace("\n", "")


@pytest.mark.long
def test_a_slow_rank_is_named(store, tmp_path):
    more = ["train.steps=55", "checkpoint.every_steps=100"]
    finish(start_ranks(command(store, tmp_path, "run", *more), 2, env={"TEST_FAULT": "slow@1-:1"}))
    assert any("the others wait for rank 1 on " in text for text in warnings(tmp_path / "run"))


@pytest.mark.slow
def test_a_rank_that_dies_alone_takes_the_others_along(store, tmp_path):
    process = deepspeed(command(store, tmp_path), 2, env={"TEST_FAULT": "crash@5:1"})
    output, _ = process.communicate(timeout=240)
    assert process.returncode in (Exit.BUG, Exit.PEER)
    assert "[rank 1] exit 1: RuntimeError: planted crash" in output
    left = exits(tmp_path / "run")
    assert left["exit-1.json"]["code"] == Exit.BUG


@pytest.mark.slow
@pytest.mark.parametrize("after", ["seen", "a while"])
def test_a_killed_worker_that_prepares_data_ends_the_run(after, tmp_path):
    """While it starts, or at work; every rank says why."""
    row = {"premise": "A dog sat many times. " * 20, "hypothesis": "It sat.", "label": "neutral"}
    for split, count in (("train", 60_000), ("dev", 40)):
        (tmp_path / f"{split}.jsonl").write_text((json.dumps(row) + "\n") * count)
    files = {"mnli": {split: [str(tmp_path / f"{split}.jsonl")] for split in ("train", "dev")}}
    more = ["tasks=[mnli]", "data.source=files", f"data.files={json.dumps(files)}", f"data.store={tmp_path}/store",
            "data.workers=2", "data.prepare=auto"]  # fmt: skip
    process = start_ranks(["train", str(DEMO), f"run.folder={tmp_path}", *more], 2)
    wait = 0.0 if after == "seen" else random.uniform(1, 6)
    _kill_a_worker(process, wait)
    output = fails(process, Exit.WORKER)
    for where in ("", "[rank 1] "):
        assert f"\n{where}exit 25: a process that prepares data was killed" in output, (wait, output[-3000:])
    assert "Traceback" not in output


def _kill_a_worker(process, wait: float):
    """Of the pool that tokenises, so many seconds after it was seen."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "multiprocessing.spawn" in " ".join(child.cmdline()):
                    time.sleep(wait)
                    return child.kill()
        time.sleep(0.01)
    raise AssertionError(f"no worker was seen: {process.communicate(timeout=60)[0][-3000:]}")


ODD = """
import importlib.metadata as metadata, os
if os.environ.get("RANK") == "1":
    real = metadata.version
    metadata.version = lambda name: "4.0.0" if name == "transformers" else real(name)
"""


@pytest.mark.slow
def test_a_rank_with_another_version_is_refused(store, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(ODD)
    process = start_ranks(command(store, tmp_path), 2, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    output = fails(process, Exit.ENVIRONMENT)
    assert "do not have the same devices, code and packages: transformers" in output
    assert "transformers: 4.0.0 there" in output
