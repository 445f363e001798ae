"""Native files to rows: JSON, JSON lines, CSV, TSV, SQuAD, and tagged text, gzipped or not."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data.conllu import conllu_rows
from trainer.data.lines import read_lines
from trainer.data.tagged import auto_rows, tagged_rows
from trainer.errors import NoExamples, UserError
from trainer.tasks.spec import Task

Row = tuple[str, dict]  # (its place, its columns)


def read_rows(path: Path, task: Task) -> Iterator[Row]:
    """The rows of a file as ("path:line", columns), in its order; the suffix, less `.gz`, decides how it is read.

    - .json: SQuAD's nesting, flattened to id, question, context, answers, is_impossible; or a list of objects
    - .jsonl: an object a line
    - .csv: quoted, with a header line, unless the task gives `header` and the first line does not name its columns
    - .tsv, .txt: likewise, but quotes are text; a label that `header` ends with and lines lack is in `labels_beside`
    - .tsv, .txt or no suffix, of token tagging: a word and its tag a line, tabs between (first and last column), an
      empty line after a sentence; or as .stagged
    - .txt, of masked language modelling: a text a line, empty lines between them or not
    - .conllu: tokens and universal tags
    - .stagged: `word|POS|tag` or `word|tag`, a sentence a line (or an item a line)
    - .auto: CCGbank's derivations

    A line with too few columns is an error, unless the task drops rows without a label ("" in `drop_labels`): then
    the columns it lacks are "".

    Raises:
        NoExamples: the file has no rows.
        UserError: unreadable, undecodable or malformed; names file and line.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    tagging = task.format == "token_tagging"
    if suffix == ".json":
        rows = _json(path)
    elif suffix == ".jsonl":
        rows = _json_lines(path)
    elif suffix == ".csv":
        rows = _csv(path, task)
    elif suffix == ".auto":
        rows = auto_rows(path)
    elif suffix == ".conllu":
        rows = conllu_rows(path, task.language)
    elif suffix == ".stagged" or suffix in (".tsv", ".txt", "") and tagging:
        rows = tagged_rows(path, task.language)
    elif suffix == ".txt" and task.format == "masked_lm":
        rows = ((f"{path}:{number}", {"text": line}) for number, line in read_lines(path) if line.strip())
    elif suffix in (".tsv", ".txt"):
        rows = _tabbed(path, task)
    else:
        fix = "use .json, .jsonl, .csv, .tsv, .txt, .conllu, .auto or .stagged, each also with .gz"
        raise UserError(f"{path}: do not know how to read {suffix or 'a file without suffix'}", fix=fix)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise NoExamples(f"{path} has no rows", fix=f"check this file of {task.name}, it may be cut or the wrong one")


def labels_beside(path: Path, task: Task) -> Path | None:
    """Where the labels of test-de.tsv are, a line each, if they are apart: test.labels.de.txt or test.labels.txt.

    XTREME ships its tests without labels.
    """
    stem = path.name.removesuffix(".gz").removesuffix(".tsv")
    split = stem.removesuffix(f"-{task.language}")
    if not task.header or split == stem:
        return None
    names = (f"{split}.labels.{task.language}.txt", f"{split}.labels.txt")
    return next((found for name in names if (found := path.with_name(name)).is_file()), None)


def _json_value(text: str, path: Path, first: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        fix = "a file with an object a line is called .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}:{first + error.lineno - 1}: malformed JSON", why=str(error), fix=fix) from None
    except RecursionError:
        raise UserError(f"{path}:{first}: malformed JSON", why="nested too deeply") from None


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        row = _json_value(line, path, number)
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: not a JSON object")
        yield f"{path}:{number}", row


def read_json(path: Path) -> Any:
    """The value of a JSON file; None of a blank one.

    Raises:
        UserError: unreadable, undecodable or malformed; names file and line.
    """
    text = "\n".join(line for _, line in read_lines(path))
    return _json_value(text, path) if text.strip() else None


def _json(path: Path) -> Iterator[Row]:
    tree = read_json(path)
    if tree is None:
        return
    entries = tree.get("data") if isinstance(tree, dict) else tree
    if not isinstance(entries, list):
        raise UserError(f"{path}: neither SQuAD's layout nor a list of objects")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {i} is not an object")
        if "paragraphs" in entry:
            yield from _squad(entry, path, i)
        else:
            yield f"{path}: entry {i}", entry


def _squad(article: dict, path: Path, number: int) -> Iterator[Row]:
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                impossible = bool(question.get("is_impossible", False))
                answers = [] if impossible else question["answers"]
                yield (
                    f"{path}: question {question['id']}",
                    {
                        "id": str(question["id"]),
                        "question": question["question"],
                        "context": paragraph["context"],
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                        "is_impossible": impossible,
                    },
                )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: article {number} is not in SQuAD's layout", why=f"missing {error}") from None


def _csv(path: Path, task: Task) -> Iterator[Row]:
    # csv wants line ends: a quoted field may hold some
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True)
    names = task.header
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}:{first}: malformed CSV", why=str(error)) from None
        if not names or first == 1 and _is_header(values, task):
            names = tuple(values)
        elif values:
            yield f"{path}:{first}", _columns(names, values, f"{path}:{first}", task)


def _tabbed(path: Path, task: Task) -> Iterator[Row]:
    rows = ((number, line.split("\t")) for number, line in read_lines(path) if line)
    first = next(rows, None)
    if first is None:
        return
    names = task.header
    if not names or _is_header(first[1], task):
        names = tuple(first[1])
    else:
        rows = itertools.chain([first], rows)
    beside = labels_beside(path, task) if len(first[1]) == len(names) - 1 else None
    for number, values in _paste(rows, path, beside) if beside else rows:
        yield f"{path}:{number}", _columns(names, values, f"{path}:{number}", task)


def _is_header(values: list[str], task: Task) -> bool:
    """Whether a line names a column for every role."""
    roles = [names for role, names in task.columns.items() if role != "id"]
    return bool(roles) and all(any(name in values for name in names) for names in roles)


def _paste(rows: Iterator[tuple[int, list[str]]], path: Path, beside: Path) -> Iterator[tuple[int, list[str]]]:
    numbered, labels = list(rows), [label for _, label in read_lines(beside) if label.strip()]
    if len(numbered) != len(labels):
        why = f"{path.name} has {len(numbered):,} rows, {beside.name} {len(labels):,} labels"
        raise UserError(f"{beside} does not fit {path}", why=why, fix="there must be one label for each row, in order")
    for (number, values), label in zip(numbered, labels, strict=True):
        yield number, [*values, label]


def _columns(names: tuple[str, ...], values: list[str], place: str, task: Task) -> dict[str, str]:
    if len(values) < len(names) and "" in task.drop_labels:
        values = [*values, *[""] * (len(names) - len(values))]
    if len(values) != len(names):
        fix = "mend the line; for a file without a header line, give the task's `header`"
        if names == task.header and len(values) == len(names) - 1:
            fix = "mend the line, or put the labels of test-de.tsv beside it, one a line: test.labels[.de].txt"
        raise UserError(
            f"{place}: {len(values)} columns instead of {len(names)}",
            why=f"the columns are {', '.join(names)}",
            fix=fix,
        )
    return dict(zip(names, values, strict=True))
