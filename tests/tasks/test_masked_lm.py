"""From lines of text to sequences and scores."""

import dataclasses
import gzip
import math

import numpy as np
import pytest

from tests.tasks.formats import encode, examples_of
from trainer.config import DataSection, RunConfig
from trainer.data.sources import iter_examples
from trainer.errors import UserError
from trainer.tasks import FORMATS, known_tasks, load_tasks
from trainer.tasks.masked_lm import masked_tokens
from trainer.tasks.mlm import LANGUAGES, MLM
from trainer.tasks.spec import PlacedUnit

KIND = FORMATS["masked_lm"]
SHORT = dataclasses.replace(MLM, max_length=16)


def encoded(texts, tokenizer, task=SHORT):
    return encode([{"id": str(i), "text": text} for i, text in enumerate(texts)], task, tokenizer)


def test_a_line_is_a_sequence(tiny_tokenizer):
    units, counts = encoded(["the cat sat", "dog"], tiny_tokenizer)
    expected = tiny_tokenizer(["the cat sat", "dog"])["input_ids"]
    assert [unit.sequences for unit in units] == [[ids] for ids in expected]
    assert [unit.example for unit in units] == [0, 1] and not counts
    assert [unit.target for unit in units] == [[1], [1]]


def test_a_long_line_becomes_sequences_of_nearly_equal_length(tiny_tokenizer):
    words = "the cat sat in a house and the dog ran to the red city in blue"
    units, counts = encoded([f"{words} {words}", "cat"], tiny_tokenizer)
    whole = tiny_tokenizer(f"{words} {words}", add_special_tokens=False)["input_ids"]
    parts = [unit.sequences[0] for unit in units[:-1]]
    assert [piece for part in parts for piece in part[1:-1]] == whole
    sizes = [len(part) for part in parts]
    assert max(sizes) <= 16 and max(sizes) - min(sizes) <= 1
    assert len(parts) == math.ceil(len(whole) / 14)
    assert all(part[0] == 0 and part[-1] == 2 for part in parts)
    assert [unit.example for unit in units] == [0] * len(parts) + [1] and counts == {"split": 1}


@pytest.mark.parametrize("maskable, expected", [(1, 1), (3, 1), (9, 1), (10, 2), (20, 3), (100, 15), (254, 38)])
def test_fifteen_per_cent_but_at_least_one(maskable, expected):
    assert masked_tokens(maskable) == expected


def test_the_target_counts_ordinary_tokens(tiny_tokenizer):
    """Unknown characters are the unknown token, which is no word to predict; a literal <mask> is a special token."""
    units, counts = encoded(["the cat sat <mask> 漢", "</s>"], tiny_tokenizer, MLM)
    assert len(units) == 1 and counts == {"nothing_to_mask": 1}
    ordinary = [token for token in units[0].sequences[0] if token not in tiny_tokenizer.all_special_ids]
    assert units[0].target == [masked_tokens(len(ordinary))]
    assert 3 in units[0].sequences[0] and 4 in units[0].sequences[0]


def test_blank_texts_are_dropped_and_other_things_refused():
    assert examples_of([{"text": "a"}, {"text": " "}, {"text": ""}], MLM) == [{"id": "", "text": "a"}]
    with pytest.raises(ValueError, match="text is missing"):
        KIND.example({}, MLM)
    with pytest.raises(ValueError, match="text is not text"):
        KIND.example({"text": ["a"]}, MLM)


def placed(start, size, rows, target):
    sizes = np.array([size], np.int32)
    return PlacedUnit(np.array([start]), sizes, np.array(target, np.int32), np.array(rows, np.int32))


def test_collate_points_at_masked_tokens_and_weighs_units_equally():
    arrays = KIND.collate([placed(0, 8, [2, 5], [30, 31]), placed(8, 4, [1], [40])], MLM)
    assert arrays["rows"].tolist() == [2, 5, 9] and arrays["rows"].dtype == np.int64
    assert arrays["target"].tolist() == [30, 31, 40] and arrays["target"].dtype == np.int64
    assert arrays["weight"].tolist() == [0.5, 0.5, 1.0] and arrays["weight"].dtype == np.float32


