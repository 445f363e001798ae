"""Native files to rows: JSON, JSON lines, CSV, TSV, SQuAD, CCGbank and tagged text, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.tasks.spec import Task

Row = tuple[str, dict]  # (its place, its columns)
Lines = Iterator[tuple[int, str]]

_LEAF = re.compile(r"\(<L (\S+) \S+ \S+ (\S+) \S+>\)")  # category, two part-of-speech tags, word, indexed category


def read_rows(path: Path, task: Task) -> Iterator[Row]:
    """The rows of a file as ("path:line", columns), in its order; the suffix, less `.gz`, decides how it is read.

    - .json: SQuAD's nesting, flattened to id, question, context, answers, is_impossible; or a list of objects
    - .jsonl: an object a line
    - .csv: with a header line, quoted
    - .tsv, .txt: with a header line unless the task gives `header`; quotes are text. Of token tagging: a word and its
      tag a line, tabs between (first and last column), an empty line after a sentence; or as .stagged
    - .stagged: `word|POS|tag` or `word|tag`, a sentence a line (or an item a line)
    - .auto: CCGbank's derivations

    A line with too few columns is an error, unless the task drops rows without a label ("" in `drop_labels`): then
    the columns it lacks are "".

    Raises:
        UserError: unreadable, undecodable, malformed or empty; names file and line.
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
        rows = _auto(path)
    elif suffix == ".stagged" or suffix in (".tsv", ".txt") and tagging:
        rows = _tagged(path)
    elif suffix in (".tsv", ".txt"):
        rows = _tabbed(path, task)
    else:
        fix = "use .json, .jsonl, .csv, .tsv, .txt, .auto or .stagged, each also with .gz"
        raise UserError(f"{path}: do not know how to read {suffix or 'a file without suffix'}", fix=fix)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise UserError(f"{path} has no rows", fix=f"check this file of {task.name}, it may be cut or the wrong one")


def _lines(path: Path) -> Lines:
    """Numbered lines without their ends; only a line feed ends one, so that odd separators stay text."""
    number = 0
    try:
        with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8", why=str(error), fix="convert it: iconv -t UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}", why=str(error), fix="copy or download it again") from None


def _json_value(text: str, path: Path, first: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        fix = "a file with an object a line is called .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}:{first + error.lineno - 1}: malformed JSON", why=str(error), fix=fix) from None
    except RecursionError:
        raise UserError(f"{path}:{first}: malformed JSON", why="nested too deeply") from None


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        row = _json_value(line, path, number)
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: not a JSON object")
        yield f"{path}:{number}", row


def _json(path: Path) -> Iterator[Row]:
    tree = _json_value("\n".join(line for _, line in _lines(path)), path)
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
    reader = csv.reader((f"{line}\n" for _, line in _lines(path)), strict=True)
    names = task.header
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}:{first}: malformed CSV", why=str(error)) from None
        if not names:
            names = tuple(values)
        elif values:
            yield f"{path}:{first}", _columns(names, values, f"{path}:{first}", task)


def _tabbed(path: Path, task: Task) -> Iterator[Row]:
    names = task.header
    for number, line in _lines(path):
        if not names:
            names = tuple(line.split("\t"))
        elif line:
            yield f"{path}:{number}", _columns(names, line.split("\t"), f"{path}:{number}", task)


def _columns(names: tuple[str, ...], values: list[str], place: str, task: Task) -> dict[str, str]:
    if len(values) < len(names) and "" in task.drop_labels:
        values = [*values, *[""] * (len(names) - len(values))]
    if len(values) != len(names):
        raise UserError(
            f"{place}: {len(values)} columns instead of {len(names)}",
            why=f"the columns are {', '.join(names)}",
            fix="mend the line; for a file without a header line, give the task's `header`",
        )
    return dict(zip(names, values, strict=True))


def _tagged(path: Path) -> Iterator[Row]:
    lines = list(_lines(path))
    content = [line for _, line in lines if line.strip()]
    if content and not any("\t" in line for line in content) and any(len(line.split()) > 1 for line in content):
        for number, line in lines:
            if line.strip():
                yield _sentence(path, [(number, item) for item in line.split()])
        return
    for blank, group in itertools.groupby(lines, lambda numbered: not numbered[1].strip()):
        if not blank:
            yield _sentence(path, list(group))


def _sentence(path: Path, items: list[tuple[int, str]]) -> Row:
    words, tags = [], []
    for number, item in items:
        parts = item.split("\t") if "\t" in item else item.rsplit("|", 2)
        word, tag = parts[0].strip(), parts[-1].strip()
        if len(parts) < 2 or not word or not tag:
            why = "expected word TAB tag, word|POS|tag or word|tag"
            raise UserError(f"{path}:{number}: {item!r} is not a word with its tag", why=why)
        words.append(word)
        tags.append(tag)
    return f"{path}:{items[0][0]}", {"words": words, "tags": tags}


def _auto(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip() or line.startswith("ID="):
            continue
        leaves = _LEAF.findall(line)
        if not leaves or len(leaves) != line.count("(<L "):
            raise UserError(f"{path}:{number}: not a derivation of CCGbank")
        yield f"{path}:{number}", {"words": [word for _, word in leaves], "tags": [tag for tag, _ in leaves]}
