"""XTREME's layout: what is written is read back, and what is malformed is named."""

import json

import pytest

from trainer.errors import UserError
from trainer.evaluation.submission import languages_of, layout_of, read_language, write_language
from trainer.tasks.spec import Task
from trainer.tasks.xtreme import TARGETS

EXAMPLES = {  # predictions, references, and the items both are read back as
    "xnli": (["neutral", "entailment"], [{"id": "1", "label": "neutral"}, {"id": "2", "label": "contradiction"}],
             ["neutral", "entailment"], ["neutral", "contradiction"]),
    "panx": ([["O", "B-PER"], ["O"]], [{"id": "1", "words": ["a", "b"], "tags": ["O", "O"]},
                                       {"id": "2", "words": ["c"], "tags": ["B-LOC"]}],
             [["O", "B-PER"], ["O"]], [["O", "O"], ["B-LOC"]]),
    "xquad": ([{"text": "308", "logit": 1.5}, {"text": ""}],
              [{"id": "q1", "context": "...", "answers": ["308", "308 points"]}, {"id": "q2", "answers": ["été"]}],
              {"q1": "308", "q2": ""}, {"q1": ["308", "308 points"], "q2": ["été"]}),
    "xcopa": ([0, 1], [{"id": "1", "label": 1}, {"id": "2", "label": 1}], [0, 1], [1, 1]),
    "tatoeba": ([3, 0], [3, 1], ["3", "0"], ["3", "1"]),
    "bucc2018": ([("de-1", "en-7")], [("de-1", "en-7"), ("de-2", "en-9")],
                 [("de-1", "en-7")], [("de-1", "en-7"), ("de-2", "en-9")]),
    "lareqa": ([["en_1", "de_4"], ["de_2", "en_1"]],
               [{"id": "q1", "answers": ["de_4"]}, {"id": "q2", "answers": ["en_1", "fr_1"]}],
               {"q1": ["en_1", "de_4"], "q2": ["de_2", "en_1"]}, {"q1": ["de_4"], "q2": ["en_1", "fr_1"]}),
}  # fmt: skip


def test_every_target_has_a_layout_and_so_has_a_task_of_ones_own():
    assert {name: layout_of(task).suffix for name, task in TARGETS.items()} == {
        "xnli": "tsv", "pawsx": "tsv", "udpos": "tsv", "panx": "tsv", "xquad": "json", "mlqa": "json", "tydiqa": "json",
        "xcopa": "jsonl", "bucc2018": "tsv", "tatoeba": "tsv", "lareqa": "json",
    }  # fmt: skip
    assert layout_of(Task("mine", "token_tagging")).suffix == "tsv"


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_written_is_read_back(name, tmp_path):
    predictions, references, found, gold = EXAMPLES[name]
    task = TARGETS[name]
    write_language(tmp_path, task, "de", predictions, references)
    folders = tmp_path / "predictions" / name, tmp_path / "labels" / name
    assert [languages_of(folder, task) for folder in folders] == [["de"], ["de"]]
    assert read_language(*folders, task, "de") == (found, gold)


def test_tags_have_an_empty_line_between_sentences(tmp_path):
    predictions, references, *_ = EXAMPLES["panx"]
    write_language(tmp_path, TARGETS["panx"], "de", predictions, references)
    assert (tmp_path / "predictions/panx/test-de.tsv").read_text() == "O\nB-PER\n\nO\n"


def test_no_mined_pair_at_all_is_a_prediction(tmp_path):
    write_language(tmp_path, TARGETS["bucc2018"], "de", [], [("de-1", "en-7")])
    folders = tmp_path / "predictions/bucc2018", tmp_path / "labels/bucc2018"
    assert read_language(*folders, TARGETS["bucc2018"], "de") == ([], [("de-1", "en-7")])


FAULTS = {  # what is wrong with the predictions -> task, their text, what the error says
    "too few": ("xnli", "neutral\n", "has 1 predictions for 2 labels"),
    "empty line": ("xnli", "neutral\n\nentailment\n", "test-de.tsv:2: the line is empty"),
    "too few sentences": ("panx", "O\nO\n", "has 1 predictions for 2 labels"),
    "too few tags": ("panx", "O\n\nO\n", "sentence 1 has 1 tags for 2 labels"),
    "words beside tags": ("panx", "a\tO\nb\tO\n\nc\tO\n", "test-de.tsv:1: 'a\\\\tO' is not a tag"),
    "one question short": ("xquad", '{"q1": "308"}', "has 1 predictions for 2 labels"),
    "another question": ("xquad", '{"q1": "308", "q3": "x"}', "no prediction for 1 questions: q2"),
    "not texts": ("xquad", '{"q1": 308, "q2": "x"}', "not an object with a text for each question id"),
    "broken JSON": ("xquad", '{"q1": "308",\n', "test-de.json:2: malformed JSON"),
    "no labels": ("xcopa", '{"label": 1}\n{"answer": 1}\n', 'test-de.jsonl:2: not an object with a number as "label"'),
    "broken JSON line": ("xcopa", '{"label": 1}\n{"label"', "test-de.jsonl:2: malformed JSON"),
    "one id a line": ("bucc2018", "de-1 en-7\n", "test-de.tsv:1: not two ids with a tab between"),
    "texts for rankings": ("lareqa", '{"q1": "en_1", "q2": "de_1"}', "a list of ids for each question id"),
    "not UTF-8": ("xnli", b"neutral\n\xff\n", "cannot read .*test-de.tsv"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_predictions_are_one_clear_error(fault, tmp_path):
    name, text, message = FAULTS[fault]
    write_language(tmp_path, TARGETS[name], "de", *EXAMPLES[name][:2])
    folder = tmp_path / "predictions" / name
    (path,) = folder.iterdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        read_language(folder, tmp_path / "labels" / name, TARGETS[name], "de")
    assert caught.value.fix


def test_labels_must_be_in_squads_layout(tmp_path):
    write_language(tmp_path, TARGETS["mlqa"], "de", *EXAMPLES["xquad"][:2])
    labels = tmp_path / "labels" / "mlqa"
    (labels / "test-de.json").write_text(json.dumps({"q1": "308"}))
    with pytest.raises(UserError, match="not in SQuAD's layout"):
        read_language(tmp_path / "predictions" / "mlqa", labels, TARGETS["mlqa"], "de")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="test-de.tsv is missing"):
        read_language(tmp_path, tmp_path, TARGETS["xnli"], "de")


@pytest.mark.parametrize("name", ["test-de.txt", "dev-de.tsv", "README"])
def test_unknown_files_are_refused(name, tmp_path):
    (tmp_path / name).write_text("")
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(UserError, match=f"unknown file .*{name}") as caught:
        languages_of(tmp_path, TARGETS["xnli"])
    assert "test-LANGUAGE.tsv" in caught.value.why


def test_a_task_without_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        languages_of(tmp_path, TARGETS["xnli"])
