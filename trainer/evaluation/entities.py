"""Precision, recall and F1 of entities, as seqeval computes them in its default mode (github.com/chakki-works/seqeval).

An entity is a run of tags of one type: B-PER I-PER. The default mode is as lenient as CoNLL's script: a run may begin
with I-. XTREME scores its parts of speech so too, though they have no B- or I-: the first letter of a bare tag (the N
of NOUN) is taken for its prefix, the whole tag for its type, as in seqeval 0.0.12, which XTREME and jiant used. Runs of
equal tags thus count once, and S and I (SCONJ, SYM, INTJ) act as the prefixes of that name do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainer.evaluation.metrics import check_lengths

Entity = tuple[str, int, int]  # type, first word, last word


def entity_f1(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """{"f1", "precision", "recall"} over the entities of all sentences together, in per cent; 0 where one is 0/0.

    Args:
        predictions, references: (n,) sentences of tags: O, B-PER, I-PER, ..., or bare ones.

    Raises:
        ValueError: numbers of sentences or of a sentence's tags differ, a tag is empty, or there is no sentence.
    """
    check_lengths(predictions, references)
    right = predicted = actual = 0
    for i, (tags, gold_tags) in enumerate(zip(predictions, references, strict=True)):
        if len(tags) != len(gold_tags):
            raise ValueError(f"sentence {i}: {len(tags)} predicted tags for {len(gold_tags)} words")
        found, gold = set(entities(tags)), set(entities(gold_tags))
        right, predicted, actual = right + len(found & gold), predicted + len(found), actual + len(gold)
    return {
        "f1": 200.0 * right / max(1, predicted + actual),
        "precision": 100.0 * right / max(1, predicted),
        "recall": 100.0 * right / max(1, actual),
    }


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of a sentence, in order.

    Raises:
        ValueError: a tag is empty.
    """
    prefix, kind, begin = "O", "O", 0
    for i, tag in enumerate([*tags, "O"]):
        if not tag:
            raise ValueError(f"the tag of word {i} is empty")
        before, kind_before = prefix, kind
        prefix, kind = tag[0], tag.split("-", 1)[-1]
        changed = kind != kind_before
        if before in "ES" or (before in "BI" and prefix in "BSO") or (before not in "O." and changed):
            yield kind_before, begin, i - 1
        if prefix in "BS" or (before in "ESO" and prefix in "EI") or (prefix not in "O." and changed):
            begin = i
