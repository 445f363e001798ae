"""The texts of sentence retrieval: what is searched for, what is searched, and which pairs are right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config import DataSection
from trainer.data.lines import read_lines
from trainer.data.readers import read_json
from trainer.data.sources import find_files, on_hub, raw_rows
from trainer.errors import NoExamples, UserError
from trainer.tasks.spec import Task

_BUCC_SPLIT = re.compile(r"\w\w-en\.(\w+)\.")
_SORTED_ENGLISH = re.compile(r"\w\w-en\.en(\.gz)?")


@dataclass(frozen=True)
class ParallelText:
    """Two lists of sentences and their right pairs.

    Attributes:
        queries, candidates: sentences; candidates of LAReQA each with its paragraph.
        gold: (index of a query, index of a candidate); several queries may have one candidate.
        query_ids, candidate_ids: of Tatoeba the files' lines from 0; of BUCC the files' own; of LAReQA the question's,
            the same in all languages, and language, paragraph and sentence ("de_17_3"), so that languages are pooled.
    """

    queries: list[str]
    candidates: list[str]
    gold: list[tuple[int, int]]
    query_ids: list[str]
    candidate_ids: list[str]


def open_parallel(task: Task, data: DataSection, split: str = "test") -> ParallelText:
    """The text of a retrieval task, already in its language, from the hub or from files; see `read_parallel`."""
    if on_hub(task, "test", data):
        rows = [row for _, row in raw_rows(task, "test", data)]
        return _aligned([row["target_sentence"] for row in rows], [row["source_sentence"] for row in rows])
    files = [path for _, path in find_files(task, "test", data)]
    try:
        return read_parallel(files, task, split)
    except UserError as error:
        error.fix = error.fix or f"mend it, or check that this is a file of {task.name}; then the same command again"
        raise


def read_parallel(files: Sequence[Path], task: Task, split: str = "test") -> ParallelText:
    """The text in the files of a retrieval task, in the order of `find_files(task, "test", ...)`.

    - Tatoeba: the English file, then the other; line i of one translates line i of the other. English is the query,
      in the order of the sorted English sentences, which XTREME's hidden labels and hence predictions are in.
    - BUCC: the other language, English, gold pairs, all three of one split; of the sample split, then of the training
      split, or one split for both. English is searched. Repeated sentences are kept.
    - LAReQA: one file of XQuAD-R. Questions search the sentences of all paragraphs for the one in which an answer
      begins; questions without an answer, and sentences without a question, stay. A candidate is a sentence with its
      paragraph behind it, as in XTREME-R (third_party/evaluate_retrieval.py of google-research/xtreme).

    Args:
        split: of BUCC, "sample" or "training"; the others have one only.

    Raises:
        NoExamples: a file without rows.
        UserError: unaligned or malformed files, gold pairs of unknown sentences.
        ValueError: a task that is none of the three.
    """
    kind = task.head or task.name  # a variant's head is the name of the task it is a variant of
    if kind == "tatoeba":
        _expect(files, task, 2)
        return _tatoeba(*files)
    if kind == "bucc2018":
        _expect(files, task, 3, 6)
        return _bucc(*(files[:3] if split == "sample" else files[-3:]))
    if kind == "lareqa":
        _expect(files, task, 1)
        return _lareqa(files[0], task.language)
    raise ValueError(f"no reader for the retrieval task {task.name}")


def _expect(files: Sequence[Path], task: Task, *counts: int) -> None:
    if len(files) not in counts:
        wanted = " or ".join(map(str, counts))
        fix = f"data.files.{task.name}.test: {wanted} paths in the order that trainer/data/retrieval_files.py gives"
        raise UserError(f"{task.name} is read from {wanted} files, not from {len(files)}", fix=fix)


def _tatoeba(english: Path, other: Path) -> ParallelText:
    if _SORTED_ENGLISH.fullmatch(english.name):
        raise UserError(
            f"{english} does not translate {other.name} line by line",
            why="XTREME's preprocessing sorts the English side, and only its hidden labels say what belongs together",
            fix="take LASER's files instead (github.com/facebookresearch/LASER, data/tatoeba/v1): tatoeba.deu-eng.*",
        )
    sides = [[line for _, line in _rows(path)] for path in (english, other)]
    if len(sides[0]) != len(sides[1]):
        why = f"{english.name} has {len(sides[0]):,} lines, {other.name} {len(sides[1]):,}"
        raise UserError(f"{english} and {other} are not aligned", why=why, fix="copy or download both again")
    return _aligned(*sides)


def _aligned(english: list[str], other: list[str]) -> ParallelText:
    ids = [str(i) for i in range(len(english))]
    order = sorted(range(len(english)), key=lambda i: english[i].strip())  # utils_preprocess.py of XTREME
    gold = list(enumerate(order))
    return ParallelText([english[i] for i in order], other, gold, [ids[i] for i in order], ids)


def _bucc(other: Path, english: Path, gold: Path) -> ParallelText:
    names = [path.name for path in (other, english, gold)]
    splits = {found[1] for name in names if (found := _BUCC_SPLIT.match(name))}
    if len(splits) > 1:  # ids begin anew in each, so that the pairs would be found, and be wrong
        raise UserError(
            f"the files of {other.parent} are of different splits: {', '.join(names)}",
            why="gold pairs are those of one split, as are both its sides; XTREME leaves out those of its test split",
            fix=f"put the missing file of {' or '.join(sorted(splits))} there, or take the others of that split away",
        )
    (queries, query_places), (candidates, candidate_places) = _sentences(other), _sentences(english)
    pairs = []
    for number, line in _rows(gold):
        ids = line.split("\t")
        if len(ids) != 2:
            raise UserError(f"{gold}:{number}: not a pair of ids with a tab between them")
        for key, places, path in zip(ids, (query_places, candidate_places), (other, english), strict=True):
            if key not in places:
                raise UserError(f"{gold}:{number}: {key!r} is no sentence of {path.name}")
        pairs.append((query_places[ids[0]], candidate_places[ids[1]]))
    return ParallelText(queries, candidates, pairs, list(query_places), list(candidate_places))


def _sentences(path: Path) -> tuple[list[str], dict[str, int]]:
    """The sentences of `id TAB sentence` lines, and the place of each id."""
    sentences, places = [], {}
    for number, line in _rows(path):
        key, tab, sentence = line.partition("\t")
        if not tab or not key:
            raise UserError(f"{path}:{number}: not an id and a sentence with a tab between them")
        if key in places:
            raise UserError(f"{path}:{number}: the id {key!r} comes a second time")
        places[key] = len(sentences)
        sentences.append(sentence)
    return sentences, places


def _lareqa(path: Path, language: str) -> ParallelText:
    text = ParallelText([], [], [], [], [])
    tree = read_json(path)
    try:
        paragraphs = [paragraph for article in tree["data"] for paragraph in article["paragraphs"]] if tree else []
        for number, paragraph in enumerate(paragraphs, 1):
            first, breaks, context = len(text.candidates), paragraph["sentence_breaks"], paragraph["context"]
            text.candidates.extend((context[low:high] + context).replace("\n", "") for low, high in breaks)
            text.candidate_ids.extend(f"{language}_{number}_{i}" for i in range(len(breaks)))
            for question in paragraph["qas"]:
                starts = [answer["answer_start"] for answer in question["answers"]]
                holding = {i for i, (low, high) in enumerate(breaks) for start in starts if low <= start < high}
                if starts and not holding:
                    raise UserError(f"{path}: question {question['id']}: its answer begins in no sentence")
                text.gold.extend((len(text.queries), first + i) for i in sorted(holding))
                text.queries.append(question["question"])
                text.query_ids.append(str(question["id"]))
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not in XQuAD-R's layout", why=why) from None
    if not text.queries:
        raise _empty(path)
    return text


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, of which there must be some and none may be blank: they are counted to align files."""
    number = 0
    for number, line in read_lines(path):
        if not line.strip():
            raise UserError(f"{path}:{number}: an empty line", fix="take it away, in aligned files from both")
        yield number, line
    if not number:
        raise _empty(path)


def _empty(path: Path) -> NoExamples:
    return NoExamples(f"{path} has no rows", fix="check this file, it may be cut or the wrong one")
