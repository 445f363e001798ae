"""The cells of a study: what each one runs, where, from what it starts, and what decides its result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.config import RunConfig, load_recipe
from trainer.errors import UserError
from trainer.study.spec import EncoderEntry, IntermediateEntry, Study, TargetEntry, flat, within
from trainer.tasks import load_targets, load_tasks
from trainer.tasks.custom import nearest
from trainer.tasks.spec import Task

# Keys of a recipe that no score depends on (trainer.resume.HARMLESS says the same of a run that is continued).
HARMLESS = ("run", "log", "checkpoint", "evaluation", "watch", "data.store", "data.workers", "data.prepare")
START_KEYS = ("model.encoder", "model.revision", "model.tokenizer", "model.init")
READ_BY_EVALUATION = ("data", "evaluation", "engine", "kernels", "task_files", "custom_tasks")
RETRIEVAL = "sentence_retrieval"


@dataclass(frozen=True)
class Step:
    """One command of a cell: `python -m trainer ARGUMENTS`, which leaves the file `product` behind."""

    name: str  # train | evaluate
    arguments: tuple[str, ...]
    product: Path


@dataclass(frozen=True)
class Cell:
    """An intermediate run (no target), or a target trained and evaluated, or evaluated only.

    Attributes:
        seed: None where nothing was trained, so that one cell serves all seeds.
        needs: the name of the intermediate run whose export it starts from.
        identity: what decides its result, by key.
        config: what it trains, as if from the starting encoder (for the plan); None if nothing.
        tasks: what it evaluates.
    """

    name: str
    folder: Path
    encoder: str
    intermediate: str
    target: str | None
    seed: int | None
    steps: tuple[Step, ...]
    identity: Mapping[str, Any] = field(repr=False)
    needs: str | None = None
    config: RunConfig | None = field(default=None, repr=False)
    tasks: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        """The run folder of its training."""
        return self.folder / "run"

    @property
    def export(self) -> Path:
        """What its training leaves behind."""
        return self.run / "export"

    @property
    def scores(self) -> Path:
        return self.folder / "evaluation" / "scores.json"


@dataclass(frozen=True)
class _Start:
    """Where a run starts: arguments that name the encoder, the part of a cell's identity, the run it comes from."""

    encoder: str
    settings: tuple[str, ...]
    identity: Mapping[str, Any]
    needs: str | None = None


@dataclass(frozen=True)
class _Training:
    recipe: str
    overrides: tuple[str, ...]
    config: RunConfig


def make_cells(study: Study) -> list[Cell]:
    """Every cell in the order of running: seed by seed, each intermediate run right before the cells that need it.

    Raises:
        UserError: a recipe's keys or tasks are wrong, a target is unknown or lacks what its evaluation needs, two
            cells would have one folder.
    """
    return _Maker(study).cells()


def target_tasks(study: Study) -> dict[str, Task]:
    """The evaluated tasks by name, in the order of the study's targets.

    Raises:
        UserError: see `make_cells`.
    """
    tasks: dict[str, Task] = {}
    for name, entry in study.targets.items():
        where, config = f"targets.{name}", RunConfig()
        if entry.recipe is not None:
            config = _load(where, entry.recipe, _as_overrides(study.overrides, entry.overrides))
        with _told(where):
            found = load_targets(config, entry.evaluate)
        _check_target(where, entry, found)
        tasks |= found
    return tasks


