"""Tasks and formats by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

from trainer.config import DataSection, RunConfig
from trainer.errors import UserError
from trainer.tasks import intermediate, mlm, xtreme, xtreme_r
from trainer.tasks.custom import nearest, task_from_yaml, tasks_from_file
from trainer.tasks.languages import language_of
from trainer.tasks.masked_lm import MaskedLM
from trainer.tasks.multiple_choice import MultipleChoice
from trainer.tasks.pair_classification import PairClassification
from trainer.tasks.span_extraction import SpanExtraction
from trainer.tasks.spec import SPLITS, Format, Task
from trainer.tasks.token_tagging import TokenTagging

FORMATS: dict[str, Format] = {
    kind.name: kind() for kind in (PairClassification, MultipleChoice, SpanExtraction, TokenTagging, MaskedLM)
}
SHORTEST = 16  # a max_length below this leaves no room beside the special tokens


def known_tasks(config: RunConfig | None = None) -> dict[str, Task]:
    """Every task by name: the nine, masked language modelling, the targets and what those train on, then those of the
    recipe's `task_files` and `custom_tasks`.

    Raises:
        UserError: a task is wrong (see `check_task`), or two have one name.
    """
    tasks = intermediate.TASKS | mlm.TASKS | xtreme_r.TRAINING_TASKS | xtreme.TARGETS
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
    """The recipe's tasks in its order, with `data.max_length` applied; "mnli-de" is `mnli` in German.

    Raises:
        UserError: an unknown name (the nearest known one is named), a task that is wrong or has no training data.
    """
    known = known_tasks(config)
    tasks = {}
    for name in config.tasks:
        task = _limited(_find_task(name, known), config)
        check_trainable(task, config.data)
        check_task(task)
        tasks[name] = task
    families: dict[str, Task] = {}
    for task in tasks.values():
        first = families.setdefault(task.family or task.head or task.name, task)
        if first.labels != task.labels or first.format != task.format:
            raise UserError(
                f"{first.name} and {task.name} are of the family {task.family}, but differ in format or labels",
                why="tasks of one family may share a head",
                fix=f"give {task.name} another family",
            )
    return tasks


def load_targets(config: RunConfig, names: Iterable[str] = ()) -> dict[str, Task]:
    """Targets by name (default: all), the recipe's own among them, with `data.max_length` applied; each in English, for
    `in_language`.

    Raises:
        UserError: a name that is no task, or that of a task without test languages.
    """
    known = known_tasks(config)
    targets = [name for name, task in known.items() if task.languages]
    tasks = {}
    for name in names or targets:
        if name in known and name not in targets:
            raise UserError(f"{name} is no target: it has no test languages", fix=f"one of: {', '.join(targets)}")
        if name not in known:
            raise UserError(f"unknown target {name!r}", fix=nearest(name, targets))
        tasks[name] = _limited(known[name], config)
    return tasks


def check_trainable(task: Task, data: DataSection) -> None:
    """Refuse to train on a target that is only tested.

    Raises:
        UserError: names the task to train instead.
    """
    base = task.name.removesuffix(f"-{task.language}")
    named = (data.files.get(name, {}) for name in (task.name, base))
    if not task.languages or any("train" in splits for splits in (task.files, task.hub, *named)):
        return
    if task.head:
        variant = task.head if task.language == "en" else f"{task.head}-{task.language}"
        fix = f"{base} trains on {task.head}: tasks: [{variant}]"
    else:
        fix = f"it needs no training: xstilts evaluate MODEL --tasks {base}"
    raise UserError(f"{task.name} has no training data", why="it is a test set only", fix=fix)


def _find_task(name: str, known: Mapping[str, Task]) -> Task:
    if name in known:
        return known[name]
    base, _, code = name.rpartition("-")
    if base not in known:
        raise UserError(f"unknown task {name!r}", fix=nearest(name, known))
    task = known[base].in_language(code)
    if task.name != name:
        raise UserError(f"unknown task {name!r}", fix=f"did you mean {task.name!r}?")
    return task


def _limited(task: Task, config: RunConfig) -> Task:
    length = config.data.max_length
    return task if length is None else dataclasses.replace(task, max_length=length)


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
    for code in (task.language, *task.languages):
        language_of(code)
    if task.max_length < SHORTEST:
        raise UserError(f"task {task.name} has a max_length of {task.max_length} tokens", fix=f"at least {SHORTEST}")
