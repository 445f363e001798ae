"""Exact match and token F1 of extracted answers, as the official scripts of SQuAD (v1.1, v2.0) and MLQA define them.

SQuAD v1.1: Rajpurkar et al., arXiv 1606.05250; v2.0 and its no-answer threshold: arXiv 1806.03822; the rules of
other languages: MLQA, Lewis et al., arXiv 1910.07475.
"""

from __future__ import annotations

import functools
import math
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluation.metrics import check_lengths

_CHINESE = re.compile("([\u4e00-\u9fa5])")


@dataclass(frozen=True)
class _Rules:
    """What normalising removes in one language; a Chinese character is a token of its own under `split_chinese`."""

    articles: re.Pattern | None
    unicode_punctuation: bool = True
    split_chinese: bool = False


def _words(*words: str) -> re.Pattern:
    return re.compile(rf"\b({'|'.join(words)})\b")


_ENGLISH = _words("a", "an", "the")
_RULES = {
    "en": _Rules(_ENGLISH, unicode_punctuation=False),
    "mlqa-en": _Rules(_ENGLISH),
    "es": _Rules(_words("un", "una", "unos", "unas", "el", "la", "los", "las")),
    "vi": _Rules(_words("của", "là", "cái", "chiếc", "những")),
    "de": _Rules(_words("ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des")),
    # The Arabic article is written onto its word; the official pattern removes the letters wherever they stand.
    "ar": _Rules(re.compile("ال")),
    "hi": _Rules(None),
    "zh": _Rules(None, split_chinese=True),
}


@functools.cache
def _punctuation(all_scripts: bool) -> dict[int, None]:
    """A table for `str.translate` that deletes ASCII punctuation, or that of all scripts (Unicode classes P*)."""
    table = dict.fromkeys(map(ord, string.punctuation))
    if all_scripts:
        table.update((c, None) for c in range(sys.maxunicode) if unicodedata.category(chr(c)).startswith("P"))
    return table


def normalize(text: str, language: str = "en") -> str:
    """`text` in lower case without punctuation and articles, its tokens joined by single spaces.

    Args:
        language: "en" for SQuAD's own rules, which XQuAD and TyDi QA share for all of their languages; es, de, ar,
            hi, vi, zh and "mlqa-en" for MLQA's, which also remove the punctuation of other scripts.

    Raises:
        ValueError: no rules for the language.
    """
    rules = _RULES.get(language)
    if rules is None:
        raise ValueError(f"no answer normalisation for language {language!r}; there is one for {', '.join(_RULES)}")
    text = text.lower().translate(_punctuation(rules.unicode_punctuation))
    if rules.articles:
        text = rules.articles.sub(" ", text)
    if rules.split_chinese:
        text = _CHINESE.sub(r" \1 ", text)
    return " ".join(text.split())


def exact_match(prediction: str, answers: Sequence[str], language: str = "en") -> float:
    """1.0 if the prediction equals any of the answers once normalised, else 0.0; no answers stand for [""]."""
    found = normalize(prediction, language)
    return float(any(found == normalize(answer, language) for answer in answers or [""]))


def f1(prediction: str, answers: Sequence[str], language: str = "en", no_answer: bool = False) -> float:
    """Token F1, between 0 and 1, against the answer that gives the most; no answers stand for [""].

    An empty text shares no token with any other, so 0.0, as in the scripts of SQuAD v1.1 and MLQA; with `no_answer`,
    as in that of v2.0, two empty texts agree: 1.0.
    """
    found = normalize(prediction, language).split()
    return max(_token_f1(found, normalize(answer, language).split(), no_answer) for answer in answers or [""])


def _token_f1(found: list[str], gold: list[str], no_answer: bool) -> float:
    if not found or not gold:
        return float(no_answer and found == gold)
    same = sum((Counter(found) & Counter(gold)).values())
    return 2.0 * same / (len(found) + len(gold))