class _Maker:
    def __init__(self, study: Study):
        self.study, self.folder = study, Path(study.folder)
        target_tasks(study)
        pairs = [(encoder, section, name) for encoder in study.encoders for section in ("intermediate", "targets")
                 for name in getattr(study, section)]  # fmt: skip
        self.trainings = {pair: self._training(*pair) for pair in pairs}

    def cells(self) -> list[Cell]:
        study, cells = self.study, []
        for seed in study.seeds:
            for encoder, entry in study.encoders.items():
                for intermediate in study.intermediate:
                    settings = _encoder_settings(entry)
                    start = _Start(entry.encoder, _as_overrides(settings), settings)
                    training = self.trainings[encoder, "intermediate", intermediate]
                    if training:
                        cell = self._intermediate_cell(encoder, intermediate, training, start, seed)
                        cells.append(cell)
                        start = _export_start(cell)
                    for target in study.targets:
                        unseeded = not training and not self.trainings[encoder, "targets", target]
                        if not unseeded or seed == study.seeds[0]:
                            own = None if unseeded else seed
                            if unseeded:
                                _check_untrained(encoder, entry, intermediate, target)
                            cells.append(self._target_cell(encoder, intermediate, target, start, own))
        _check_unique(cells)
        return cells

    def _training(self, encoder: str, section: str, name: str) -> _Training | None:
        entry, start = getattr(self.study, section)[name], self.study.encoders[encoder]
        if entry.recipe is None:
            return None
        where, settings = f"{section}.{name}", _as_overrides(_encoder_settings(start))
        overrides = _as_overrides(*self._overrides(encoder, entry))
        config = _load(where, entry.recipe, (*overrides, *settings))
        left_out = getattr(entry, "leave_out", ())
        for task in left_out:
            if task not in config.tasks:
                fix = nearest(task, config.tasks)
                raise UserError(f"study key {where}.leave_out names {task!r}, which its recipe does not train", fix=fix)
        if left_out:
            overrides += _as_overrides({"tasks": [task for task in config.tasks if task not in left_out]})
            config = _load(where, entry.recipe, (*overrides, *settings))
        return _Training(entry.recipe, overrides, config)

    def _intermediate_cell(self, encoder: str, name: str, training: _Training, start: _Start, seed: int) -> Cell:
        cell = f"{encoder}-{name}-seed{seed}"
        folder = self.folder / "intermediate" / cell
        identity = {**start.identity, **_training_identity(training.config), "seed": seed}
        step = _train_step(folder, training, start, seed)
        return Cell(cell, folder, encoder, name, None, seed, (step,), identity, config=training.config)

    def _target_cell(self, encoder: str, intermediate: str, target: str, start: _Start, seed: int | None) -> Cell:
        entry, training = self.study.targets[target], self.trainings[encoder, "targets", target]
        name = f"{encoder}-{intermediate}-{target}" + ("" if seed is None else f"-seed{seed}")
        folder = self.folder / "cells" / name
        evaluated = {"evaluate": entry.evaluate, "languages": entry.languages}
        evaluated |= {"layer": entry.layer, "pooling": entry.pooling, "seed": seed}
        identity = {**start.identity, **{key: _plain(value) for key, value in evaluated.items()}}
        if training:
            identity |= _training_identity(training.config)
            train, model, settings = (_train_step(folder, training, start, seed),), str(folder / "run" / "export"), ()
        else:
            read = {k: v for tree in self._overrides(encoder, entry) for k, v in flat(tree).items()
                    if within(k, READ_BY_EVALUATION)}  # fmt: skip
            identity |= {key: value for key, value in read.items() if not within(key, HARMLESS)}
            train, model, settings = (), start.encoder, _as_overrides(read)
            if not start.needs:
                settings += start.settings
        steps = (*train, _evaluate_step(folder, entry, model, settings))
        config = training.config if training else None
        return Cell(
            name, folder, encoder, intermediate, target, seed, steps, identity, start.needs, config, entry.evaluate
        )

    def _overrides(self, encoder: str, entry: IntermediateEntry | TargetEntry) -> tuple[Mapping[str, Any], ...]:
        return self.study.overrides, self.study.encoders[encoder].overrides, entry.overrides


def _encoder_settings(entry: EncoderEntry) -> dict[str, Any]:
    return dict(zip(START_KEYS, (entry.encoder, entry.revision, entry.tokenizer, entry.init), strict=True))


def _export_start(cell: Cell) -> _Start:
    settings = dict(zip(START_KEYS, (str(cell.export), "main", None, "pretrained"), strict=True))
    identity = {f"intermediate.{key}": value for key, value in cell.identity.items()}
    return _Start(str(cell.export), _as_overrides(settings), identity, cell.name)


