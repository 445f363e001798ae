"""What the tests of launching share: a short run, and what it gives on one host."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launching import finish, start_ranks, steps

STEPS = 12
ROUNDING = 2e-6  # of fp32, see `same_run`
LONG = 400  # steps of a run that a test ends before its time
NOT_FINITE = ["train.learning_rate=1e30", "train.warmup=0", "train.clip=1e30", "watch.nonfinite_steps=2"]
ON_CPUS = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def overrides(store, tmp_path) -> list[str]:
    """Of a run in the test's own folder, with two of the demo's tasks."""
    return [store, f"run.folder={tmp_path}", "tasks=[mnli,qqp]", f"train.steps={STEPS}", "evaluation.end_limit=8"]


@pytest.fixture(scope="session")
def one_host(store, tmp_path_factory) -> Callable[[int], dict[int, dict]]:
    """ZeRO stage -> the step events of the same run as two processes of this machine."""
    found: dict[int, dict[int, dict]] = {}

    def run(stage: int) -> dict[int, dict]:
        if stage not in found:
            folder = tmp_path_factory.mktemp(f"one-host-{stage}")
            overrides = [store, f"run.folder={folder}", "tasks=[mnli,qqp]", f"train.steps={STEPS}"]
            more = ["evaluation.end_limit=8", f"engine.config=ds_configs/zero{stage}.json"]
            finish(start_ranks(["train", "launch/recipes/demo.yaml", *overrides, *more], 2))
            found[stage] = steps(folder / "demo")
        return found[stage]

    return run


def same_run(found: dict[int, dict], expected: dict[int, dict], tolerance: float = 0.0) -> None:
    """The same examples and losses at every step.

    Args:
        tolerance: relative, of losses. Processes that each take a whole machine's cores, as if it were theirs alone,
            have more threads, which add up in another order.
    """
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    for step, event in expected.items():
        assert found[step]["example_ids_hash"] == event["example_ids_hash"]
        assert found[step]["loss"] == pytest.approx(event["loss"], rel=tolerance, abs=0)


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would tell a run that it is part of another."""
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return {**own, **ON_CPUS, **more}


def script(folder: Path, name: str, text: str) -> None:
    """A command of that name in a folder for the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
