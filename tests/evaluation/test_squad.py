import gzip
import json
import math
import random
from pathlib import Path

import pytest

from trainer.evaluation.squad import exact_match, f1, normalize, squad_scores

DATA = Path(__file__).resolve().parents[2] / "../shared/data"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "The  quick, brown-fox's a-B!", "quick brownfoxs ab"),
        ("en", "theatre another", "theatre another"),
        ("en", "The", ""),
        ("en", "“x” 5–6", "“x” 5–6"),
        ("mlqa-en", "“x” the 5–6", "x 56"),
        ("es", "La casa de los «niños»", "casa de niños"),
        ("de", "Die Brücke des Königs", "brücke königs"),
        ("vi", "những con chó của tôi", "con chó tôi"),
        ("ar", "البيت الكبير", "بيت كبير"),
        ("hi", "राम का घर।", "राम का घर"),
        ("zh", "在2008年，Beijing的奥运", "在 2008 年 beijing 的 奥 运"),
    ],
)
def test_normalize(language, text, expected):
    assert normalize(text, language) == expected


def test_a_language_without_rules_is_refused():
    with pytest.raises(ValueError, match="'xx'.*mlqa-en"):
        normalize("a", "xx")


def test_exact_match_takes_the_best_answer():
    assert exact_match("The Rhine.", ["Danube", "rhine"]) == 1.0
    assert exact_match("Rhine river", ["Danube", "rhine"]) == 0.0
    assert exact_match("", []) == 1.0
    assert exact_match("Rhine", []) == 0.0


def test_f1_counts_tokens_with_their_multiplicity():
    assert f1("big big dog", ["big dog dog dog"]) == pytest.approx(2 * 2 / (3 + 4))
    assert f1("the big dog", ["cat", "a dog"]) == pytest.approx(2 * 1 / (2 + 1))
    assert f1("dog", ["cat"]) == 0.0
    assert f1("北京", ["北方"], "zh") == 0.5


def test_f1_of_empty_texts_is_agreement_in_v2_only():
    assert f1("", [], no_answer=True) == f1("the", [""], no_answer=True) == 1.0
    assert f1("", ["dog"], no_answer=True) == f1("dog", [], no_answer=True) == 0.0
    assert f1("", [""]) == f1("the", ["a"]) == f1("die", ["der"], "de") == 0.0
    scores = squad_scores([{"text": "the"}], [{"id": "1", "answers": ["a"]}], no_answer=False)
    assert scores == {"exact_match": 100.0, "f1": 0.0}, "as the official script of v1.1"


def _v2(*questions):
    """Scores of (text, null difference, answers) triples."""
    predictions = [{"text": text, "null_difference": difference} for text, difference, _ in questions]
    references = [{"id": str(i), "context": "", "answers": answers} for i, (_, _, answers) in enumerate(questions)]
    return squad_scores(predictions, references, no_answer=True)


def test_squad_v1():
    predictions = [{"text": "the dog", "null_difference": 99.0}, {"text": "big cat"}]
    references = [{"id": "1", "context": "", "answers": ["dog"]}, {"id": "2", "context": "", "answers": ["cat"]}]
    scores = squad_scores(predictions, references, no_answer=False)
    assert scores == {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2)}
    with pytest.raises(ValueError, match="question 2 has no answers"):
        squad_scores(predictions, [references[0], {**references[1], "answers": []}], no_answer=False)