def _train_step(folder: Path, training: _Training, start: _Start, seed: int) -> Step:
    own = _as_overrides({"run.folder": str(folder), "run.name": "run", "seed": seed})
    arguments = ("train", training.recipe, *training.overrides, *start.settings, *own)
    return Step("train", arguments, folder / "run" / "export" / "config.json")


def _evaluate_step(folder: Path, entry: TargetEntry, model: str, settings: tuple[str, ...]) -> Step:
    options = ["--tasks", ",".join(entry.evaluate), "--out", str(folder / "evaluation")]
    if entry.languages:
        options += ["--languages", ",".join(entry.languages)]
    if entry.layer is not None:
        options += ["--layer", str(entry.layer)]
    if entry.pooling != TargetEntry.pooling:
        options += ["--pooling", entry.pooling]
    return Step("evaluate", ("evaluate", model, *options, *settings), folder / "evaluation" / "scores.json")


def _as_overrides(*trees: Mapping[str, Any]) -> tuple[str, ...]:
    """Recipe keys as `key=value` texts, in one order, later trees last."""
    return tuple(f"{key}={_as_yaml(value)}" for tree in trees for key, value in flat(tree).items())


def _as_yaml(value: Any) -> str:
    """One line of YAML; bare words where YAML reads them as the text they are."""
    if isinstance(value, str):
        try:
            if yaml.safe_load(value) == value:
                return value
        except yaml.YAMLError:
            pass
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Errors of what a study key names say which key it is."""
    try:
        yield
    except UserError as error:
        error.what = f"study key {where}: {error.what}"
        raise


def _load(where: str, recipe: str, overrides: Sequence[str]) -> RunConfig:
    with _told(f"{where} ({recipe})"):
        config = load_recipe(recipe, overrides)
        load_tasks(config)
    return config


def _training_identity(config: RunConfig) -> dict[str, Any]:
    return {k: v for k, v in flat(config.to_dict()).items() if not within(k, (*HARMLESS, *START_KEYS, "seed"))}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_target(where: str, entry: TargetEntry, tasks: Mapping[str, Task]) -> None:
    """Refuse what the evaluation would refuse after hours of training."""
    retrieved = [name for name, task in tasks.items() if task.format == RETRIEVAL]
    for name, task in tasks.items():
        if entry.recipe is None and name not in retrieved:
            raise UserError(
                f"study key {where} names no recipe, but {name} is scored by a trained head",
                why="only retrieval (tatoeba, bucc2018, lareqa) needs no training",
                fix=f"{where}.recipe: a recipe that trains {task.head or name}",
            )
    if not retrieved and (entry.layer is not None or entry.pooling != TargetEntry.pooling):
        fix = "leave them out: heads read the last layer"
        raise UserError(f"study key {where} chooses layer or pooling, but evaluates no retrieval", fix=fix)
    known = {code for task in tasks.values() for code in task.languages}
    for code in entry.languages:
        if code not in known:
            fix = f"some of: {', '.join(sorted(known))}"
            raise UserError(f"study key {where}.languages names {code!r}, in which nothing of it is tested", fix=fix)


def _check_untrained(encoder: str, entry: EncoderEntry, intermediate: str, target: str) -> None:
    """Refuse retrieval straight from an encoder with other weights or another tokenizer than it comes with: only
    training uses those."""
    for key in ("init", "tokenizer"):
        value = getattr(entry, key)
        if value != getattr(EncoderEntry, key):
            raise UserError(
                f"study key encoders.{encoder}.{key} is {value!r}, but {target} of {intermediate} trains nothing",
                why=f"it would score {entry.encoder} as it comes, pretrained and with its own tokenizer",
                fix=f"targets.{target}.recipe, to train first, or a study of {encoder} without {target}",
            )


def _check_unique(cells: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.name.lower(), cell)  # some file systems do not tell case apart
        if other is not cell:
            raise UserError(
                f"two cells of the study would be called {cell.name}",
                why="names of encoders, intermediate entries and targets are joined by -",
                fix="rename one of them",
            )
