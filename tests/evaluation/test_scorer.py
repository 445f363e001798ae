"""XTREME's mock predictions score as its own script says; bad folders are one clear error each."""

import json
import shutil

import pytest

from trainer.cli import run_command
from trainer.errors import UserError
from trainer.evaluation.results import summarise
from trainer.evaluation.scorer import TASKS, bucc_f1, mean_average_precision, score_folders

LANGUAGES = {"bucc2018": 4, "mewslix": 11, "mlqa": 7, "panx": 40, "pawsx": 7, "tatoeba": 36, "tydiqa": 9, "udpos": 33,
             "xnli": 15, "xquad": 11}  # fmt: skip


@pytest.fixture
def mock(real_data):
    folder = real_data / "xtreme_mock"
    if not folder.is_dir():
        pytest.skip("no xtreme_mock among the real data")
    return folder


def test_golden(mock):
    """Every task and metric that evaluate_test.py of google-research/xtreme has figures of."""
    results, others = score_folders(mock / "predictions", mock / "labels")
    summary = summarise(results)
    assert {name: task["averaged_over"] for name, task in summary["tasks"].items()} == LANGUAGES and others == []
    expected = json.loads((mock / "expected.json").read_text())
    compared = 0
    for version in expected.values():
        for name, figures in version.items():
            for metric, value in figures.items():
                found = summary["tasks"][name]["averages"][metric.removeprefix("avg_")]
                assert found == pytest.approx(value, abs=1e-9), (name, metric)
                compared += 1
    assert compared == 24


def test_golden_averages_over_tasks(mock):
    """By hand from the expected figures: a question answering task counts by the mean of its two metrics."""
    summary = summarise(score_folders(mock / "predictions", mock / "labels")[0])
    expected = json.loads((mock / "expected.json").read_text())
    one = {name: next(iter(f.values())) for version in expected.values() for name, f in version.items()}
    one |= {
        n: (f["avg_f1"] + f["avg_exact_match"]) / 2 for n, f in expected["xtreme"].items() if "avg_exact_match" in f
    }
    assert len(one) == 10
    assert summary["total"] == pytest.approx(sum(one.values()) / 10)
    assert summary["groups"]["qa"] == pytest.approx((one["xquad"] + one["mlqa"] + one["tydiqa"]) / 3)
    retrieval = one.pop("bucc2018"), one.pop("tatoeba"), one.pop("mewslix")
    assert summary["retrieval"] == pytest.approx(sum(retrieval) / 3)
    assert summary["non_retrieval"] == pytest.approx(sum(one.values()) / 7)


def test_the_command_prints_and_writes_the_scores(mock, tmp_path, capfd):
    shutil.copytree(mock / "predictions" / "pawsx", tmp_path / "predictions" / "pawsx")
    out = tmp_path / "scores.json"
    assert run_command(["score", str(tmp_path / "predictions"), str(mock / "labels"), "--out", str(out)]) == 0
    printed = capfd.readouterr().out
    assert "51.43" in printed
    assert "not scored, for want of predictions: xnli, udpos" in printed.replace("\n", " ")
    written = json.loads(out.read_text())
    assert written["tasks"]["pawsx"]["average"] == pytest.approx(51.42857142857143)
    assert "xquad" in written["unscored"] and "pawsx" not in written["unscored"]


@pytest.fixture
def folders(tmp_path):
    """Predictions and labels of two tasks in two languages."""
    files = {"xnli/test-{}.tsv": "neutral\nentailment\n", "xquad/test-{}.json": '{"q": "cat"}'}
    gold = {"xquad/test-{}.json": '{"data": [{"paragraphs": [{"qas": [{"id": "q", "answers": [{"text": "cat"}]}]}]}]}'}
    for kind, texts in (("predictions", files), ("labels", files | gold)):
        for name, text in texts.items():
            for code in ("de", "en"):
                path = tmp_path / kind / name.format(code)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    return tmp_path / "predictions", tmp_path / "labels"


