"""What an evaluation on targets gives, its averages as XTREME defines them, and its files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer import __version__
from trainer.errors import UserError
from trainer.evaluation.submission import write_language
from trainer.tasks.spec import Task

RETRIEVAL = "retrieval"  # the group whose scores need no training
OTHER = "other"  # that of a target without one
NO_FILES, NO_EXAMPLES = "no test files", "no test examples"  # reasons to skip a language
SCORES, FILES = "scores.json", ("predictions", "labels")
PARTIAL = ".partial"


@dataclass
class LanguageResult:
    """One language of a target.

    Attributes:
        scores: metric -> value, in per cent.
        examples: what the scores are over: sentences, questions, or for BUCC gold pairs.
        predictions: as the task's format decodes them; of sentence retrieval, Tatoeba: the candidate's index of each
            query; BUCC: mined pairs (id, English id); LAReQA: for each question its candidates' ids, best first.
        references: as the task's format keeps them ({"id": ..., ...} each); of sentence retrieval, Tatoeba: the right
            index of each query; BUCC: gold pairs (id, English id); LAReQA: {"id": the question's, "answers": ids of
            the right candidates}.
    """

    scores: dict[str, float]
    examples: int
    predictions: list = field(default_factory=list)
    references: list = field(default_factory=list)


@dataclass(frozen=True)
class Skipped:
    """Why a language could not be scored: a reason that it may share with others, and what it is in this one, e.g. the
    paths that were looked for."""

    reason: str
    details: str = ""


@dataclass
class TargetResult:
    """A target in all languages asked for.

    Attributes:
        skipped: the languages that could not be scored.
        notes: how it was scored, and what was dropped or cut, a line each.
    """

    task: Task
    languages: dict[str, LanguageResult]
    skipped: dict[str, Skipped] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def averages(self) -> dict[str, float]:
        """Metric that every scored language has -> unweighted mean over them, English included (XTREME, arXiv
        2003.11080)."""
        found = [result.scores for result in self.languages.values()]
        metrics = [metric for metric in (found[0] if found else ()) if all(metric in scores for scores in found)]
        return {metric: mean(scores[metric] for scores in found) for metric in metrics}

    @property
    def average(self) -> float | None:
        """The task's score: the mean of its headline metric over languages; None if none was scored."""
        return self.averages[self.task.metric] if self.languages else None


def mean(values: Iterable[float]) -> float | None:
    """The arithmetic mean; None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None


def skipped_as_json(skipped: Mapping[str, Skipped]) -> dict[str, dict[str, str]]:
    """`skipped`: language -> reason; `skipped_details`: language -> details, where there are some."""
    return {
        "skipped": {code: found.reason for code, found in skipped.items()},
        "skipped_details": {code: found.details for code, found in skipped.items() if found.details},
    }


def skipped_from_json(entry: Mapping[str, Any]) -> dict[str, Skipped]:
    """What `skipped_as_json` made, read from a task's entry; older ones have no `skipped_details`."""
    details = entry.get("skipped_details", {})
    return {code: Skipped(reason, details.get(code, "")) for code, reason in entry["skipped"].items()}


def alike(skipped: Iterable[tuple[str, Skipped]]) -> list[tuple[list[str], str]]:
    """For people: the languages of each reason, and the reason, with the details of the first of them as an example."""
    reasons: dict[str, dict[str, str]] = {}
    for code, found in skipped:
        reasons.setdefault(found.reason, {})[code] = found.details
    told = []
    for reason, details in reasons.items():
        codes, first = list(details), next(iter(details.values()))
        example = f" ({'e.g. ' * (len(codes) > 1)}{first})" if first else ""
        told.append((codes, reason + example))
    return told


def summarise(results: Mapping[str, TargetResult]) -> dict[str, Any]:
    """All scores and averages as plain JSON, in per cent.

    `tasks`: name -> group, metric, average (see `TargetResult.average`), averages (of every metric), averaged_over
    (languages scored), languages (code -> metrics and `examples`), skipped and skipped_details (see `skipped_as_json`),
    notes. `groups`: mean over the scored tasks of each group, which `group_tasks` names; `total`: mean over all scored
    tasks; `retrieval` and `non_retrieval`: over those that need no training and those that do. An average over nothing
    is null.
    """
    tasks: dict[str, Any] = {}
    groups: dict[str, list[str]] = {}
    for name, result in results.items():
        tasks[name] = {
            "group": result.task.group or OTHER,
            "metric": result.task.metric,
            "average": result.average,
            "averages": result.averages,
            "averaged_over": len(result.languages),
            "languages": {
                code: {**found.scores, "examples": found.examples} for code, found in result.languages.items()
            },
            **skipped_as_json(result.skipped),
            "notes": list(result.notes),
        }
        if result.languages:
            groups.setdefault(tasks[name]["group"], []).append(name)

    def over(names: Iterable[str]) -> float | None:
        return mean(tasks[name]["average"] for name in names)

    return {
        "tasks": tasks,
        "groups": {group: over(names) for group, names in groups.items()},
        "group_tasks": groups,
        "total": over(name for names in groups.values() for name in names),
        "retrieval": over(groups.get(RETRIEVAL, ())),
        "non_retrieval": over(name for group, names in groups.items() if group != RETRIEVAL for name in names),
    }


def check_writable(folder: Path) -> None:
    """Before any time is spent: `write_results` can write there, and would replace nothing but an evaluation.

    Raises:
        UserError: it cannot, or it would.
    """
    fix = "--out FOLDER elsewhere"
    for name in FILES:
        if (folder / name).exists() and not (folder / SCORES).is_file():
            why = "its files would be replaced"
            raise UserError(f"{folder / name} exists and belongs to no evaluation", why=why, fix=fix)
    partial = folder / PARTIAL
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        partial.rmdir()
    except OSError as error:
        raise UserError(f"the results cannot be written to {folder}", why=str(error), fix=fix) from None


def write_results(folder: Path, results: Mapping[str, TargetResult], about: Mapping[str, Any]) -> Path:
    """Write FOLDER/scores.json, and predictions and labels in XTREME's layout; earlier ones there are replaced whole.

    On one rank only. Files are complete before any of them gets its name.

    Args:
        about: what was evaluated and how, as plain JSON; `about` in scores.json, beside what `summarise` gives.

    Returns:
        The path of scores.json. FOLDER/predictions and FOLDER/labels are what `xstilts score` takes.

    Raises:
        UserError: see `check_writable`.
    """
    check_writable(folder)
    partial = folder / PARTIAL
    try:
        for name in FILES:
            (partial / name).mkdir(parents=True)
        for result in results.values():
            for code, found in result.languages.items():
                write_language(partial, result.task, code, found.predictions, found.references)
        written = {**summarise(results), "about": {"xstilts": __version__, **about}}
        _write_json(partial / SCORES, written)
        os.replace(partial / SCORES, folder / SCORES)
        for name in FILES:
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(partial / name, folder / name)
    except OSError as error:
        fix = "free some space, or --out FOLDER elsewhere"
        raise UserError(f"the results cannot be written to {folder}", why=str(error), fix=fix) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / SCORES


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write scores alone, as JSON.

    Raises:
        UserError: it cannot be written.
    """
    try:
        _write_json(path, {**summary, "about": {"xstilts": __version__}})
    except OSError as error:
        raise UserError(f"cannot write {path}", why=str(error), fix="--out FILE elsewhere") from None


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
