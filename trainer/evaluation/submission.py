"""XTREME's submission layout: TASK/test-LANGUAGE.{tsv,json,jsonl}, of predictions and of labels, written and read.

xnli, pawsx           .tsv    a label a line (PAWS-X: 0 or 1)
tatoeba               .tsv    the index of the found sentence a line
udpos, panx           .tsv    a tag a line, an empty line between sentences
bucc2018              .tsv    two ids a line, a tab between
xcopa                 .jsonl  {"label": 0 or 1} a line
xquad, mlqa, tydiqa   .json   predictions: {question id: text}; labels: SQuAD's nesting
lareqa, mewslix       .json   {question id: [ids, best first]}; labels: {question id: [right ids]}
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.tasks.spec import Task


class Layout:
    """One kind of file. Its *items* are a list in the order of the test set, or a mapping by id."""

    suffix = "tsv"
    same_examples = True  # predictions and labels speak of the same examples

    def predicted(self, predictions: list, references: list, task: Task) -> Any:
        """Items of a `LanguageResult`'s predictions."""
        return predictions

    def gold(self, references: list, task: Task) -> Any:
        """Items of its references."""
        return references

    def dump(self, items: Any) -> str:
        """A predictions file; a labels file is `dump_labels`."""
        return "".join(f"{item}\n" for item in items)

    def read(self, path: Path) -> Any:
        """Items of a predictions file; of a labels file: `read_labels`.

        Raises:
            UserError: it is missing or malformed.
        """
        lines = _numbered(path)
        for number, line in lines:
            if not line:
                raise UserError(f"{path}:{number}: the line is empty", why="every example has a line of its own")
        return [line for _, line in lines]

    def dump_labels(self, items: Any) -> str:
        return self.dump(items)

    def read_labels(self, path: Path) -> Any:
        return self.read(path)


class Labels(Layout):
    def gold(self, references: list, task: Task) -> list[str]:
        return [reference["label"] for reference in references]


class Tags(Layout):
    def gold(self, references: list, task: Task) -> list[list[str]]:
        return [reference["tags"] for reference in references]

    def dump(self, items: list[list[str]]) -> str:
        return "\n".join("".join(f"{tag}\n" for tag in tags) for tags in items)

    def read(self, path: Path) -> list[list[str]]:
        lines = _numbered(path)
        for number, line in lines:
            if "\t" in line:
                raise UserError(f"{path}:{number}: {line!r} is not a tag", why="a line holds a tag and nothing else")
        groups = itertools.groupby(lines, key=lambda numbered: bool(numbered[1]))
        return [[tag for _, tag in group] for full, group in groups if full]


class Pairs(Layout):
    same_examples = False  # as many pairs as were mined

    def dump(self, items: list[tuple[str, str]]) -> str:
        return "".join(f"{first}\t{second}\n" for first, second in items)

    def read(self, path: Path) -> list[tuple[str, ...]]:
        pairs = [(number, tuple(line.split("\t"))) for number, line in _numbered(path)]
        for number, pair in pairs:
            if len(pair) != 2:
                raise UserError(f"{path}:{number}: not two ids with a tab between", why=f"it has {len(pair)} columns")
        return [pair for _, pair in pairs]


class Choices(Layout):
    suffix = "jsonl"

    def gold(self, references: list, task: Task) -> list[int]:
        return [reference["label"] for reference in references]

    def dump(self, items: list[int]) -> str:
        return "".join(json.dumps({"label": int(item)}) + "\n" for item in items)

    def read(self, path: Path) -> list[int]:
        rows = [(number, _json(line, path, number)) for number, line in _numbered(path)]
        for number, row in rows:
            if not isinstance(row, dict) or type(row.get("label")) is not int:
                raise UserError(f'{path}:{number}: not an object with a number as "label"')
        return [row["label"] for _, row in rows]


class Rankings(Layout):
    suffix = "json"
    value, what = list, "a list of ids"

    def predicted(self, predictions: list, references: list, task: Task) -> dict[str, list]:
        return {reference["id"]: ids for reference, ids in zip(references, predictions, strict=True)}

    def gold(self, references: list, task: Task) -> dict[str, list[str]]:
        return {reference["id"]: reference["answers"] for reference in references}

    def dump(self, items: dict[str, Any]) -> str:
        return json.dumps(items, ensure_ascii=False, indent=0) + "\n"

    def read(self, path: Path) -> dict[str, Any]:
        tree = _json(_text(path), path)
        if not isinstance(tree, dict) or not all(isinstance(value, self.value) for value in tree.values()):
            raise UserError(f"{path} is not an object with {self.what} for each question id")
        return tree


