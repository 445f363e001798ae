"""Kill -9 at any moment, the same command again: the losses of the unbroken run, digit for digit."""

import random

import pytest

from tests.launching import DEMO, finish, kill_at_step, start_ranks, steps
from trainer.events import read_events


@pytest.mark.parametrize("stage", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_run_continues_bit_identically(stage, store, tmp_path):
    def command(name):
        return ["train", str(DEMO), store, f"run.folder={tmp_path}", f"run.name={name}", "train.steps=14",
                "checkpoint.every_steps=4", "evaluation.limit=1",
                f"engine.config=ds_configs/zero{stage}.json"]  # fmt: skip

    finish(start_ranks(command("unbroken"), 2))
    at, rank = random.randint(5, 12), random.randint(0, 1)
    kill_at_step(start_ranks(command("killed"), 2), tmp_path / "killed", at, rank)
    killed_at = max(steps(tmp_path / "killed"))
    output = finish(start_ranks(command("killed"), 2))
    assert "continued from" in output
    resume = [e for e in read_events(tmp_path / "killed" / "events.jsonl") if e["event"] == "resume"][-1]
    assert killed_at < 14, "the run was over before it was killed"
    unbroken, killed = steps(tmp_path / "unbroken"), steps(tmp_path / "killed")
    assert list(unbroken) == list(range(1, 15))
    for step, expected in unbroken.items():
        for field in ("loss", "task_loss", "grad_norm", "example_ids_hash", "learning_rate"):
            assert killed[step][field] == expected[field], (step, field, at, rank)
    for task, examples in resume["examples"].items():
        assert examples == sum(unbroken[step]["examples"][task] for step in range(1, resume["step"] + 1))
    exports = [tmp_path / name / "export" / "model.safetensors" for name in ("unbroken", "killed")]
    assert exports[0].read_bytes() == exports[1].read_bytes()
