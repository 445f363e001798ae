"""The study file: every key it understands. Strict, like a recipe; `base: other.yaml` starts from another study.

    encoders:     {xlmr: FacebookAI/xlm-roberta-large}
    intermediate: {none: null, mnli: {recipe: ../single/mnli.yaml}}
    targets:      {xnli: {recipe: ../targets/xnli.yaml}, retrieval: {evaluate: [tatoeba, bucc2018]}}
    seeds:        [1, 2]

A text stands for an entry's main key (`encoder`, `recipe`), null for an entry with nothing to say. Recipes are looked
for beside the study file, then from the working folder. `overrides` hold recipe keys, nested as in a recipe or dotted:
those of the study, then of the encoder, then of the entry; the last one wins.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainer.config import load_strict
from trainer.errors import UserError
from trainer.tasks.custom import nearest

OWN_KEYS = ("seed", "run", "model.encoder", "model.revision", "model.tokenizer", "model.init")
POOLINGS = ("mean", "cls")
MAIN_KEYS = {"encoders": "encoder", "intermediate": "recipe", "targets": "recipe"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # names become folders


@dataclass(frozen=True)
class EncoderEntry:
    encoder: str = ""  # hub name, folder, or `sample`
    revision: str = "main"
    tokenizer: str | None = None
    init: str = "pretrained"  # or random
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class IntermediateEntry:
    recipe: str | None = None  # null: no intermediate training
    leave_out: tuple[str, ...] = ()  # tasks of the recipe
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TargetEntry:
    recipe: str | None = None  # null: nothing is trained (retrieval)
    evaluate: tuple[str, ...] = ()  # tasks; default: the one of the entry's name
    languages: tuple[str, ...] = ()  # default: all of each task's
    layer: int | None = None  # retrieval: whose vectors; default: the paper's
    pooling: str = "mean"  # retrieval: mean | cls
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    name: str = ""  # default: the file's
    folder: str = ""  # default: runs/studies/NAME
    seeds: tuple[int, ...] = (0,)  # of intermediate and target runs
    baseline: str | None = None  # what differences are to; default: the intermediate entry without a recipe
    overrides: dict[str, Any] = field(default_factory=dict)
    encoders: dict[str, EncoderEntry] = field(default_factory=dict)
    intermediate: dict[str, IntermediateEntry] = field(default_factory=dict)
    targets: dict[str, TargetEntry] = field(default_factory=dict)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """The study of a file with `key=value` overrides of the study's own keys (`seeds=[1]`,
    `overrides.train.steps=10`); defaults filled in, recipes as paths that exist.

    Raises:
        UserError: the file is missing or not YAML, an unknown key (the nearest known one is named), a value of the
            wrong type, an empty grid, a recipe that does not exist.
    """
    path = Path(path)
    study = load_strict(Study, path, overrides, "study", _long_form)
    name = study.name or path.stem
    study = dataclasses.replace(
        study,
        name=name,
        folder=study.folder or str(Path("runs", "studies", name)),
        baseline=study.baseline or next((k for k, entry in study.intermediate.items() if not entry.recipe), None),
    )
    _check(study, path)
    return dataclasses.replace(
        study,
        intermediate={k: _with_recipe(entry, f"intermediate.{k}", path) for k, entry in study.intermediate.items()},
        targets={
            k: _with_recipe(dataclasses.replace(entry, evaluate=entry.evaluate or (k,)), f"targets.{k}", path)
            for k, entry in study.targets.items()
        },
    )


def dump_study(study: Study, path: Path) -> None:
    """Write the study with all its defaults, usable as a study from the same working folder."""

    def plain(items) -> dict:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in items}

    tree = dataclasses.asdict(study, dict_factory=plain)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones: {"train": {"steps": 5}} -> {"train.steps": 5}; an empty mapping is a value."""
    keys: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            keys |= flat(value, f"{prefix}{key}.")
        else:
            keys[f"{prefix}{key}"] = value
    return keys


def within(key: str, sections: Sequence[str]) -> bool:
    """Whether a dotted key is one of `sections`, or below one."""
    return any(key == section or key.startswith(section + ".") for section in sections)