def test_collate_of_nothing():
    arrays = KIND.collate([], MLM)
    assert {name: value.shape for name, value in arrays.items()} == dict.fromkeys(("rows", "target", "weight"), (0,))


def test_scores_by_hand():
    """Two texts, the first in two sequences: 4 masked tokens, 3 right, a mean cross-entropy of 5 / 4."""
    outputs = np.array([[1.0, 1], [2.0, 0], [0.5, 1], [1.5, 1]], np.float32)
    stored = [placed(0, 9, [], [2]), placed(0, 5, [], [1]), placed(0, 5, [], [1])]
    parts = KIND.split(outputs, stored)
    assert [part.tolist() for part in parts] == [outputs[:2].tolist(), outputs[2:3].tolist(), outputs[3:].tolist()]
    references = [{"id": "a"}, {"id": "b"}, {"id": "without a unit"}]
    predictions = KIND.decode(parts, np.array([0, 0, 1]), [], references, MLM)
    assert predictions == [(3.5, 2, 3), (1.5, 1, 1), (0.0, 0, 0)]
    scores = KIND.score(predictions, references, MLM)
    assert scores == {"accuracy": pytest.approx(75.0), "perplexity": pytest.approx(math.exp(5 / 4))}
    assert MLM.metric in KIND.metrics(MLM) and set(KIND.metrics(MLM)) <= set(scores)


def test_a_hopeless_model_has_an_infinite_perplexity():
    assert KIND.score([(1e6, 0, 10)], [{}], MLM) == {"accuracy": 0.0, "perplexity": math.inf}
    assert KIND.split(np.empty((0, 2)), []) == []


def rows_of(task, split, data):
    return [(place.rsplit("/", 1)[-1], row["text"]) for place, row in iter_examples(task, split, data)]


def test_files_by_language(tmp_path):
    folder = tmp_path / "mlm"
    folder.mkdir()
    (folder / "en.txt").write_text("A text.\n\nAnother\twith a tab.\n")
    (folder / "de.jsonl").write_text('{"text": "Ein Text."}\n{"text": "Noch einer.", "id": "x"}\n')
    (folder / "de.dev.txt.gz").write_bytes(gzip.compress("Zum Prüfen.\n".encode()))
    data, german = DataSection(source="files", folder=str(tmp_path)), MLM.in_language("de")
    assert rows_of(MLM, "train", data) == [("en.txt:1", "A text."), ("en.txt:3", "Another\twith a tab.")]
    assert rows_of(german, "train", data) == [("de.jsonl:1", "Ein Text."), ("de.jsonl:2", "Noch einer.")]
    assert rows_of(german, "dev", data) == [("de.dev.txt.gz:1", "Zum Prüfen.")]
    with pytest.raises(UserError, match="a file of mlm") as caught:
        rows_of(MLM, "dev", data)
    assert "en.dev.txt" in caught.value.why


def test_paths_of_a_recipe_may_hold_the_language(tmp_path):
    for code in ("en", "de"):
        (tmp_path / f"wiki.{code}.txt").write_text(f"{code} text\n")
    data = DataSection(source="files", files={"mlm": {"train": (str(tmp_path / "wiki.{language}.txt"),)}})
    for task in (MLM, MLM.in_language("de")):
        assert rows_of(task, "train", data) == [(f"wiki.{task.language}.txt:1", f"{task.language} text")]


def test_languages_are_variants_of_one_task():
    assert "mlm" in known_tasks() and len(set(LANGUAGES)) == 24
    names = tuple("mlm" if code == "en" else f"mlm-{code}" for code in LANGUAGES)
    tasks = load_tasks(RunConfig(tasks=names))
    assert tuple(tasks) == names
    assert {task.head or task.name for task in tasks.values()} == {"mlm"}
    assert {task.hub_parts("train")[0].config for task in tasks.values()} == {f"20231101.{code}" for code in LANGUAGES}
