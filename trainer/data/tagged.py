"""Files of words with their tags: tab-separated text, WikiANN's own, CoNLL-U, and CCGbank's two kinds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from trainer.data.lines import Line, read_lines
from trainer.errors import UserError

Row = tuple[str, dict]  # (its place, its columns: words and tags)

CONLLU_COLUMNS = 10
_LEAF = re.compile(r"\(<L (\S+) \S+ \S+ (\S+) \S+>\)")  # category, two part-of-speech tags, word, indexed category
_NO_WORD = re.compile(r"\d+[-.]\d+")  # ids of multiword tokens (4-5), whose words follow, and of empty nodes (8.1)


def tagged_rows(path: Path, language: str) -> Iterator[Row]:
    """Sentences of `word TAB ... TAB tag` lines with empty lines between them, or of items with `|` in each line.

    WikiANN writes `de:word`: where the file's first word begins so, the prefix is taken off all of them.

    Raises:
        UserError: a line without word or tag, or without the prefix that the first one has.
    """
    lines = list(read_lines(path))
    content = [line for _, line in lines if line.strip()]
    if content and not any("\t" in line for line in content) and any(len(line.split()) > 1 for line in content):
        for number, line in lines:
            if line.strip():
                yield _sentence(path, [(number, item) for item in line.split()])
        return
    prefix = f"{language}:" if content and content[0].startswith(f"{language}:") else ""
    for blank, group in itertools.groupby(lines, lambda numbered: not numbered[1].strip()):
        if not blank:
            yield _sentence(path, list(group), prefix)


def _sentence(path: Path, items: list[Line], prefix: str = "") -> Row:
    words, tags = [], []
    for number, item in items:
        if not item.startswith(prefix):
            why = f"the file's first word begins with {prefix!r}, so all of one language do"
            raise UserError(f"{path}:{number}: {item!r} does not begin with {prefix!r}", why=why)
        parts = item.split("\t") if "\t" in item else item.rsplit("|", 2)
        word, tag = parts[0].removeprefix(prefix).strip(), parts[-1].strip()
        if len(parts) < 2 or not word or not tag:
            why = "expected word TAB tag, word|POS|tag or word|tag"
            raise UserError(f"{path}:{number}: {item!r} is not a word with its tag", why=why)
        words.append(word)
        tags.append(tag)
    return f"{path}:{items[0][0]}", {"words": words, "tags": tags}


def conllu_rows(path: Path) -> Iterator[Row]:
    """Sentences of a CoNLL-U file: forms and universal tags (UPOS) of its words.

    Lines of multiword tokens and of empty nodes are no words, hence skipped (universaldependencies.org/format.html).

    Raises:
        UserError: a line without ten columns, an id out of order, a word without form or tag, or a treebank whose
            words are hidden for their licence.
    """
    for blank, group in itertools.groupby(read_lines(path), lambda numbered: not numbered[1].strip()):
        lines = [] if blank else [(number, line) for number, line in group if not line.startswith("#")]
        words, tags = [], []
        for number, line in lines:
            columns = line.split("\t")
            place = f"{path}:{number}"
            if len(columns) != CONLLU_COLUMNS:
                why = f"CoNLL-U has {CONLLU_COLUMNS} columns with tabs between them"
                raise UserError(f"{place}: malformed CoNLL-U: {len(columns)} columns", why=why)
            if _NO_WORD.fullmatch(columns[0]):
                continue
            if columns[0] != str(len(words) + 1):
                why = "words of a sentence are numbered from 1; an empty line ends it"
                raise UserError(f"{place}: malformed CoNLL-U: id {columns[0]} after word {len(words)}", why=why)
            if not columns[1].strip() or columns[3] in ("", "_"):
                raise UserError(f"{place}: malformed CoNLL-U: word {columns[0]} has no form or no universal tag")
            words.append(columns[1])
            tags.append(columns[3])
        if len(words) > 1 and set(words) == {"_"}:
            fix = "fill them in as the treebank's README says, or take the file away"
            raise UserError(f"{path}:{lines[0][0]}: the words are hidden for their licence", fix=fix)
        if words:
            yield f"{path}:{lines[0][0]}", {"words": words, "tags": tags}


def auto_rows(path: Path) -> Iterator[Row]:
    """Sentences of CCGbank's derivations: words and their categories.

    Raises:
        UserError: a line that is no derivation.
    """
    for number, line in read_lines(path):
        if not line.strip() or line.startswith("ID="):
            continue
        leaves = _LEAF.findall(line)
        if not leaves or len(leaves) != line.count("(<L "):
            raise UserError(f"{path}:{number}: not a derivation of CCGbank")
        yield f"{path}:{number}", {"words": [word for _, word in leaves], "tags": [tag for tag, _ in leaves]}