def _long_form(tree: dict) -> dict:
    """Shorthands written out, one level deep; what is wrong in any other way is left for the strict builder."""
    for section, main in MAIN_KEYS.items():
        entries = tree.get(section)
        if not isinstance(entries, dict):
            continue
        for name, entry in entries.items():
            if entry is None or isinstance(entry, str):
                entries[name] = {} if entry is None else {main: entry}
    return tree


def _check(study: Study, path: Path) -> None:
    for key in ("encoders", "intermediate", "targets", "seeds"):
        if not getattr(study, key):
            fix = f"add {key}: to it; trainer/study/spec.py shows one"
            raise UserError(f"study {path} is empty: it has no {key}", fix=fix)
    _check_names(study)
    for name, entry in study.encoders.items():
        if not entry.encoder:
            fix = f"encoders.{name}.encoder: NAME_OR_FOLDER"
            raise UserError(f"study key encoders.{name} names no encoder", fix=fix)
        if _is_path(entry.encoder) and not Path(entry.encoder).is_dir():
            raise UserError(
                f"study key encoders.{name} names {entry.encoder}, and there is no such folder",
                why="a hub name is NAME or OWNER/NAME",
                fix="train or export it first, or name another encoder",
            )
    for where, tree in _all_overrides(study):
        for key in flat(tree):
            if within(key, OWN_KEYS):
                own = key.replace("model.", "encoders.NAME.") if key.startswith("model.") else "seeds, name or folder"
                raise UserError(f"study key {where} sets {key}, which the study sets for each run", fix=f"use {own}")
    if len(set(study.seeds)) != len(study.seeds) or not all(0 <= seed < 2**32 for seed in study.seeds):
        raise UserError(f"study key seeds must be different numbers from 0 to 2^32 - 1, not {list(study.seeds)}")
    if study.baseline is not None and study.baseline not in study.intermediate:
        fix = nearest(study.baseline, study.intermediate)
        raise UserError(f"study key baseline names {study.baseline!r}, which is not among intermediate", fix=fix)
    bare = [name for name, entry in study.intermediate.items() if not entry.recipe]
    if len(bare) > 1:
        what = f"study key intermediate has several entries without a recipe: {', '.join(bare)}"
        raise UserError(what, fix="keep one")
    for name in bare:
        entry = study.intermediate[name]
        if entry.leave_out or entry.overrides:
            raise UserError(f"intermediate.{name} has no recipe, so nothing to override", fix="add its recipe")
    seen: dict[str, str] = {}
    for name, entry in study.targets.items():
        if entry.pooling not in POOLINGS:
            raise UserError(f"targets.{name}.pooling is {entry.pooling!r}", fix=f"one of: {', '.join(POOLINGS)}")
        for task in entry.evaluate or (name,):
            if task in seen:
                raise UserError(
                    f"{task} is evaluated by two targets, {seen[task]} and {name}",
                    why="a table has one column for it",
                    fix="take it out of one of them, or make two studies",
                )
            seen[task] = name


def _is_path(encoder: str) -> bool:
    return encoder.startswith((".", "/", "~")) or encoder.count("/") > 1


def _check_names(study: Study) -> None:
    for section in MAIN_KEYS:
        for name in getattr(study, section):
            if not _NAME.fullmatch(name):
                fix = "letters, digits and _ . + -, a letter or digit first"
                raise UserError(f"study key {section} has an entry {name!r}, which cannot name a folder", fix=fix)


def _all_overrides(study: Study):
    yield "overrides", study.overrides
    for section in MAIN_KEYS:
        for name, entry in getattr(study, section).items():
            yield f"{section}.{name}.overrides", entry.overrides


def _with_recipe(entry, where: str, path: Path):
    if entry.recipe is None:
        return entry
    beside = Path(os.path.normpath(path.parent / entry.recipe))
    found = next((place for place in (beside, Path(entry.recipe)) if place.is_file()), None)
    if found is None:
        raise UserError(
            f"study key {where}.recipe names {entry.recipe}, and there is no such recipe",
            why=f"looked for {beside} and {entry.recipe}",
            fix="ls launch/recipes/; recipes are looked for beside the study file, then from the working folder",
        )
    return dataclasses.replace(entry, recipe=str(found))
