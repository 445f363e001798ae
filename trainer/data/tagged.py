"""Files of words with their tags: tab-separated text, WikiANN's own, and CCGbank's two kinds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from trainer.data.lines import Line, read_lines
from trainer.errors import UserError

Row = tuple[str, dict]  # (its place, its columns: words and tags)

_LEAF = re.compile(r"\(<L (\S+) \S+ \S+ (\S+) \S+>\)")  # category, two part-of-speech tags, word, indexed category


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
