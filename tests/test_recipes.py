"""Every recipe in launch/recipes loads, names tasks there are, and can be shared by processes as it says."""

import os
import subprocess
from pathlib import Path

import pytest

from trainer import engine
from trainer.config import NINE_TASKS, load_recipe
from trainer.data.packing import packs_of_rank
from trainer.tasks import FORMATS, load_tasks, mlm

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "launch" / "recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "studies")
REAL = [path for path in RECIPES if path.name not in ("demo.yaml", "debug.yaml")]
MULTI = [FOLDER / f"{name}.yaml" for name in ("nine_tasks", "without_ccg", "nine_tasks_mlm", "nine_tasks_translated")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_recipe_loads(path):
    config = load_recipe(path)
    tasks = load_tasks(config)
    assert tuple(tasks) == config.tasks
    for name in ("fp32", "bf16"):
        engine.derive_config(config, 1, name)  # the DeepSpeed file exists and contradicts nothing


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_pack_holds_the_largest_possible_example(path):
    config = load_recipe(path)
    largest = max(task.max_length * max(task.choices, 1) for task in load_tasks(config).values())
    assert config.train.pack_tokens >= largest


@pytest.mark.parametrize("processes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("path", MULTI, ids=lambda path: path.stem)
def test_multi_task_recipes_fit_usual_numbers_of_processes(path, processes):
    packs_of_rank(load_recipe(path).train.packs_per_step, 0, processes)


def test_run_names_differ():
    names = [load_recipe(path).run.name for path in RECIPES]
    assert len(set(names)) == len(names)


def test_nine_tasks_is_the_papers_recipe():
    config = load_recipe(FOLDER / "nine_tasks.yaml")
    train = config.train
    assert config.model.encoder == "FacebookAI/xlm-roberta-large"
    assert config.tasks == NINE_TASKS
    assert (train.learning_rate, train.weight_decay, train.warmup, train.schedule, train.clip) == (
        1e-5, 0.01, 0.1, "linear", 1.0,
    )  # fmt: skip
    assert (config.mixture.strategy, config.mixture.cap) == ("temperature", 2**17)


@pytest.mark.parametrize("task", NINE_TASKS)
def test_each_task_has_a_recipe_of_its_own(task):
    config = load_recipe(FOLDER / "single" / f"{task}.yaml")
    assert config.tasks == (task,)
    assert config.train.learning_rate == 1e-5


def test_the_equal_steps_named_in_nine_tasks_are_equal():
    train = load_recipe(FOLDER / "nine_tasks.yaml").train
    for packs, tokens in ((2, 16384), (4, 8192), (8, 4096)):
        assert packs * tokens == train.packs_per_step * train.pack_tokens


def test_every_format_is_in_the_demo():
    """But for masked language modelling, which trains the vocabulary that the demo leaves out."""
    tasks = load_tasks(load_recipe(FOLDER / "demo.yaml"))
    assert {task.format for task in tasks.values()} == set(FORMATS) - {"masked_lm"}


def test_the_papers_alternatives_add_to_its_recipe():
    nine = load_recipe(FOLDER / "nine_tasks.yaml")
    text = load_recipe(FOLDER / "nine_tasks_mlm.yaml")
    translated = load_recipe(FOLDER / "nine_tasks_translated.yaml")
    languages = tuple("mlm" if code == "en" else f"mlm-{code}" for code in mlm.LANGUAGES)
    assert text.tasks == (*NINE_TASKS, *languages)
    assert translated.tasks == (*NINE_TASKS, "mnli-de", "mnli-ru", "mnli-sw")
    for other in (text, translated):
        assert other.train == nine.train and other.mixture == nine.mixture and other.model == nine.model


def debug(*arguments: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    script = str(ROOT / "launch" / "debug.sh")
    return subprocess.run([script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no recipe is named"),
        (("missing.yaml",), "missing.yaml does not exist"),
        (("launch/recipes/demo.yaml", "--steps"), "--steps needs a number"),
        (("launch/recipes/demo.yaml", "--steps", "few"), "not 'few'"),
        (("launch/recipes/demo.yaml", "--stpes", "3"), "unknown option --stpes"),
    ],
)
def test_debug_script_refuses_clearly(arguments, said, tmp_path):
    result = debug(*arguments, cwd=tmp_path, timeout=30)
    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.slow
def test_debug_script_works_from_any_folder_and_stops(tmp_path):
    from trainer.events import read_events

    result = debug("launch/recipes/demo.yaml", "--steps", "2", "tasks=[mnli,ccg]", cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    events = read_events(tmp_path / "runs" / "debug" / "demo" / "events.jsonl")
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2]
    start = events[0]
    assert (start["packs_per_step"], start["pack_tokens"], start["world_size"]) == (2, 2048, 1)
    recipe = load_recipe(tmp_path / "runs" / "debug" / "demo" / "recipe.yaml")
    assert recipe.train.deterministic and recipe.train.detect_anomaly