def test_perfect_predictions(folders):
    results, others = score_folders(*folders)
    assert (
        results["xnli"].languages["en"].scores == {"accuracy": 100.0} and results["xnli"].languages["en"].examples == 2
    )
    assert results["xquad"].languages["de"].scores == {"exact_match": 100.0, "f1": 100.0, "mean": 100.0}
    assert others == []


def remove_prediction(predictions, labels):
    (predictions / "xnli" / "test-de.tsv").unlink()


def remove_label(predictions, labels):
    (labels / "xnli" / "test-de.tsv").unlink()


def cut_predictions(predictions, labels):
    (predictions / "xnli" / "test-de.tsv").write_text("neutral\n")


def add_file(predictions, labels):
    (predictions / "xquad" / "notes.txt").write_text("")


def add_task(predictions, labels):
    (predictions / "xnly").mkdir()


def add_stray_file(predictions, labels):
    (predictions / "scores.json").write_text("{}")


def remove_labels(predictions, labels):
    shutil.rmtree(labels / "xnli")


def remove_all_predictions(predictions, labels):
    shutil.rmtree(predictions)
    predictions.mkdir()


def remove_folder(predictions, labels):
    shutil.rmtree(labels)


def empty_both(predictions, labels):
    for folder in (predictions, labels):
        (folder / "xnli" / "test-de.tsv").write_text("")


FAULTS = {
    remove_prediction: "predictions/xnli lacks test-de.tsv",
    remove_label: "labels/xnli lacks test-de.tsv",
    cut_predictions: "test-de.tsv has 1 predictions for 2 labels",
    add_file: "unknown file .*notes.txt",
    add_task: "xnly is no task of XTREME's",
    add_stray_file: "scores.json is no task of XTREME's",
    remove_labels: "no labels of xnli",
    remove_all_predictions: "holds no task",
    remove_folder: "labels is no folder",
    empty_both: "cannot score xnli in de",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_bad_folders_are_one_clear_error(fault, folders, capfd):
    fault(*folders)
    with pytest.raises(UserError, match=FAULTS[fault]):
        score_folders(*folders)
    assert run_command(["score", *map(str, folders)]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and "next: " in error and "Traceback" not in error


def test_the_command_says_what_is_wrong(folders, capfd):
    add_task(*folders)
    assert run_command(["score", *map(str, folders)]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and "did you mean 'xnli'?" in error and "Traceback" not in error


def test_bucc_by_hand():
    gold = [("de-1", "en-1"), ("de-2", "en-2"), ("de-3", "en-3"), ("de-4", "en-4")]
    scores = bucc_f1([("de-1", "en-1"), ("de-1", "en-1"), ("de-2", "en-3")], gold)
    assert scores == {"f1": pytest.approx(100 / 3), "precision": 50.0, "recall": 25.0}
    assert bucc_f1([], gold) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    with pytest.raises(ValueError, match="no gold pairs"):
        bucc_f1(gold, [])


def test_mean_average_precision_by_hand():
    assert mean_average_precision([["a", "b"]], [["b"]]) == 50.0
    assert mean_average_precision([["a", "x", "b"]], [["a", "b"]]) == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert mean_average_precision([["a", "x"], ["x"]], [["a", "b"], ["c"]]) == pytest.approx(100 * (1 / 2 + 0) / 2)
    assert mean_average_precision([["a", "a", "x", "b"]], [["a", "b"]]) == 100 * (1 + 2 / 4) / 2, "a counts once"
    assert mean_average_precision([["a", "a"]], [["a", "a"]]) == 100.0
    late = [str(i) for i in range(20)] + ["gold"]
    assert mean_average_precision([late], [["gold"]]) == 0.0, "only the first 20 count"
    for rankings, gold, message in (([], [], "no questions"), ([["a"]], [[]], "no right candidate")):
        with pytest.raises(ValueError, match=message):
            mean_average_precision(rankings, gold)


def test_mewslix_is_scored_although_nothing_reads_its_data():
    assert TASKS["mewslix"].group == "retrieval" and len(TASKS["mewslix"].languages) == 11
