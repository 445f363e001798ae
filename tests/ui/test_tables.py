import io

import pytest
from rich.console import Console

from trainer.tasks.spec import HubPart, Task
from trainer.ui.tables import prepare_table, score_table, tasks_table

WIDTHS = pytest.mark.parametrize("width", [80, 100, 120])
LONG = "a_task_of_my_own_with_a_very_long_name"
LENGTHS = {"p50": 231, "p90": 358, "p99": 384, "max": 512}
ROWS = [
    {"task": "anli_plus", "split": "train", "examples": 1104934, "units": 1104934, "tokens": 44215430, **LENGTHS,
     "counts": {"truncated": 1203, "dropped": 785}, "vocabulary": 182034, "state": "prepared"},
    {"task": "anli_plus", "split": "dev", "examples": 22857, "units": 22857, "tokens": 915430, **LENGTHS,
     "counts": {}, "vocabulary": 42034, "state": "up to date"},
    {"task": "commonsense_qa", "split": "train", "examples": 9741, "units": 9741, "tokens": 1215430, **LENGTHS,
     "counts": {}, "vocabulary": 32034, "state": "up to date"},
    {"task": LONG, "split": "train", "examples": 130319, "units": 131944, "tokens": 10122215430, **LENGTHS,
     "counts": {"truncated": 12, "dropped": 1104935, "windows": 131943, "answer_outside_window": 3210},
     "vocabulary": 250002, "state": "up to date"},
]  # fmt: skip
V2 = {"exact_match": 71.234, "f1": 100.0, "best_exact_match": 78.21, "best_f1": 82.31, "best_f1_threshold": -13.21,
      "has_answer_f1": 81.2, "no_answer_accuracy": 79.2}  # fmt: skip


def render(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    return text


@WIDTHS
def test_prepare_table_keeps_every_number_whole(width):
    text = render(prepare_table(ROWS), width)
    words = text.split()
    for row in ROWS:
        for key in ("examples", "units", "tokens", "vocabulary"):
            assert f"{row[key]:,}" in words
        for n in row["counts"].values():
            assert f"{n:,}" in words
    assert words.count("231/358") == words.count("384/512") == len(ROWS)
    assert "train, prepared" in text and "dev, up to date" in text


def test_prepare_table_puts_each_number_under_its_heading():
    header, first, second = (
        [line.split() for line in render(prepare_table(ROWS[:1]), 120).splitlines()[i : i + n]]
        for i, n in ((0, 3), (4, 1), (5, 1))
    )
    assert header[1] == ["task", "examples", "tokens", "p50/p90", "truncated"]
    assert first == [["anli_plus", "1,104,934", "44,215,430", "231/358", "1,203"]]
    assert header[2] == ["split,", "state", "units", "vocabulary", "p99/max", "dropped", "other", "counts"]
    assert second == [["train,", "prepared", "1,104,934", "182,034", "384/512", "785"]]


@WIDTHS
def test_score_table_has_the_headline_first_and_every_value_beside_its_metric(width):
    scores = {"qqp": {"accuracy": 91.234, "f1": 88.1}, "squad_v2": V2, LONG: {"accuracy": 5.0}}
    sizes = {"qqp": 40430, "squad_v2": 11873}
    text = render(score_table(scores, {"qqp": "f1", "squad_v2": "f1"}, "dev scores", sizes), width)
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["dev", "scores"]
    assert rows[1] == ["task", "score", "metric", "examples", "other", "metrics"]
    assert ["qqp", "88.10", "f1", "40,430", "accuracy=91.23"] in rows
    assert next(row for row in rows if row[0] == "squad_v2")[1:4] == ["100.00", "f1", "11,873"]
    assert next(row for row in rows if row[0] == LONG[:20])[1:4] == ["5.00", "accuracy", "-"]
    for metric, value in V2.items():
        assert metric == "f1" or f"{metric}={value:.2f}" in text.split()


def test_score_table_refuses_a_headline_that_was_not_scored():
    with pytest.raises(ValueError, match="qqp has no score 'f1', only accuracy"):
        score_table({"qqp": {"accuracy": 1.0}}, {"qqp": "f1"})


@WIDTHS
def test_tasks_table_names_everything_of_a_task(width):
    glue = (HubPart("nyu-mll/glue", "train", "mnli"),)
    tasks = {
        "mnli": Task(
            "mnli", "pair_classification", labels=("entailment", "neutral", "contradiction"),
            hub={"train": glue, "dev": (HubPart("nyu-mll/glue", "validation_matched", "mnli"),)},
            files={"train": (("multinli_1.0_train.jsonl", "train.jsonl"),)},
        ),
        "commonsense_qa": Task("commonsense_qa", "multiple_choice", choices=5),
        "pos": Task("pos", "token_tagging", labels=tuple("ABCDEF"), metric="f1"),
    }  # fmt: skip
    text = render(tasks_table(tasks), width)
    for expected in ("mnli", "pair classification", "accuracy", "entailment", "neutral", "contradiction", "f1",
                     "nyu-mll/glue:mnli", "multinli_1.0_train.jsonl", "5 options", "6 labels"):  # fmt: skip
        assert expected in text
    assert text.count("nyu-mll/glue:mnli") == 1