def squad_scores(
    predictions: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    no_answer: bool,
    language: str = "en",
) -> dict[str, float]:
    """Scores of one prediction per reference, in per cent.

    Args:
        predictions: (n,) mappings with `text`, the best non-empty answer, and, under `no_answer`,
            `null_difference`: the score of "no answer" minus that of `text`.
        references: (n,) mappings with `answers`, the accepted texts; empty means that there is no answer.
        no_answer: SQuAD v2.0's procedure instead of v1.1's.

    Returns:
        v1.1: exact_match, f1. v2.0 adds the scores at the best threshold, best_exact_match and best_f1, the
        threshold that gives best_f1, best_f1_threshold (in units of `null_difference`, not per cent), and, as far as
        there are such questions, has_answer_f1 and no_answer_accuracy. All but best_* refuse to answer where
        `null_difference` is above 0.

    Raises:
        ValueError: the lengths differ, there is nothing to score, a v1.1 reference has no answers, or a
            `null_difference` is not a number.
    """
    check_lengths(predictions, references)
    texts = [prediction["text"] for prediction in predictions]
    golds = [list(reference["answers"]) for reference in references]
    if not no_answer:
        for reference, gold in zip(references, golds, strict=True):
            if not gold:
                raise ValueError(f"question {reference.get('id', '?')} has no answers, which SQuAD v1.1 does not allow")
        pairs = list(zip(texts, golds, strict=True))
        return {
            "exact_match": _percent([exact_match(text, gold, language) for text, gold in pairs]),
            "f1": _percent([f1(text, gold, language) for text, gold in pairs]),
        }

    differences = [float(prediction["null_difference"]) for prediction in predictions]
    if any(map(math.isnan, differences)):
        raise ValueError("a null_difference is not a number")
    answered = [bool(gold) for gold in golds]
    golds = [[answer for answer in gold if normalize(answer, language)] for gold in golds]
    pairs = list(zip(texts, golds, strict=True))
    exact = [exact_match(text, gold, language) for text, gold in pairs]
    overlap = [f1(text, gold, language, no_answer=True) for text, gold in pairs]
    refused = [difference > 0.0 for difference in differences]
    exact_fixed, overlap_fixed = _thresholded(exact, refused, answered), _thresholded(overlap, refused, answered)
    best_f1, best_f1_threshold = _best_threshold(texts, overlap, differences, answered)
    scores = {
        "exact_match": _percent(exact_fixed),
        "f1": _percent(overlap_fixed),
        "best_exact_match": _best_threshold(texts, exact, differences, answered)[0],
        "best_f1": best_f1,
        "best_f1_threshold": best_f1_threshold,
    }
    if any(answered):
        scores["has_answer_f1"] = _percent([s for s, has in zip(overlap_fixed, answered, strict=True) if has])
    if not all(answered):
        scores["no_answer_accuracy"] = _percent([s for s, has in zip(exact_fixed, answered, strict=True) if not has])
    return scores


def _percent(scores: list[float]) -> float:
    return 100.0 * sum(scores) / len(scores)


def _thresholded(scores: list[float], refused: list[bool], answered: list[bool]) -> list[float]:
    """A refused question scores 1 if it has no answer, else 0."""
    return [float(not has) if no else s for s, no, has in zip(scores, refused, answered, strict=True)]


def _best_threshold(
    texts: list[str], scores: list[float], differences: list[float], answered: list[bool]
) -> tuple[float, float]:
    """The best score in per cent, and the lowest threshold that reaches it.

    From refusing every question on, questions are answered in the order of their null difference. As in the official
    script, any text at all is a wrong answer to a question without one, also if normalising leaves nothing of it. Two
    departures: the official script also counts states between two equal differences, which no threshold gives, and
    calls the threshold of refusing everything 0; here, such texts aside, scoring at the threshold
    returned gives the score returned.
    """
    order = sorted(range(len(scores)), key=differences.__getitem__)
    score = best = float(answered.count(False))
    threshold = math.nextafter(differences[order[0]], -math.inf)
    for place, i in enumerate(order):
        score += scores[i] if answered[i] else -bool(texts[i])
        last_of_equals = place + 1 == len(order) or differences[order[place + 1]] != differences[i]
        if last_of_equals and score > best:
            best, threshold = score, differences[i]
    return 100.0 * best / len(scores), threshold
