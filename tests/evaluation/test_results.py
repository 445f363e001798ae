import json

import pytest

from trainer.errors import UserError
from trainer.evaluation.results import (
    LanguageResult,
    Skipped,
    TargetResult,
    alike,
    check_writable,
    skipped_from_json,
    summarise,
    write_results,
)
from trainer.tasks.spec import Task


def target(name: str, group: str, metric: str, scores: dict[str, dict], **options) -> TargetResult:
    task = Task(name, "pair_classification", labels=("yes", "no"), group=group, metric=metric)
    return TargetResult(task, {code: LanguageResult(found, 10) for code, found in scores.items()}, **options)


def answers(name: str) -> TargetResult:
    """One language whose prediction and reference are written as labels."""
    result = target(name, "sentence_pair", "accuracy", {"de": {"accuracy": 0.0}})
    result.languages["de"].predictions, result.languages["de"].references = ["yes"], [{"id": "1", "label": "no"}]
    return result


SKIPPED = {"hu": Skipped("no files", "hu/test"), "yo": Skipped("no examples"), "id": Skipped("no files", "id/test")}
RESULTS = {
    "xnli": target("xnli", "sentence_pair", "accuracy", {"en": {"accuracy": 90.0}, "de": {"accuracy": 70.0}}),
    "panx": target("panx", "structured", "f1", {"en": {"f1": 60.0, "recall": 50.0}}, skipped=SKIPPED),
    "xquad": target("xquad", "qa", "mean", {"en": {"f1": 80.0, "exact_match": 60.0, "mean": 70.0}}),
    "mlqa": target("mlqa", "qa", "mean", {"en": {"f1": 50.0, "exact_match": 30.0, "mean": 40.0}}, notes=["cut 3"]),
    "tatoeba": target("tatoeba", "retrieval", "accuracy", {"de": {"accuracy": 10.0}, "fr": {"accuracy": 30.0}}),
    "bucc2018": target("bucc2018", "retrieval", "f1", {}, skipped={"de": Skipped("no gold pairs")}),
}  # fmt: skip


def test_averages_are_over_languages_then_tasks():
    summary = summarise(RESULTS)
    averages = {name: task["average"] for name, task in summary["tasks"].items()}
    assert averages == {"xnli": 80, "panx": 60, "xquad": 70, "mlqa": 40, "tatoeba": 20, "bucc2018": None}
    assert summary["groups"] == {"sentence_pair": 80, "structured": 60, "qa": 55, "retrieval": 20}
    assert summary["group_tasks"]["qa"] == ["xquad", "mlqa"]
    assert summary["total"] == (80 + 60 + 70 + 40 + 20) / 5, "over tasks, not groups"
    assert (summary["retrieval"], summary["non_retrieval"]) == (20, (80 + 60 + 70 + 40) / 4)
    assert summary["tasks"]["xquad"]["averages"] == {"f1": 80, "exact_match": 60, "mean": 70}


def test_a_skipped_language_is_named_and_in_no_average():
    panx = summarise(RESULTS)["tasks"]["panx"]
    assert panx["skipped"] == {"hu": "no files", "yo": "no examples", "id": "no files"} and panx["averaged_over"] == 1
    assert panx["skipped_details"] == {"hu": "hu/test", "id": "id/test"}
    assert panx["languages"] == {"en": {"f1": 60.0, "recall": 50.0, "examples": 10}}
    assert skipped_from_json(json.loads(json.dumps(panx))) == SKIPPED
    assert skipped_from_json({"skipped": {"yo": "no examples"}}) == {"yo": Skipped("no examples")}


def test_languages_skipped_for_one_reason_are_told_together():
    assert alike(SKIPPED.items()) == [(["hu", "id"], "no files (e.g. hu/test)"), (["yo"], "no examples")]
    assert alike([("hu", SKIPPED["hu"]), ("hu", SKIPPED["hu"])]) == [(["hu"], "no files (hu/test)")]
    assert alike([]) == []


def test_averages_over_nothing_are_null():
    summary = summarise({"bucc2018": RESULTS["bucc2018"]})
    assert summary["groups"] == {} and summary["total"] is summary["retrieval"] is summary["non_retrieval"] is None


def test_a_metric_that_a_language_lacks_has_no_average():
    result = target("x", "", "f1", {"en": {"f1": 1.0, "has_answer_f1": 2.0}, "de": {"f1": 3.0}})
    assert result.averages == {"f1": 2.0}
    assert summarise({"x": result})["groups"] == {"other": 2.0}


def test_results_are_written_and_replace_earlier_ones_whole(tmp_path):
    out = tmp_path / "evaluation"
    write_results(out, {"first": answers("first")}, {})
    (out / "mine.txt").write_text("kept")
    path = write_results(out, {"xnli": answers("xnli")}, {"model": "runs/x/export"})
    written = json.loads(path.read_text())
    assert path == out / "scores.json" and written["about"]["model"] == "runs/x/export"
    assert written["tasks"]["xnli"]["average"] == 0 and "first" not in written["tasks"]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "labels/xnli/test-de.tsv", "mine.txt", "predictions/xnli/test-de.tsv", "scores.json"
    ]  # fmt: skip
    assert (out / "predictions/xnli/test-de.tsv").read_text() == "yes\n"


def test_folders_that_belong_to_no_evaluation_are_never_replaced(tmp_path):
    (tmp_path / "labels").mkdir()
    for write in (lambda: check_writable(tmp_path), lambda: write_results(tmp_path, {"x": answers("x")}, {})):
        with pytest.raises(UserError, match="labels exists and belongs to no evaluation"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught:
        check_writable(tmp_path / "file" / "below")
    assert "--out" in caught.value.fix
