"""Scores of a study's cells: means and standard deviations over seeds, averages over tasks, differences."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import UserError
from trainer.evaluation.results import NO_FILES, Skipped, alike, mean, skipped_from_json
from trainer.study.plan import Cell
from trainer.study.spec import Study
from trainer.tasks.spec import Task

RETRIEVAL = "retrieval"  # the group of targets that need no training
Row = tuple[str, str]  # (encoder, intermediate)


@dataclass(frozen=True)
class TaskScores:
    """One task as one cell evaluated it, in per cent.

    Attributes:
        average: over the languages that were scored, in `Results` those that all cells scored; None if none was.
        languages: code -> value of `metric`.
        skipped: code -> why it has no score.
    """

    metric: str
    average: float | None
    languages: Mapping[str, float]
    examples: Mapping[str, int]
    skipped: Mapping[str, Skipped]


@dataclass(frozen=True)
class Statistic:
    """Over seeds: the mean, the sample standard deviation (None of a single value), how many there are, and how many
    there should be."""

    mean: float
    std: float | None
    n: int
    wanted: int


@dataclass(frozen=True)
class Grid:
    """A table of statistics; a pair that is not in `values` is missing.

    Attributes:
        signed: the values are differences.
        averages: how many of the columns, the last ones, are averages of others.
    """

    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    values: Mapping[tuple[Row, str], Statistic]
    signed: bool = False
    averages: int = 0


@dataclass(frozen=True)
class Results:
    """Every score of a study that is there: (row, task) -> seed (None: of any seed) -> scores.

    Attributes:
        left_out: task -> the languages that only some of its cells scored, which no average counts.
        lacking: names of the cells whose evaluation lacked test files.
    """

    study: Study
    tasks: Mapping[str, Task]
    rows: tuple[Row, ...]
    found: Mapping[tuple[Row, str], Mapping[int | None, TaskScores]]
    planned: Mapping[tuple[Row, str], tuple[int | None, ...]]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()


def read_scores(cell: Cell) -> dict[str, TaskScores]:
    """What a cell's evaluation wrote, for each of its tasks.

    Raises:
        UserError: the file is missing or is not what an evaluation writes, or a task is not in it.
    """
    fix = f"delete {cell.folder}, and it is run anew"
    try:
        tasks = json.loads(cell.scores.read_text(encoding="utf-8"))["tasks"]
        scores = {name: _task_scores(tasks[name]) for name in cell.tasks if name in tasks}
    except OSError as error:
        raise UserError(f"the scores of {cell.name} cannot be read", why=str(error), fix=fix) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{cell.scores} is not what an evaluation writes", why=why, fix=fix) from None
    for name in cell.tasks:
        if name not in scores:
            raise UserError(f"{cell.scores} has no scores of {name}", fix=fix)
    return scores


def lacks_files(scores: Mapping[str, TaskScores]) -> bool:
    """Whether a cell was evaluated when test files of some of its languages were missing."""
    return any(found.reason == NO_FILES for task in scores.values() for found in task.skipped.values())


def collect(study: Study, tasks: Mapping[str, Task], cells: Sequence[Cell], done: Iterable[str]) -> Results:
    """The scores of the cells that are done, each task averaged over the same languages in all of them.

    Args:
        tasks: the evaluated ones, in the order of the columns.
        done: names of the cells that are done.

    Raises:
        UserError: see `read_scores`.
    """
    done, found, planned, lacking = set(done), {}, {}, []
    for cell in cells:
        scores = read_scores(cell) if cell.target is not None and cell.name in done else {}
        for name in cell.tasks:
            place = (cell.encoder, cell.intermediate), name
            planned[place] = (*planned.get(place, ()), cell.seed)
            if name in scores:
                found.setdefault(place, {})[cell.seed] = scores[name]
        if lacks_files(scores):
            lacking.append(cell.name)
    rows = tuple((encoder, intermediate) for encoder in study.encoders for intermediate in study.intermediate)
    left_out = {name: codes for name in tasks if (codes := _left_out(found, name))}
    found = {
        (row, name): {seed: _without(scores, left_out.get(name)) for seed, scores in seeds.items()}
        for (row, name), seeds in found.items()
    }
    return Results(study, tasks, rows, found, planned, left_out, tuple(lacking))


def scores_grid(results: Results) -> Grid:
    """A column for each task, then the averages: of each group, without retrieval, of retrieval, of all.

    An average needs every task of its own: where one is missing, so is the average. Deviations of averages are those
    of the seeds' averages.
    """
    values = {}
    columns = _columns(results)
    for row in results.rows:
        for name, tasks in columns.items():
            _put(values, (row, name), _by_seed(results, row, tasks), _wanted(results, row, tasks))
    averages = len(columns) - len(results.tasks)
    return Grid("scores", results.rows, tuple(columns), values, averages=averages)


def differences_grid(results: Results) -> Grid | None:
    """Each row less its encoder's baseline, seed by seed; None in a study without baseline.

    A score that no seed entered (the baseline's retrieval) is compared with every seed's.
    """
    baseline = results.study.baseline
    rows = tuple(row for row in results.rows if row[1] != baseline)
    if baseline is None or not rows:
        return None
    values = {}
    columns = _columns(results)
    for row in rows:
        for name, tasks in columns.items():
            ours, theirs = _by_seed(results, row, tasks), _by_seed(results, (row[0], baseline), tasks)
            wanted = _wanted(results, row, tasks)
            seeds = [seed for seed in wanted if seed is not None] or _wanted(results, (row[0], baseline), tasks)
            pairs = {seed: (ours.get(seed, ours.get(None)), theirs.get(seed, theirs.get(None))) for seed in seeds}
            _put(values, (row, name), {s: a - b for s, (a, b) in pairs.items() if None not in (a, b)}, seeds)
    averages = len(columns) - len(results.tasks)
    return Grid(f"differences to {baseline}", rows, tuple(columns), values, True, averages)


def languages_grid(results: Results, task: str) -> Grid:
    """One task: a column for each of its languages that any cell scored, then the average of those that all did."""
    places = [(row, results.found.get((row, task), {})) for row in results.rows]
    scored = {code for _, seeds in places for scores in seeds.values() for code in scores.languages}
    codes = [code for code in results.tasks[task].languages if code in scored]
    codes += sorted(scored - set(codes))
    values = {}
    for row, seeds in places:
        wanted = results.planned.get((row, task), ())
        for code in codes:
            by_seed = {seed: s.languages[code] for seed, s in seeds.items() if code in s.languages}
            _put(values, (row, code), by_seed, wanted)
        _put(values, (row, "average"), _by_seed(results, row, (task,)), wanted)
    return Grid(task, results.rows, (*codes, "average"), values, averages=1)


def remarks(results: Results) -> list[str]:
    """What a reader of the tables must know: what is missing, and over which languages an average is not."""
    lines = []
    for (row, task), seeds in results.planned.items():
        found = results.found.get((row, task), {})
        absent = [seed for seed in seeds if seed not in found or found[seed].average is None]
        if absent:
            which = "" if absent == [None] else f" (seeds {', '.join(map(str, absent))})"
            lines.append(f"missing: {task} of {' '.join(row)}{which}")
    for task in results.tasks:
        scores = [s for (_, name), seeds in results.found.items() if name == task for s in seeds.values()]
        skipped = [(code, found) for s in scores for code, found in s.skipped.items()]
        times = Counter((code, found.reason) for code, found in skipped)
        for n in dict.fromkeys(times.values()):
            share = "" if n == len(scores) else f" ({n} of {len(scores)} cells)"
            for codes, why in alike((code, found) for code, found in skipped if times[code, found.reason] == n):
                lines.append(f"not scored: {task} in {', '.join(codes)}{share}: {why}")
        if codes := results.left_out.get(task):
            lines.append(f"averaged without: {task} in {', '.join(codes)}, which not all of its cells have")
    if results.lacking:
        cells = " ".join(results.lacking)
        lines.append(f"once those test files are there, evaluate again: xstilts study STUDY --redo {cells}")
    return lines


def statistic(values: Sequence[float], wanted: int | None = None) -> Statistic:
    """Of at least one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(statistics.fmean(values), std, len(values), wanted or len(values))


def _task_scores(entry: Mapping[str, Any]) -> TaskScores:
    metric, average = entry["metric"], entry["average"]
    languages = {code: float(values[metric]) for code, values in entry["languages"].items()}
    examples = {code: int(values["examples"]) for code, values in entry["languages"].items()}
    if average is not None and not math.isfinite(average):
        raise ValueError(f"the average is {average}")
    return TaskScores(metric, average, languages, examples, skipped_from_json(entry))


def _left_out(found: Mapping, task: str) -> tuple[str, ...]:
    """The languages that some cells of a task scored and others did not; cells without any are missing as a whole."""
    scored = [set(s.languages) for (_, name), seeds in found.items() if name == task for s in seeds.values()]
    scored = [codes for codes in scored if codes]
    return tuple(sorted(set.union(*scored) - set.intersection(*scored))) if scored else ()


def _without(scores: TaskScores, codes: Sequence[str] | None) -> TaskScores:
    if not codes:
        return scores
    average = mean(value for code, value in scores.languages.items() if code not in codes)
    return dataclasses.replace(scores, average=average)


def _columns(results: Results) -> dict[str, tuple[str, ...]]:
    """Column -> the tasks it is the mean of."""
    columns = {name: (name,) for name in results.tasks}
    groups: dict[str, list[str]] = {}
    for name, task in results.tasks.items():
        groups.setdefault(task.group, []).append(name)
    others = [name for name, task in results.tasks.items() if task.group != RETRIEVAL]
    averages = {group: names for group, names in groups.items() if group not in ("", RETRIEVAL)}
    if RETRIEVAL in groups:
        averages |= {"non-retrieval": others} if others else {}
        averages[RETRIEVAL] = groups[RETRIEVAL]
    averages["total"] = list(results.tasks)
    for name, tasks in averages.items():
        columns[name if name not in columns else f"{name} average"] = tuple(tasks)
    return columns


def _wanted(results: Results, row: Row, tasks: Sequence[str]) -> list[int | None]:
    """The seeds that a mean over tasks should have; [None] where no seed entered any of them."""
    seeds = {seed for task in tasks for seed in results.planned.get((row, task), ())}
    return [seed for seed in results.study.seeds if seed in seeds] or [None]


def _by_seed(results: Results, row: Row, tasks: Sequence[str]) -> dict[int | None, float]:
    """Seed -> mean over the tasks, for seeds of which every task is there."""
    means = {}
    for seed in _wanted(results, row, tasks):
        found = [results.found.get((row, task), {}) for task in tasks]
        scores = [seeds.get(seed, seeds.get(None)) for seeds in found]
        averages = [s.average for s in scores if s is not None and s.average is not None]
        if len(averages) == len(tasks):
            means[seed] = statistics.fmean(averages)
    return means


def _put(values: dict, place: tuple[Row, str], by_seed: Mapping[int | None, float], wanted: Sequence) -> None:
    if by_seed:
        values[place] = statistic(list(by_seed.values()), len(wanted))
