"""CoNLL-U files (universaldependencies.org/format.html), read as XTREME reads them.

That is what third_party/ud-conversion-tools (with --replace_subtokens_with_fused_forms) and utils_preprocess.py of
github.com/google-research/xtreme do: a multiword token is one token, and has a tag of one of its words.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.lines import Line, read_lines
from trainer.errors import UserError

COLUMNS = 10
_SPAN = re.compile(r"(\d+)-(\d+)")  # the id of a multiword token
_EMPTY_NODE = re.compile(r"\d+\.\d+")

# Which of several words gives a multiword token its tag. XTREME cannot read a file with a tag that is not listed; here
# such a tag comes last.
_TAG_ORDER = {
    "es": "VERB AUX PRON ADP DET",
    "fr": "VERB AUX PRON NOUN ADJ ADV ADP DET PART SCONJ CONJ",
    "it": "VERB AUX ADV PRON ADP DET INTJ",
}
_OTHERS = "VERB NOUN PROPN PRON ADJ NUM ADV INTJ AUX ADP DET PART CCONJ SCONJ X PUNCT"


@dataclass(frozen=True)
class _Word:
    form: str
    tag: str
    heads: set[int]  # by number, 0 for the root; more than one where there are enhanced dependencies


def conllu_rows(path: Path, language: str) -> Iterator[tuple[str, dict]]:
    """(place, words and tags) of the sentences: tokens as they are written, and universal tags (UPOS).

    Empty nodes are left out, and so are spaces and U+200C within tokens. Where all tokens but one at most are "_", as
    in treebanks whose words a licence hides, words and tags are None.

    Raises:
        UserError: a line without ten columns, an id out of order, a token without words, a word without form or tag.
    """
    order = _TAG_ORDER.get(language, _OTHERS).split()
    for blank, group in itertools.groupby(read_lines(path), lambda numbered: not numbered[1].strip()):
        lines = [] if blank else [(number, line) for number, line in group if not line.startswith("#")]
        words, spans = _sentence(path, lines)
        tokens, tags, number = [], [], 1
        while number <= len(words):
            last, form = spans.get(number, (number, words[number - 1].form))
            tokens.append(form)
            tags.append(_tag(range(number, last + 1), words, order))
            number = last + 1
        hidden = tokens.count("_")
        if hidden and hidden >= len(tokens) - 1:
            tokens = tags = None
        if words:
            yield f"{path}:{lines[0][0]}", {"words": tokens, "tags": tags}


def _sentence(path: Path, lines: Sequence[Line]) -> tuple[list[_Word], dict[int, tuple[int, str]]]:
    """The words; and of each multiword token its first word -> (its last one, its form)."""
    words: list[_Word] = []
    spans: dict[int, tuple[int, str]] = {}
    for number, line in lines:
        columns, malformed = line.split("\t"), f"{path}:{number}: malformed CoNLL-U: "
        if len(columns) != COLUMNS:
            why = f"CoNLL-U has {COLUMNS} columns with tabs between them"
            raise UserError(f"{malformed}{len(columns)} columns", why=why)
        key, form, tag = columns[0], columns[1].replace("\u200c", "").replace(" ", "").strip(), columns[3]
        if _EMPTY_NODE.fullmatch(key):
            continue
        if span := _SPAN.fullmatch(key):
            first, last = map(int, span.groups())
            if first != len(words) + 1 or last < first or not form:
                raise UserError(f"{malformed}multiword token {key} after word {len(words)}")
            spans[first] = last, form
            continue
        if key != str(len(words) + 1):
            why = "words of a sentence are numbered from 1; an empty line ends it"
            raise UserError(f"{malformed}id {key} after word {len(words)}", why=why)
        if not form or tag in ("", "_"):
            raise UserError(f"{malformed}word {key} has no form or no universal tag")
        heads = [columns[6], *(head.partition(":")[0] for head in columns[8].split("|"))]
        words.append(_Word(form, tag, {int(head) for head in heads if head.isdecimal()}))
    if spans and max(last for last, _ in spans.values()) > len(words):
        raise UserError(f"{path}:{lines[0][0]}: malformed CoNLL-U: a multiword token lacks its last words")
    return words, spans


def _tag(span: range, words: Sequence[_Word], order: Sequence[str]) -> str:
    """The tag of the word nearest to the root: of those with the fewest words above them, the first by `order`."""

    def rank(number: int) -> tuple[int, int]:
        above, found = set(), {number}
        while found:
            found = {head for word in found if 0 < word <= len(words) for head in words[word - 1].heads} - above
            above |= found
        tag = words[number - 1].tag
        return len(above - {number}), order.index(tag) if tag in order else len(order)

    return words[min(span, key=rank) - 1].tag
