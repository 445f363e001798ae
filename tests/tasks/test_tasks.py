import dataclasses
import pickle

import pytest

from trainer.config import NINE_TASKS, DataSection, RunConfig
from trainer.errors import UserError
from trainer.tasks import FORMATS, check_task, intermediate, known_tasks, load_tasks
from trainer.tasks.spec import TRAINING_SPLITS, HubPart, Task

CUSTOM = {
    "format": "pair_classification",
    "columns": {"first": "text", "second": ["other", "reply"], "label": "stars"},
    "labels": [1, 2],
    "label_names": {"one": 1, "two": 2},
    "drop_labels": [-1],
    "files": {"train": "a.tsv", "dev": ["b.tsv", "c-*.tsv"]},
    "hub": {"train": {"dataset": "x/y", "split": "train"}, "dev": [{"dataset": "x/y", "config": "z", "split": "test"}]},
    "max_length": 99,
}


def recipe(**custom) -> RunConfig:
    return RunConfig(tasks=("mine",), custom_tasks={"mine": custom})


def test_the_nine_are_complete():
    tasks = load_tasks(RunConfig())
    assert tuple(tasks) == NINE_TASKS
    for task in tasks.values():
        assert set(task.files) == set(TRAINING_SPLITS) and (set(task.hub) == set(TRAINING_SPLITS) or task.name == "ccg")
        pickle.dumps(task)


def test_format_names_are_those_of_their_modules():
    for name, kind in FORMATS.items():
        assert type(kind).__module__ == f"trainer.tasks.{name}" and kind.name == name


def test_max_length_override_and_order():
    config = RunConfig(tasks=("squad_v1", "mnli"), data=DataSection(max_length=64))
    assert [(task.name, task.max_length) for task in load_tasks(config).values()] == [("squad_v1", 64), ("mnli", 64)]
    with pytest.raises(UserError, match="max_length of 4"):
        load_tasks(dataclasses.replace(config, data=DataSection(max_length=4)))


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="unknown task 'squad_v3'.*\n.*did you mean 'squad_v"):
        load_tasks(RunConfig(tasks=("squad_v3",)))


def test_a_custom_task_from_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = load_tasks(recipe(**CUSTOM))["mine"]
    assert task == Task(
        name="mine",
        format="pair_classification",
        columns={"first": ("text",), "second": ("other", "reply"), "label": ("stars",)},
        labels=("1", "2"),
        label_names={"one": "1", "two": "2"},
        drop_labels=("-1",),
        files={
            "train": ((str(tmp_path / "a.tsv"),),),
            "dev": ((str(tmp_path / "b.tsv"),), (str(tmp_path / "c-*.tsv"),)),
        },
        hub={"train": (HubPart("x/y", "train"),), "dev": (HubPart("x/y", "test", "z"),)},
        max_length=99,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": {}}, "colums.*\n.*columns"),
        ({"format": "pair_clasification"}, "unknown format.*\n.*pair_classification"),
        ({"columns": {"first": "a"}}, "no column for label"),
        ({"columns": {"frst": "a", "label": "b"}}, "unknown role 'frst'.*\n.*first"),
        ({"labels": []}, "at least two labels"),
        ({"labels": [True, False]}, "quotes"),
        ({"label_names": {"x": "3"}}, "maps 'x' to '3'"),
        ({"files": {"trian": "a"}}, "trian.*\n.*train"),
        ({"hub": {"train": {"dataset": "a"}}}, "has no split"),
        ({"hub": {"train": {"dataset": "a", "splits": "b"}}}, "splits.*\n.*split"),
        ({"format": "multiple_choice", "columns": {"prompt": "a", "choices": "b", "label": "c"}}, "two choices"),
        ({"metric": "f2"}, "no metric 'f2'"),
        ({"adapt": "x"}, "task_files"),
        ({"max_length": "long"}, "whole number"),
    ],
)
def test_wrong_custom_tasks_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        load_tasks(recipe(**CUSTOM | change))


def test_tasks_from_a_python_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\nfrom trainer.tasks.intermediate import MNLI, QQP\n"
        "TASKS = [dataclasses.replace(MNLI, name='a'), dataclasses.replace(QQP, name='b')]\n"
    )
    assert list(load_tasks(RunConfig(tasks=("b", "a"), task_files=(str(file),)))) == ["b", "a"]
    assert len(known_tasks(RunConfig(task_files=(str(file),)))) == len(known_tasks()) + 2
    for text, message in (("1 / 0", "ZeroDivisionError"), ("TASK = 3", "neither TASK nor TASKS")):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            known_tasks(RunConfig(task_files=(str(file),)))
    with pytest.raises(UserError, match="does not exist"):
        known_tasks(RunConfig(task_files=(str(tmp_path / "none.py"),)))


def test_names_and_families_must_not_clash():
    with pytest.raises(UserError, match="two tasks are called mnli"):
        known_tasks(RunConfig(custom_tasks={"mnli": CUSTOM}))
    with pytest.raises(UserError, match="of the family nli"):
        load_tasks(RunConfig(tasks=("mnli", "mine"), custom_tasks={"mine": CUSTOM | {"family": "nli"}}))


def test_spans_have_no_labels_of_their_own():
    with pytest.raises(UserError, match="no_answer"):
        check_task(dataclasses.replace(intermediate.SQUAD_V1, labels=("a",)))
