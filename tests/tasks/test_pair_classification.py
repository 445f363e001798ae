import dataclasses

import numpy as np
import pytest

from tests.tasks.formats import encode, examples_of, one_hot, place, score_of_gold
from trainer.tasks import FORMATS
from trainer.tasks.intermediate import ANLI_PLUS, QQP
from trainer.tasks.spec import Task

KIND = FORMATS["pair_classification"]
ROWS = [
    {"id": 1, "first": "the cat sat", "second": "a cat was in the house", "label": "e"},
    {"id": 2, "first": "the dog ran", "second": "the dog sat", "label": "contradiction"},
    {"id": 3, "first": "the man ran", "second": "a woman", "label": "-"},
    {"id": 4, "first": "a red house", "second": "a house in the city", "label": "neutral"},
]


def test_labels_resolve_by_name_and_unlabelled_rows_drop():
    labels = [KIND.example(row, ANLI_PLUS) for row in ROWS]
    assert [e and e["label"] for e in labels] == ["entailment", "contradiction", None, "neutral"]
    assert KIND.example({"first": "a", "second": "b", "label": 1}, QQP)["label"] == "duplicate"
    assert KIND.example({"first": "a", "second": "b", "label": -1}, QQP) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": "0"}, "label '0' is none of"), ({"label": None}, "missing"), ({"second": " "}, "second is empty")],
)
def test_bad_rows_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        KIND.example(ROWS[0] | change, ANLI_PLUS)


def test_sequences_are_the_tokenizers_own_and_cuts_are_counted(tiny_tokenizer):
    examples = examples_of(ROWS, ANLI_PLUS)
    units, counts = encode(examples, ANLI_PLUS, tiny_tokenizer)
    assert units[0].sequences == [tiny_tokenizer("the cat sat", "a cat was in the house")["input_ids"]]
    assert units[0].types is None and units[0].rows == [] and not counts
    assert [unit.example for unit in units] == [0, 1, 2]
    short = dataclasses.replace(ANLI_PLUS, max_length=10)
    units, counts = encode(examples, short, tiny_tokenizer)
    assert max(len(unit.sequences[0]) for unit in units) == 10
    assert counts == {"truncated": 2}


def test_types_where_the_model_takes_them(tiny_tokenizer):
    names = tiny_tokenizer.model_input_names
    tiny_tokenizer.model_input_names = [*names, "token_type_ids"]
    try:
        (unit,), _ = encode(examples_of(ROWS[:1], ANLI_PLUS), ANLI_PLUS, tiny_tokenizer)
    finally:
        tiny_tokenizer.model_input_names = names
    assert len(unit.types[0]) == len(unit.sequences[0])


def test_gold_logits_score_100(tiny_tokenizer):
    examples = examples_of(ROWS, ANLI_PLUS)
    units, _ = encode(examples, ANLI_PLUS, tiny_tokenizer)
    arrays = KIND.collate(place(units), ANLI_PLUS)
    lengths = [len(unit.sequences[0]) for unit in units]
    assert arrays["rows"].tolist() == [0, lengths[0], lengths[0] + lengths[1]]
    predictions, scores = score_of_gold(one_hot(arrays["target"], 3), units, examples, ANLI_PLUS)
    assert predictions == ["entailment", "contradiction", "neutral"]
    assert scores == {"accuracy": 100.0}


def test_f1_is_that_of_the_second_label():
    gold = [{"id": str(i), "label": label} for i, label in enumerate(("duplicate", "duplicate", "not_duplicate"))]
    scores = KIND.score(["duplicate", "not_duplicate", "not_duplicate"], gold, QQP)
    assert scores == pytest.approx({"accuracy": 200 / 3, "f1": 200 / 3})
    assert KIND.score(["duplicate"] * 3, gold, QQP) == pytest.approx({"accuracy": 200 / 3, "f1": 80.0})


def test_a_task_without_second_is_of_single_texts(tiny_tokenizer):
    task = Task("sst", "pair_classification", {"first": ("text",), "label": ("label",)}, labels=("bad", "good"))
    (unit,), _ = encode(examples_of([{"first": "the cat", "label": "good"}], task), task, tiny_tokenizer)
    assert unit.sequences == [tiny_tokenizer("the cat")["input_ids"]] and unit.target == [1]


def test_no_units():
    arrays = KIND.collate([], QQP)
    assert arrays["rows"].shape == (0,) and arrays["rows"].dtype == np.int64
    assert KIND.split(np.zeros((0, 2), np.float32), []) == []
