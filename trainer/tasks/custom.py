"""Tasks a user brings: entries of `custom_tasks` in a recipe, or Python files that define TASK or TASKS."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.tasks.spec import SPLITS, HubPart, Task

FUNCTIONS = ("adapt", "keep")  # which YAML cannot hold
TASK_FIELDS = tuple(f.name for f in fields(Task) if f.name not in ("name", *FUNCTIONS))
TEXTS = ("labels", "drop_labels", "header", "languages")
WORDS = ("format", "family", "metric", "language", "head", "folder", "group")
NUMBERS = ("choices", "max_length")


def nearest(word: str, known: Iterable[str]) -> str:
    """What to write instead of `word`: the nearest known word, or all of them."""
    known = [str(k) for k in known]
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(known)}"


def task_from_yaml(name: str, entry: Mapping[str, Any]) -> Task:
    """The task of an entry of `custom_tasks`, which has the fields of `Task` as plain YAML.

    A single value may stand where the field is a list. Paths below `files` start at the working folder, like every
    path of a recipe, and may be patterns ("part-*.jsonl").

    Raises:
        UserError: an unknown field (the nearest is named), a value of the wrong kind.
    """
    where = f"custom_tasks.{name}"
    made: dict[str, Any] = {}
    for key, value in entry.items():
        if key in FUNCTIONS:
            fix = "write the task in Python and name its file in task_files"
            raise UserError(f"{where}.{key} is a function, which YAML cannot hold", fix=fix)
        _known(key, TASK_FIELDS, where, "field")
        place = f"{where}.{key}"
        if key in WORDS:
            made[key] = _text(value, place)
        elif key in NUMBERS:
            made[key] = _number(value, place)
        elif key in TEXTS:
            made[key] = _texts(value, place)
        elif key == "columns":
            made[key] = {str(k): _texts(v, f"{place}.{k}") for k, v in _mapping(value, place).items()}
        elif key in ("label_names", "answer_rules"):
            made[key] = {_text(k, place): _text(v, place) for k, v in _mapping(value, place).items()}
        else:
            made[key] = {}
            for split, parts in _mapping(value, place).items():
                _known(split, SPLITS, place, "split")
                made[key][split] = (_files if key == "files" else _hub)(parts, f"{place}.{split}")
    if "format" not in made:
        raise UserError(f"{where} has no format", fix=f"add {where}.format")
    if made["format"] == "span_extraction":
        made.setdefault("metric", "f1")
    return Task(name=name, **made)


def tasks_from_file(path: str) -> list[Task]:
    """The tasks a Python file defines as TASK or TASKS (a list, or a mapping of them).

    Raises:
        UserError: the file is missing, fails, or defines neither.
    """
    if not Path(path).is_file():
        raise UserError(f"task file {path} does not exist", fix="correct task_files in the recipe")
    spec = importlib.util.spec_from_file_location(f"xstilts_tasks_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything at all may be wrong with a user's file
        raise UserError(f"task file {path} fails", why=f"{type(error).__name__}: {error}") from error
    found = module.TASKS if hasattr(module, "TASKS") else [getattr(module, "TASK", None)]
    tasks = list(found.values() if isinstance(found, Mapping) else found)
    if not all(isinstance(task, Task) for task in tasks):
        fix = "TASK = trainer.tasks.spec.Task(name=..., format=..., ...)"
        raise UserError(f"task file {path} defines neither TASK nor TASKS", fix=fix)
    return tasks


def _files(parts: Any, where: str) -> tuple[tuple[str, ...], ...]:
    return tuple((str(Path(path).absolute()),) for path in _texts(parts, where))


def _hub(parts: Any, where: str) -> tuple[HubPart, ...]:
    names = [f.name for f in fields(HubPart)]
    made = []
    for part in parts if isinstance(parts, list) else [parts]:
        for key in _mapping(part, where):
            _known(key, names, where, "field")
        for key in ("dataset", "split"):
            if key not in part:
                raise UserError(f"{where} has no {key}", fix=f"add {key}: to it")
        made.append(HubPart(**{k: _text(v, f"{where}.{k}") for k, v in part.items() if v is not None}))
    return tuple(made)


def _known(key: str, known: Iterable[str], where: str, what: str) -> None:
    if key not in known:
        raise UserError(f"{where} has the unknown {what} {key!r}", fix=nearest(str(key), known))


def _mapping(value: Any, where: str) -> Mapping:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a mapping, not {value!r}")
    return value


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool):
        raise UserError(f"{where}: YAML reads yes, no, on and off as true and false", fix='put it in quotes: "yes"')
    if not isinstance(value, (str, int, float)):
        raise UserError(f"{where} must be text, not {value!r}")
    return str(value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(v, where) for v in (value if isinstance(value, (list, tuple)) else [value]))


def _number(value: Any, where: str) -> int:
    if type(value) is not int:
        raise UserError(f"{where} must be a whole number, not {value!r}")
    return value
