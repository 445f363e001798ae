import random

import pytest

from trainer.evaluation.entities import entities, entity_f1


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-PER I-PER O", [("PER", 1, 2)]),
        ("B-PER B-PER I-LOC", [("PER", 0, 0), ("PER", 1, 1), ("LOC", 2, 2)]),
        ("I-PER I-PER I-LOC O I-LOC", [("PER", 0, 1), ("LOC", 2, 2), ("LOC", 4, 4)]),  # a run may begin with I-
        ("B-PER O I-PER", [("PER", 0, 0), ("PER", 2, 2)]),
        ("S-PER I-PER E-PER I-PER", [("PER", 0, 0), ("PER", 1, 2), ("PER", 3, 3)]),
        ("B-WORK-OF-ART I-WORK-OF-ART", [("WORK-OF-ART", 0, 1)]),
        ("O O", []),
        ("", []),
        # bare tags, as XTREME scores parts of speech: equal neighbours are one entity
        ("DET NOUN NOUN VERB", [("DET", 0, 0), ("NOUN", 1, 2), ("VERB", 3, 3)]),
        # but S acts as the prefix of single tags, so each of these is one
        ("SCONJ SCONJ SYM", [("SCONJ", 0, 0), ("SCONJ", 1, 1), ("SYM", 2, 2)]),
        ("INTJ INTJ NOUN INTJ", [("INTJ", 0, 1), ("NOUN", 2, 2), ("INTJ", 3, 3)]),
        ("CCONJ SCONJ X X", [("CCONJ", 0, 0), ("SCONJ", 1, 1), ("X", 2, 3)]),
    ],
)
def test_entities(tags, found):
    assert list(entities(tags.split())) == found


def test_scores_pool_all_sentences():
    gold = ["B-PER I-PER O B-LOC".split(), "O B-ORG".split(), "O O".split()]
    found = ["B-PER I-PER O B-ORG".split(), "O O".split(), "B-LOC O".split()]
    scores = entity_f1(found, gold)  # 1 right of 3 predicted, of 3 there are
    assert scores == pytest.approx({"f1": 100 / 3, "precision": 100 / 3, "recall": 100 / 3})
    scores = entity_f1([["O", "O"], *found[1:2]], [["B-PER", "O"], *gold[1:2]])
    assert scores == {"f1": 0, "precision": 0, "recall": 0}
    assert entity_f1(gold, gold) == {"f1": 100, "precision": 100, "recall": 100}


def test_an_entity_must_be_right_as_a_whole():
    assert entity_f1([["B-PER", "O"]], [["B-PER", "I-PER"]])["f1"] == 0
    assert entity_f1([["B-PER", "I-PER"]], [["B-LOC", "I-LOC"]])["f1"] == 0


def test_entities_do_not_cross_sentences():
    split, joined = entity_f1([["NOUN"], ["NOUN"]], [["NOUN"], ["VERB"]]), entity_f1([["NOUN"] * 2], [["NOUN", "VERB"]])
    assert split["f1"] == 50 and joined["f1"] == 0


def test_bare_tags_that_do_not_repeat_are_scored_as_words():
    """Where no tag stands beside itself in either, F1 is token accuracy: a check that knows nothing of prefixes."""
    rng, tags = random.Random(0), ["NOUN", "VERB", "DET", "SYM", "INTJ", "ADJ", "X"]
    gold = [rng.choice(tags)]
    while len(gold) < 200:
        gold.append(rng.choice([tag for tag in tags if tag != gold[-1]]))
    found = list(gold)
    for i in range(2, 198, 4):
        found[i] = rng.choice([tag for tag in tags if tag not in gold[i - 1 : i + 2]])
    accuracy = 100 * sum(p == g for p, g in zip(found, gold, strict=True)) / len(gold)
    assert entity_f1([found], [gold])["f1"] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("found", "gold", "message"),
    [
        ([["O"]], [["O", "O"]], "sentence 0: 1 predicted tags for 2 words"),
        ([["O"]], [["O"], ["O"]], "1 predictions for 2"),
        ([], [], "no examples"),
        ([["O", ""]], [["O", "O"]], "tag of word 1 is empty"),
    ],
)
def test_bad_input(found, gold, message):
    with pytest.raises(ValueError, match=message):
        entity_f1(found, gold)
