"""XTREME's and XTREME-R's scores of a folder of predictions in the submission layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.evaluation.entities import entity_f1
from trainer.evaluation.metrics import accuracy
from trainer.evaluation.results import RETRIEVAL, LanguageResult, TargetResult
from trainer.evaluation.squad import squad_scores
from trainer.evaluation.submission import (
    ANSWERS,
    CHOICES,
    LABELS,
    LINES,
    PAIRS,
    RANKINGS,
    TAGS,
    languages_of,
    layout_of,
    read_language,
)
from trainer.tasks.custom import nearest
from trainer.tasks.spec import Task
from trainer.tasks.xtreme import TARGETS

TOP = 20  # candidates of a ranking that count (XTREME-R, arXiv 2104.07412)
Scores = dict[str, float]

# XTREME-R's entity linking: there is nothing here that reads its data, but its predictions can be scored.
MEWSLIX = Task(
    name="mewslix",
    format="sentence_retrieval",
    group=RETRIEVAL,
    metric=f"map@{TOP}",
    languages=("ar", "de", "en", "es", "fa", "ja", "pl", "ro", "ta", "tr", "uk"),
)
TASKS = {**TARGETS, MEWSLIX.name: MEWSLIX}


def score_folders(predictions: Path, labels: Path) -> tuple[dict[str, TargetResult], list[str]]:
    """Scores of every task that has predictions, in each language that has labels.

    Returns:
        Task -> its scores (without predictions), and the names of tasks that have labels only.

    Raises:
        UserError: no such folder, a task or file that is not XTREME's, a task without labels, a language that one
            folder has and the other lacks, a malformed file, predictions and labels that differ in number.
    """
    for folder in (predictions, labels):
        if not folder.is_dir():
            fix = "xstilts score PREDICTIONS LABELS, folders with TASK/test-LANGUAGE files"
            raise UserError(f"{folder} is no folder", fix=fix)
    names = sorted(path.name for path in predictions.iterdir() if not path.name.startswith("."))
    for name in names:
        if name not in TASKS or not (predictions / name).is_dir():
            why = "folders there are named after tasks"
            raise UserError(f"{predictions / name} is no task of XTREME's", why=why, fix=nearest(name, TASKS))
        if not (labels / name).is_dir():
            raise UserError(f"there are no labels of {name}", why=f"no folder {labels / name}", fix="put them there")
    if not names:
        raise UserError(f"{predictions} holds no task", fix=f"put TASK/test-LANGUAGE files there: {', '.join(TASKS)}")
    results = {name: _score_task(TASKS[name], predictions / name, labels / name) for name in TASKS if name in names}
    others = [name for name in TASKS if name not in names and (labels / name).is_dir()]
    return results, others


def _score_task(task: Task, predictions: Path, labels: Path) -> TargetResult:
    found, gold = languages_of(predictions, task), languages_of(labels, task)
    for have, others, folder in ((gold, found, predictions), (found, gold, labels)):
        missing = [code for code in have if code not in others]
        if missing:
            raise UserError(
                f"{folder} lacks {', '.join(f'test-{code}.{layout_of(task).suffix}' for code in missing)}",
                why=f"predictions and labels of {task.name} must be of the same languages",
                fix="predict them too, or take them out of the other folder; averages say over how many they are",
            )
    results = {}
    for code in sorted(gold, key=_order(task)):
        items = read_language(predictions, labels, task, code)
        try:
            scores = METRICS[layout_of(task)](*items, task, code)
        except ValueError as error:
            fix = f"check its files in {predictions} and {labels}"
            raise UserError(f"cannot score {task.name} in {code}", why=str(error), fix=fix) from None
        results[code] = LanguageResult(scores, len(items[1]))
    return TargetResult(task, results)


def _order(task: Task) -> Callable[[str], tuple[int, str]]:
    """The task's own order of its languages, then others by name."""
    return lambda code: (task.languages.index(code) if code in task.languages else len(task.languages), code)


def bucc_f1(predictions: Sequence[Any], references: Sequence[Any]) -> Scores:
    """Precision, recall and their harmonic mean F1 of mined pairs, in per cent; a pair counts once.

    Raises:
        ValueError: there are no gold pairs.
    """
    found, gold = set(map(tuple, predictions)), set(map(tuple, references))
    if not gold:
        raise ValueError("there are no gold pairs")
    right = len(found & gold)
    precision, recall = 100 * right / max(1, len(found)), 100 * right / len(gold)
    return {
        "f1": 2 * precision * recall / (precision + recall) if right else 0.0,
        "precision": precision,
        "recall": recall,
    }


def mean_average_precision(rankings: Sequence[Sequence[str]], golds: Sequence[Sequence[str]]) -> float:
    """mAP@20 in per cent: of each ranking the sum of the precisions at its right candidates' ranks, divided by the
    number of right candidates there are, at most 20; with one right candidate that is the reciprocal rank.

    Args:
        rankings: candidates of each question, best first; golds: the right ones.

    Raises:
        ValueError: no questions, or one without a right candidate.
    """
    if not golds or not all(golds):
        raise ValueError("a question has no right candidate" if golds else "there are no questions to score")
    total = 0.0
    for ranking, gold in zip(rankings, golds, strict=True):
        right, precisions = 0, 0.0
        missing = set(gold)  # a candidate counts once, where it comes first
        count = min(len(missing), TOP)
        for rank, candidate in enumerate(ranking[:TOP], 1):
            if candidate in missing:
                missing.remove(candidate)
                right += 1
                precisions += right / rank
        total += precisions / count
    return 100 * total / len(golds)


def _accuracy(found: list, gold: list, task: Task, code: str) -> Scores:
    return {"accuracy": accuracy(found, gold)}


def _answers(found: dict[str, str], gold: dict[str, list[str]], task: Task, code: str) -> Scores:
    predictions, references = (
        [{"text": found[key]} for key in gold],
        [{"id": key, "answers": gold[key]} for key in gold],
    )
    scores = squad_scores(predictions, references, no_answer=False, language=task.answer_rules.get(code, "en"))
    return {**scores, "mean": (scores["exact_match"] + scores["f1"]) / 2}


METRICS: dict[Any, Callable[[Any, Any, Task, str], Scores]] = {
    LABELS: _accuracy,
    LINES: _accuracy,
    CHOICES: _accuracy,
    TAGS: lambda found, gold, task, code: entity_f1(found, gold),
    PAIRS: lambda found, gold, task, code: bucc_f1(found, gold),
    ANSWERS: _answers,
    RANKINGS: lambda found, gold, task, code: {
        task.metric: mean_average_precision([found[key] for key in gold], list(gold.values()))
    },
}
