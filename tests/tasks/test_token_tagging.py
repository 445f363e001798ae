import dataclasses

import numpy as np
import pytest

from tests.tasks.formats import encode, examples_of, one_hot, place, score_of_gold
from trainer.tasks import FORMATS
from trainer.tasks.intermediate import CCG
from trainer.tasks.xtreme import PANX

KIND = FORMATS["token_tagging"]
ROWS = [
    {"id": "a", "words": ["the", "cat", "xyz", "sat"], "tags": ["NP/N", "N", "N", "S"]},
    {"id": "b", "words": "a dog".split(), "tags": "NP/N N".split()},
]
TASK = dataclasses.replace(CCG, labels=("N", "NP/N", "S"))


def test_the_training_split_defines_the_tags():
    assert KIND.labels(example for example in examples_of(ROWS, CCG)) == TASK.labels


@pytest.mark.parametrize("words", [["the"], []])
def test_bad_rows_are_refused(words):
    with pytest.raises(ValueError, match="words"):
        KIND.example({"words": words, "tags": ["N", "N"]}, CCG)


def test_rows_are_first_pieces(tiny_tokenizer):
    (unit, _), counts = encode(examples_of(ROWS, TASK), TASK, tiny_tokenizer)
    assert unit.sequences == [tiny_tokenizer("the cat xyz sat")["input_ids"]]
    assert tiny_tokenizer.convert_ids_to_tokens([unit.sequences[0][i] for i in unit.rows]) == "▁the ▁cat ▁ ▁sat".split()
    assert unit.target == [1, 0, 0, 2] and not counts


def test_words_get_their_space_under_a_byte_level_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["the cat xyz sat"] * 9, trainer)
    tokenizer = RobertaTokenizerFast(tokenizer_object=backend)
    (unit,), _ = encode(examples_of(ROWS[:1], TASK), TASK, tokenizer)
    assert unit.sequences == [tokenizer("the cat xyz sat")["input_ids"]]
    assert len(unit.rows) == 4


def test_no_word_vanishes(tiny_tokenizer):
    rows = [{"words": ["the", "", "cat"], "tags": ["NP/N", "N", "X"]}]
    (unit,), counts = encode(examples_of(rows, TASK), TASK, tiny_tokenizer)
    assert unit.sequences[0][unit.rows[1]] == tiny_tokenizer.unk_token_id
    assert unit.target == [1, 0, -1] and counts == {"empty_words": 1, "unseen_tags": 1}


def test_long_sentences_split_between_words(tiny_tokenizer):
    task = dataclasses.replace(TASK, max_length=8)
    words = ["the", "cat", "xyz", "sat", "abcdefghij", "in"]
    rows = [{"words": words, "tags": ["N"] * 6}, ROWS[1]]
    units, counts = encode(examples_of(rows, task), task, tiny_tokenizer)
    assert [unit.example for unit in units] == [0, 0, 0, 0, 1]
    assert [len(unit.rows) for unit in units[:4]] == [3, 1, 1, 1]
    assert max(len(unit.sequences[0]) for unit in units) == 8
    assert counts == {"split": 1, "truncated": 1}


def test_gold_logits_score_100_and_parts_are_joined(tiny_tokenizer):
    task = dataclasses.replace(TASK, max_length=8)
    examples = examples_of([ROWS[0] | {"words": ["the", "cats", "xyz", "sat"]}, ROWS[1]], task)
    units, _ = encode(examples, task, tiny_tokenizer)
    assert len(units) == 3
    arrays = KIND.collate(place(units), task)
    assert arrays["owner"].tolist() == sum(([i] * len(unit.rows) for i, unit in enumerate(units)), [])
    assert arrays["units"].tolist() == [3]
    assert arrays["rows"][len(units[0].rows)] == len(units[0].sequences[0]) + 1
    predictions, scores = score_of_gold(one_hot(arrays["target"], 3), units, examples, task)
    assert predictions == [["NP/N", "N", "N", "S"], ["NP/N", "N"]]
    assert scores == {"accuracy": 100.0}


def test_unseen_tags_and_missing_words_count_as_wrong():
    references = [{"tags": ["N", "X"]}, {"tags": ["N", "N"]}]
    assert KIND.score([["N", "N"], ["N"]], references, TASK) == {"accuracy": 50.0}


def test_no_units():
    arrays = KIND.collate([], TASK)
    assert {name: array.shape for name, array in arrays.items()} == {
        "rows": (0,),
        "target": (0,),
        "owner": (0,),
        "units": (1,),
    }
    assert KIND.split(np.zeros((0, 3), np.float32), []) == []


def test_entities_are_scored_for_tasks_of_that_metric():
    task = dataclasses.replace(PANX, labels=("O", "B-PER", "I-PER"))
    references = [{"tags": ["B-PER", "I-PER", "O"]}, {"tags": ["O", "B-PER"]}]
    scores = KIND.score([["B-PER", "I-PER", "B-PER"], ["O"]], references, task)
    assert scores == {"accuracy": 60.0, "f1": 50.0, "precision": 50.0, "recall": 50.0}
    assert task.metric in KIND.metrics(task) and set(scores) == set(KIND.metrics(task))
