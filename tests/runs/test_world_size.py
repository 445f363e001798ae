"""A run goes on with another number of processes, or at another ZeRO stage: same examples, same losses."""

import json
import shutil

import pytest

from tests.launching import DEMO, ROOT, finish, start_ranks, steps, xstilts
from trainer.events import read_events

STEPS = 6
LOSS = pytest.approx


def command(folder, store, stage: int, name: str, *more: str) -> list[str]:
    return ["train", str(DEMO), store, f"run.folder={folder}", f"run.name={name}", f"train.steps={STEPS}",
            "tasks=[mnli,qqp,ccg]", "train.packs_per_step=2", "train.pack_tokens=512", "train.weight_decay=0.1",
            "checkpoint.every_steps=2", "checkpoint.keep=9", "evaluation.end_limit=2",
            f"engine.config=ds_configs/zero{stage}.json", *more]  # fmt: skip


def back_to(run, step: int) -> None:
    """As if the run had been stopped after `step`."""
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(run / "checkpoints" / f"step-{later}", ignore_errors=True)


def continued(run, processes: int, arguments: list[str]) -> dict[int, dict]:
    """The steps taken when the run goes on with so many processes, which must say that it was re-cut."""
    before = len(read_events(run / "events.jsonl"))
    finish(start_ranks(arguments, processes))
    events = read_events(run / "events.jsonl")[before:]
    assert any("it is re-cut for" in event["message"] for event in events if event["event"] == "warning")
    assert any(event["event"] == "resume" for event in events)
    return {event["step"]: event for event in events if event["event"] == "step"}


def assert_same(found: dict[int, dict], expected: dict[int, dict]) -> None:
    for step, event in found.items():
        assert event["example_ids_hash"] == expected[step]["example_ids_hash"], step
        assert event["loss"] == LOSS(expected[step]["loss"], rel=1e-4), step
        assert event["grad_norm"] == LOSS(expected[step]["grad_norm"], rel=1e-3), step


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_one_two(stage, store, tmp_path):
    undisturbed = command(tmp_path, store, stage, "undisturbed")
    finish(start_ranks(undisturbed, 2))
    expected = steps(tmp_path / "undisturbed")
    run = tmp_path / "resized"
    shutil.copytree(tmp_path / "undisturbed", run)
    back_to(run, 2)
    alone = continued(run, 1, command(tmp_path, store, stage, "resized"))
    assert list(alone) == [3, 4, 5, 6]
    assert_same(alone, expected)
    back_to(run, 4)
    together = continued(run, 2, command(tmp_path, store, stage, "resized"))
    assert list(together) == [5, 6]
    assert_same(together, expected)


@pytest.mark.slow
def test_another_stage(store, tmp_path):
    """Within stages 1 to 3, at any world size, as a change of the recipe that is accepted; stage 0 is refused."""
    finish(start_ranks(command(tmp_path, store, 1, "run"), 1))
    run, expected = tmp_path / "run", steps(tmp_path / "run")
    back_to(run, 2)
    refused = xstilts(*command(tmp_path, store, 3, "run"))
    assert refused.returncode == 2 and "engine.config changed" in refused.stderr
    found = continued(run, 2, command(tmp_path, store, 3, "run", "checkpoint.accept_changes=true"))
    assert list(found) == [3, 4, 5, 6]
    assert_same(found, expected)
    refused = xstilts(*command(tmp_path, store, 0, "run", "checkpoint.accept_changes=true"))
    assert refused.returncode == 2 and "this run is at stage 0" in refused.stderr


@pytest.mark.slow
def test_other_parts_of_the_optimizer_s_state(store, tmp_path):
    """At stage 3 DeepSpeed cuts each rank's into groups of a size that its settings give."""
    finish(start_ranks(command(tmp_path, store, 3, "run"), 2))
    run, expected = tmp_path / "run", steps(tmp_path / "run")
    back_to(run, 2)
    settings = json.loads((ROOT / "ds_configs" / "zero3.json").read_text())
    settings["zero_optimization"]["sub_group_size"] = 20_000
    (tmp_path / "other.json").write_text(json.dumps(settings))
    other = [f"engine.config={tmp_path / 'other.json'}", "checkpoint.accept_changes=true"]
    finish(start_ranks(command(tmp_path, store, 3, "run", *other), 2))
    assert_same(steps(run), expected)


@pytest.mark.slow
def test_stage_0_needs_no_cutting(store, tmp_path):
    finish(start_ranks(command(tmp_path, store, 0, "run"), 2))
    run, expected = tmp_path / "run", steps(tmp_path / "run")
    back_to(run, 2)
    finish(start_ranks(command(tmp_path, store, 0, "run"), 1))
    assert_same(steps(run), expected)
