import dataclasses

import numpy as np
import pytest

from tests.tasks.formats import encode, examples_of, place, score_of_gold
from trainer.tasks import FORMATS
from trainer.tasks.intermediate import HELLASWAG, commonsense_qa_row, hellaswag_row

KIND = FORMATS["multiple_choice"]
ROWS = [
    {"prompt": "the cat sat in the house and", "choices": ["ran", "a dog", "was blue", "is"], "label": "2"},
    {"prompt": "a man", "choices": ["in the city", "ran", "sat", "the red dog"], "label": "D"},
    {"prompt": "a man", "choices": ["in the city", "ran", "sat", "the red dog"], "label": ""},
    {"prompt": "a woman", "choices": ["in", "ran", "sat", "the"], "label": 0},
]


def test_labels_are_indices_digits_or_letters():
    assert [example["label"] for example in examples_of(ROWS, HELLASWAG)] == [2, 3, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a", "b"]}, "2 options instead of 4"),
        ({"choices": ["a", "b", "", "d"]}, "option 2 is empty"),
        ({"label": 4}, "none of the 4 options"),
        ({"label": "E"}, "none of the 4 options"),
        ({"label": None}, "none of the 4 options"),
        ({"prompt": ""}, "prompt is empty"),
    ],
)
def test_bad_rows_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        KIND.example(ROWS[0] | change, HELLASWAG)


def test_sequences_are_what_the_tokenizer_makes_of_the_pairs(tiny_tokenizer):
    examples = examples_of(ROWS, HELLASWAG)
    units, counts = encode(examples, HELLASWAG, tiny_tokenizer)
    for unit, example in zip(units, examples, strict=True):
        expected = [tiny_tokenizer(example["prompt"], choice)["input_ids"] for choice in example["choices"]]
        assert unit.sequences == expected
    assert not counts


def test_a_long_prompt_keeps_its_end_and_the_choice_stays_whole(tiny_tokenizer):
    task = dataclasses.replace(HELLASWAG, max_length=9)
    rows = [ROWS[0] | {"choices": ["ran", "in the city", "the dog ran in the house", "is"]}]
    (unit,), counts = encode(examples_of(rows, task), task, tiny_tokenizer)
    ids = tiny_tokenizer.convert_tokens_to_ids
    assert unit.sequences[0] == ids("<s> ▁in ▁the ▁house ▁and </s> </s> ▁ran </s>".split())
    assert unit.sequences[1] == ids("<s> ▁house ▁and </s> </s> ▁in ▁the ▁city </s>".split())
    assert unit.sequences[2] == ids("<s> </s> </s> ▁the ▁dog ▁ran ▁in ▁the </s>".split())
    assert counts == {"truncated": 1}
    assert tiny_tokenizer.truncation_side == "right"


def test_gold_logits_score_100(tiny_tokenizer):
    examples = examples_of(ROWS, HELLASWAG)
    units, _ = encode(examples, HELLASWAG, tiny_tokenizer)
    arrays = KIND.collate(place(units), HELLASWAG)
    assert arrays["rows"].shape == (12,) and arrays["target"].tolist() == [2, 3, 0]
    sequences = [len(sequence) for unit in units for sequence in unit.sequences]
    assert arrays["rows"].tolist() == np.cumsum([0, *sequences[:-1]]).tolist()
    logits = np.zeros((12, 1))
    logits[np.arange(3) * 4 + arrays["target"]] = 1
    predictions, scores = score_of_gold(logits, units, examples, HELLASWAG)
    assert predictions == [2, 3, 0] and scores == {"accuracy": 100.0}


def test_no_units():
    arrays = KIND.collate([], HELLASWAG)
    assert arrays["rows"].shape == (0,) and KIND.split(np.zeros((0, 1), np.float32), []) == []


def test_hellaswag_with_and_without_halves():
    whole = {"ind": 3, "ctx": "A man sits. he", "endings": ["runs."], "label": 0}
    halves = whole | {"ctx_a": "A man sits.", "ctx_b": "he"}
    assert hellaswag_row(halves) == {"id": 3, "prompt": "A man sits.", "choices": ["he runs."], "label": 0}
    assert hellaswag_row(whole) == {"id": 3, "prompt": "A man sits. he", "choices": ["runs."], "label": 0}


def test_commonsense_qa_original_and_hub_rows_agree():
    options = {"A": "bank", "B": "mall"}
    nested = [{"label": label, "text": text} for label, text in options.items()]
    original = {"id": "x", "answerKey": "B", "question": {"stem": "Where?", "choices": nested}}
    hub = {"id": "x", "answerKey": "B", "question": "Where?"}
    hub["choices"] = {"label": list(options), "text": list(options.values())}
    assert commonsense_qa_row(original) == commonsense_qa_row(hub)
    assert commonsense_qa_row(hub)["label"] == 1