def test_squad_v2_at_the_fixed_threshold_and_at_the_best():
    scores = _v2(
        ("dog", -4.0, ["dog"]),  # right
        ("big cat", -3.0, ["cat"]),  # f1 2/3
        ("bird", -2.0, []),  # answered, but has none
        ("cow", 1.0, ["cow"]),  # refused at 0, right at the best threshold
        ("hen", 2.0, []),  # refused, right
        ("pig", 3.0, []),  # refused, right
    )
    assert scores["exact_match"] == pytest.approx(100 * 3 / 6)
    assert scores["f1"] == pytest.approx(100 * (3 + 2 / 3) / 6)
    assert scores["has_answer_f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)
    assert scores["no_answer_accuracy"] == pytest.approx(100 * 2 / 3)
    # f1, from refusing all (3) on: 4, 4.667, 3.667, 4.667 (no better), 3.667, 2.667
    assert scores["best_f1"] == pytest.approx(100 * (4 + 2 / 3) / 6)
    assert scores["best_f1_threshold"] == -3.0
    assert scores["best_exact_match"] == pytest.approx(100 * 4 / 6)


def test_an_answer_at_exactly_the_threshold_is_given():
    assert _v2(("dog", 0.0, ["dog"]))["f1"] == 100.0
    assert _v2(("dog", 1e-9, ["dog"]))["f1"] == 0.0


def test_answers_that_normalise_to_nothing_do_not_count_as_answers():
    assert _v2(("dog", -1.0, ["the", "dog"]), ("x", 1.0, []))["f1"] == 100.0


def test_an_article_alone_is_a_wrong_answer_in_the_threshold_search_only():
    scores = _v2(("the", -1.0, []), ("dog", 0.0, ["dog"]))
    assert scores["f1"] == 100.0 and scores["best_f1"] == 50.0


def test_groups_without_questions_have_no_score():
    assert "no_answer_accuracy" not in _v2(("dog", 0.0, ["dog"]))
    assert "has_answer_f1" not in _v2(("dog", 0.0, []))


def test_the_best_threshold_gives_the_best_score():
    draw = random.Random(0)
    for _ in range(200):
        questions = [
            (draw.choice(["big dog", "cat"]), float(draw.randint(-3, 3)), draw.choice([[], ["dog"], ["cat"]]))
            for _ in range(draw.randint(1, 12))
        ]
        scores = _v2(*questions)
        threshold = scores["best_f1_threshold"]
        moved = _v2(*((text, difference - threshold, answers) for text, difference, answers in questions))
        assert moved["f1"] == pytest.approx(scores["best_f1"])
        by_hand = [
            _v2(*((text, difference - t, answers) for text, difference, answers in questions))["f1"]
            for t in (-4, -3, -2, -1, 0, 1, 2, 3)
        ]
        assert scores["best_f1"] == pytest.approx(max(by_hand))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        _v2(("dog", math.nan, []))
    with pytest.raises(ValueError, match="1 predictions for 0 references"):
        squad_scores([{"text": ""}], [], no_answer=False)
    with pytest.raises(ValueError, match="no examples"):
        squad_scores([], [], no_answer=True)


def _questions(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in the shared data folder")
    articles = json.loads(gzip.decompress(path.read_bytes()))["data"]
    return [
        {"id": q["id"], "context": p["context"], "answers": [a["text"] for a in q["answers"]]}
        for article in articles
        for p in article["paragraphs"]
        for q in p["qas"]
    ]


def perfect(gold: list[dict], references: list[dict], language: str = "en") -> dict[str, float]:
    """The scores of right answers: as in the official scripts, F1 is 0 where nothing is left of the answer ("The")."""
    left = sum(bool(normalize(answer["text"], language)) for answer in gold)
    assert left >= len(references) - 2
    return {"exact_match": 100.0, "f1": pytest.approx(100 * left / len(references), abs=0, rel=1e-12)}


def test_gold_answers_score_100_on_real_squad_v1():
    references = _questions("squad1/dev-v1.1-answerable-half.json.gz")
    gold = [{"text": reference["answers"][-1]} for reference in references]
    assert squad_scores(gold, references, no_answer=False) == perfect(gold, references)


def test_gold_answers_score_100_on_real_squad_v2_and_refusing_all_scores_the_share_without_answers():
    references = _questions("squad2/dev-v2.0.json.gz")
    gold = [
        {"text": r["answers"][0], "null_difference": -1.0} if r["answers"] else {"text": "x", "null_difference": 1.0}
        for r in references
    ]
    scores = squad_scores(gold, references, no_answer=True)
    assert scores.pop("best_f1_threshold") == -1.0
    assert set(scores.values()) == {100.0} and len(scores) == 6
    refused = [{"text": "x", "null_difference": 1.0}] * len(references)
    impossible = sum(not r["answers"] for r in references)
    scores = squad_scores(refused, references, no_answer=True)
    assert scores["f1"] == scores["exact_match"] == scores["best_f1"] == 100 * impossible / len(references)
    assert scores["no_answer_accuracy"] == 100.0 and scores["has_answer_f1"] == 0.0


@pytest.mark.parametrize("language", ["en", "es", "de", "ar", "hi", "vi", "zh"])
def test_gold_answers_score_100_on_real_mlqa(language):
    references = _questions(f"mlqa/dev/dev-context-{language}-question-{language}.json.gz")
    gold = [{"text": reference["answers"][0]} for reference in references]
    rules = "mlqa-en" if language == "en" else language
    assert squad_scores(gold, references, no_answer=False, language=rules) == perfect(gold, references, rules)


@pytest.mark.parametrize("task", ["xquad", "mlqa", "tydiqa"])
def test_the_golden_scores_of_xtreme(task):
    """XTREME scores XQuAD and TyDi QA by SQuAD's rules in every language, and MLQA by its own."""
    folder = DATA / "xtreme_mock"
    if not folder.exists():
        pytest.skip("xtreme_mock is not in the shared data folder")
    expected = json.loads((folder / "expected.json").read_text())["xtreme"][task]
    scores = []
    for path in sorted((folder / "labels" / task).glob("*.json")):
        language = path.stem.removeprefix("test-")
        rules = "en" if task != "mlqa" else "mlqa-en" if language == "en" else language
        found = json.loads((folder / "predictions" / task / path.name).read_text())
        questions = [q for a in json.loads(path.read_text())["data"] for p in a["paragraphs"] for q in p["qas"]]
        references = [{"id": q["id"], "answers": [a["text"] for a in q["answers"]]} for q in questions]
        predictions = [{"text": found[q["id"]]} for q in questions]
        scores.append(squad_scores(predictions, references, no_answer=False, language=rules))
    for metric in ("exact_match", "f1"):
        mean = sum(score[metric] for score in scores) / len(scores)
        assert mean == pytest.approx(expected[f"avg_{metric}"])
