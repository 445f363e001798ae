"""`engine.plan: auto`: what is chosen enters the recipe, stays there when the run is continued, and trains."""

import dataclasses

import pytest
import torch
import yaml

from tests.launching import DEMO, steps, xstilts
from trainer.config import dump_recipe, load_recipe
from trainer.distributed import World
from trainer.plan import automatic
from trainer.plan.devices import Devices

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture
def memory(monkeypatch):
    """Sets the memory that the planner sees."""

    def see(size):
        devices = Devices("cpu", "CPU", 1, 1, size, size, 5e9, 1e11, 2e10)
        monkeypatch.setattr(automatic, "seen_devices", lambda *_: devices)

    return see


def recipe(tmp_path, *overrides):
    return load_recipe(DEMO, [f"run.folder={tmp_path}", f"data.store={tmp_path / 'store'}", "engine.plan=auto",
                              "model.encoder=xlm-roberta-base", *overrides])  # fmt: skip


def test_off_changes_nothing(tmp_path):
    config = recipe(tmp_path, "engine.plan=off")
    assert automatic.apply(config, ALONE) == (config, [])


def test_the_choice_enters_the_recipe_and_the_step_stays(tmp_path, memory):
    memory(64e9)
    config = recipe(tmp_path, "train.packs_per_step=4", "train.pack_tokens=2560")
    planned, notes = automatic.apply(config, ALONE)
    assert planned.engine.plan == "off"
    assert planned.train.packs_per_step * planned.train.pack_tokens == 4 * 2560
    assert notes[0].startswith("plan: ZeRO stage")
    memory(9e9)
    smaller, _ = automatic.apply(config, ALONE)
    assert smaller.engine.config != planned.engine.config, "the recipe's own does not fit"
    assert smaller.train.packs_per_step * smaller.train.pack_tokens == 4 * 2560


def test_a_continued_run_keeps_its_choice(tmp_path, memory):
    memory(64e9)
    config = recipe(tmp_path, "train.packs_per_step=4", "train.pack_tokens=2560")
    planned, _ = automatic.apply(config, ALONE)
    checkpoint = config.run_folder / "checkpoints" / "step-1"
    checkpoint.mkdir(parents=True)
    dump_recipe(planned, config.run_folder / "recipe.yaml")
    memory(9e9)
    assert automatic.apply(config, ALONE)[0] != planned, "no checkpoint yet: planned afresh"
    (checkpoint / "manifest.json").write_text("{}")
    again, notes = automatic.apply(config, ALONE)
    assert again == planned
    assert "as the run began" in notes[0]
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, packs_per_step=8))
    assert automatic.apply(other, ALONE)[0] != planned, "another step is another run"


@pytest.mark.slow
def test_a_planned_run_trains_and_continues(tmp_path):
    command = [
        "train", DEMO, f"run.folder={tmp_path}", f"data.store={tmp_path / 'store'}", "engine.plan=auto",
        "tasks=[mnli,qqp]", "train.pack_tokens=512", "checkpoint.every_steps=1", "evaluation.limit=1",
    ]  # fmt: skip
    for total in (2, 2):
        done = xstilts(*command, f"train.steps={total}")
        assert done.returncode == 0, done.stderr
    assert "as the run began" in " ".join(done.stdout.split())
    dumped = yaml.safe_load((tmp_path / "demo" / "recipe.yaml").read_text())
    assert dumped["engine"]["plan"] == "off"
    assert dumped["train"]["pack_tokens"] * dumped["train"]["packs_per_step"] == 4 * 512
    assert sorted(steps(tmp_path / "demo")) == [1, 2]