class Answers(Rankings):
    value, what = str, "a text"

    def predicted(self, predictions: list, references: list, task: Task) -> dict[str, str]:
        texts = [prediction["text"] for prediction in predictions]
        return super().predicted(texts, references, task)

    def dump_labels(self, items: dict[str, list[str]]) -> str:
        """Questions with their answers' texts; contexts and offsets, which scoring does not read, are left out."""
        questions = [{"id": key, "answers": [{"text": text} for text in texts]} for key, texts in items.items()]
        return self.dump({"data": [{"paragraphs": [{"qas": questions}]}]})

    def read_labels(self, path: Path) -> dict[str, list[str]]:
        tree = _json(_text(path), path)
        try:
            paragraphs = [paragraph for article in tree["data"] for paragraph in article["paragraphs"]]
            questions = [question for paragraph in paragraphs for question in paragraph["qas"]]
            return {str(q["id"]): [str(answer["text"]) for answer in q["answers"]] for q in questions}
        except (KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise UserError(f"{path} is not in SQuAD's layout", why=why, fix="labels are the task's own file") from None


LABELS, LINES, TAGS, PAIRS, CHOICES, ANSWERS, RANKINGS = (
    kind() for kind in (Labels, Layout, Tags, Pairs, Choices, Answers, Rankings)
)
BY_TASK = {"tatoeba": LINES, "bucc2018": PAIRS, "lareqa": RANKINGS, "mewslix": RANKINGS}
BY_FORMAT = {
    "pair_classification": LABELS,
    "token_tagging": TAGS,
    "multiple_choice": CHOICES,
    "span_extraction": ANSWERS,
    "sentence_retrieval": LINES,
}


def layout_of(task: Task) -> Layout:
    """How a task's files are laid out: by its name, or for a task of one's own by its format."""
    return BY_TASK.get(task.name) or BY_FORMAT[task.format]


def write_language(folder: Path, task: Task, language: str, predictions: list, references: list) -> None:
    """Write FOLDER/predictions/TASK/test-LANGUAGE.* and FOLDER/labels/TASK/test-LANGUAGE.*

    Args:
        predictions, references: see `trainer.evaluation.results.LanguageResult`.
    """
    layout = layout_of(task)
    for kind, text in (
        ("predictions", layout.dump(layout.predicted(predictions, references, task))),
        ("labels", layout.dump_labels(layout.gold(references, task))),
    ):
        path = folder / kind / task.name / f"test-{language}.{layout.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def languages_of(folder: Path, task: Task) -> list[str]:
    """The languages of a task's folder, sorted.

    Raises:
        UserError: a file that is not of the layout, or none at all.
    """
    suffix = f".{layout_of(task).suffix}"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    for name in names:
        if not (name.startswith("test-") and name.endswith(suffix)):
            why = f"the files of {task.name} are called test-LANGUAGE{suffix}"
            raise UserError(f"unknown file {folder / name}", why=why, fix="rename it, or take it out of the folder")
    if not names:
        raise UserError(f"{folder} is empty", fix=f"put test-LANGUAGE{suffix} there, or remove the folder")
    return [name.removeprefix("test-").removesuffix(suffix) for name in names]


def read_language(predictions: Path, labels: Path, task: Task, language: str) -> tuple[Any, Any]:
    """Items of one language's predictions and labels, from the task's two folders.

    Raises:
        UserError: a file is missing or malformed, or the two do not speak of the same examples.
    """
    layout = layout_of(task)
    name = f"test-{language}.{layout.suffix}"
    try:
        found, gold = layout.read(predictions / name), layout.read_labels(labels / name)
        if layout.same_examples:
            _check_same_examples(predictions / name, found, gold)
    except UserError as error:
        error.fix = error.fix or f"write it in XTREME's layout of {task.name}, as `xstilts evaluate --tasks` does"
        raise
    return found, gold


def _check_same_examples(path: Path, found: Any, gold: Any) -> None:
    fix = "predict the same test set that the labels are of"
    if len(found) != len(gold):
        raise UserError(f"{path} has {len(found):,} predictions for {len(gold):,} labels", fix=fix)
    if isinstance(gold, dict):
        missing = [key for key in gold if key not in found]
        if missing:
            raise UserError(f"{path} has no prediction for {len(missing):,} questions: {missing[0]}, ...", fix=fix)
        return
    for number, (tags, wanted) in enumerate(zip(found, gold, strict=True), 1):
        if isinstance(wanted, list) and len(tags) != len(wanted):
            raise UserError(f"{path}: sentence {number} has {len(tags)} tags for {len(wanted)} labels", fix=fix)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} is missing", fix="put it there, or take the language out of both folders") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}", why=str(error), fix="it must be UTF-8 text") from None


def _json(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        place = f"{path}:{line + getattr(error, 'lineno', 1) - 1}"
        raise UserError(f"{place}: malformed JSON", why=str(error), fix="write the file again") from None


def _numbered(path: Path) -> list[tuple[int, str]]:
    """Lines with their numbers, stripped; empty ones at the end are none."""
    lines = _text(path).rstrip().split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, 1)] if lines != [""] else []
