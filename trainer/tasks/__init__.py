"""Tasks and formats by name."""

from __future__ import annotations

import dataclasses
import re

from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.tasks import intermediate
from trainer.tasks.custom import nearest, task_from_yaml, tasks_from_file
from trainer.tasks.multiple_choice import MultipleChoice
from trainer.tasks.pair_classification import PairClassification
from trainer.tasks.span_extraction import SpanExtraction
from trainer.tasks.spec import SPLITS, Format, Task
from trainer.tasks.token_tagging import TokenTagging

FORMATS: dict[str, Format] = {
    kind.name: kind() for kind in (PairClassification, MultipleChoice, SpanExtraction, TokenTagging)
}
SHORTEST = 16  # a max_length below this leaves no room beside the special tokens


def known_tasks(config: RunConfig | None = None) -> dict[str, Task]:
    """Every task by name: the nine, then those of the recipe's `task_files` and `custom_tasks`.

    Raises:
        UserError: a task is wrong (see `check_task`), or two have one name.
    """
    tasks = dict(intermediate.TASKS)
    if config is None:
        return tasks
    added = [task for path in config.task_files for task in tasks_from_file(path)]
    added += [task_from_yaml(name, entry) for name, entry in config.custom_tasks.items()]
    for task in added:
        if task.name in tasks:
            raise UserError(f"two tasks are called {task.name}", fix="give the recipe's own one another name")
        check_task(task)
        tasks[task.name] = task
    return tasks


def load_tasks(config: RunConfig) -> dict[str, Task]:
    """The recipe's tasks in its order, with `data.max_length` applied.

    Raises:
        UserError: an unknown name (the nearest known one is named), a task that is wrong.
    """
    known = known_tasks(config)
    tasks = {}
    for name in config.tasks:
        if name not in known:
            raise UserError(f"unknown task {name!r}", fix=nearest(name, known))
        task = known[name]
        if config.data.max_length is not None:
            task = dataclasses.replace(task, max_length=config.data.max_length)
        check_task(task)
        tasks[name] = task
    families: dict[str, Task] = {}
    for task in tasks.values():
        first = families.setdefault(task.family or task.name, task)
        if first.labels != task.labels or first.format != task.format:
            raise UserError(
                f"{first.name} and {task.name} are of the family {task.family}, but differ in format or labels",
                why="tasks of one family may share a head",
                fix=f"give {task.name} another family",
            )
    return tasks


def check_task(task: Task) -> None:
    """Refuse a task that its format cannot read.

    Raises:
        UserError: unknown format, role or split, a role without a column, missing labels or choices, no room.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", task.name):  # it names folders, modules and columns
        raise UserError(f"task name {task.name!r} is not letters, digits, _ and -", fix="give it another name")
    if task.format not in FORMATS:
        raise UserError(f"task {task.name} has the unknown format {task.format!r}", fix=nearest(task.format, FORMATS))
    kind = FORMATS[task.format]
    for role in task.columns:
        if role not in (*kind.roles, "id"):
            raise UserError(f"task {task.name} has the unknown role {role!r} in columns", fix=nearest(role, kind.roles))
    missing = [role for role in kind.roles if role not in task.columns and role not in kind.optional_roles]
    if missing and not task.adapt:
        raise UserError(
            f"task {task.name} names no column for {', '.join(missing)}",
            why=f"{task.format} needs {', '.join(r for r in kind.roles if r not in kind.optional_roles)}",
            fix=f"add `{missing[0]}: COLUMN` to its columns",
        )
    for split in (*task.files, *task.hub):
        if split not in SPLITS:
            raise UserError(f"task {task.name} has the unknown split {split!r}", fix=nearest(split, SPLITS))
    if task.format == "pair_classification":
        if len(set(task.labels)) < 2:
            raise UserError(f"task {task.name} needs at least two labels", fix="e.g. labels: [negative, positive]")
        for raw, label in task.label_names.items():
            if label not in task.labels:
                fix = nearest(label, task.labels)
                raise UserError(f"task {task.name}: label_names maps {raw!r} to {label!r}, no label of its", fix=fix)
    if task.format == "multiple_choice" and task.choices < 2:
        raise UserError(f"task {task.name} needs at least two choices", fix="e.g. choices: 4")
    if task.format == "span_extraction" and task.labels not in ((), ("no_answer",)):
        fix = 'leave them out, or labels: ["no_answer"] to allow unanswerable questions'
        raise UserError(f"task {task.name} is of spans and has no labels of its own", fix=fix)
    metrics = kind.metrics(task)
    if task.metric not in metrics:
        raise UserError(f"task {task.name} has no metric {task.metric!r}", fix=nearest(task.metric, metrics))
    if task.max_length < SHORTEST:
        raise UserError(f"task {task.name} has a max_length of {task.max_length} tokens", fix=f"at least {SHORTEST}")
