"""The third phase on the built-in sample: train on English, evaluate in many languages, alone and on several ranks."""

import json
import shutil

import pytest

from tests.launching import DEMO, finish, start_ranks, xstilts
from trainer.config import DataSection
from trainer.data.sources import sample_folder

pytestmark = pytest.mark.slow
TASKS = "xnli,panx,xquad,xcopa,tatoeba"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sample's files with one German sentence of WikiANN and none in French, as overrides."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(sample_folder(DataSection(store=str(folder))), folder / "files")
    german, french = (folder / "files" / "panx" / code / "test" for code in ("de", "fr"))
    german.write_text(german.read_text().split("\n\n")[0] + "\n")
    french.write_text("")
    return ["data.source=files", f"data.folder={folder / 'files'}", f"data.store={folder / 'store'}"]


@pytest.fixture(scope="module")
def export(data, tmp_path_factory):
    """A few steps on four tasks."""
    runs = tmp_path_factory.mktemp("runs")
    command = ["train", DEMO, *data, f"run.folder={runs}", "tasks=[mnli,panx,squad_v1,copa]", "train.steps=6",
               "checkpoint.every_steps=6", "evaluation.end_limit=4", "log.every_steps=100"]  # fmt: skip
    done = xstilts(*command, timeout=480)
    assert done.returncode == 0, done.stderr
    return runs / "demo" / "export"


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_any_number_of_ranks_gives_the_same_predictions_and_scores(export, data, tmp_path):
    found = {}
    for processes in (1, 2, 3):
        out = tmp_path / str(processes)
        command = ["evaluate", export, "--tasks", TASKS, "--out", out, *data]
        printed = finish(start_ranks(list(map(str, command)), processes))
        assert printed.count("written: ") == 1, "by one rank"
        found[processes] = contents(out)
    assert found[2] == found[1] and found[3] == found[1]
    written = json.loads(found[1]["scores.json"])
    assert list(written["tasks"]) == TASKS.split(",")
    panx = written["tasks"]["panx"]
    assert panx["languages"]["de"]["examples"] == 1 and "fr" not in panx["languages"]
    assert "fr/test has no rows" in panx["skipped_details"]["fr"] and panx["averaged_over"] == 7
    assert panx["skipped"]["fr"] == "no test examples" and panx["skipped"]["hu"] == "no test files"
    assert panx["average"] == pytest.approx(sum(scores["f1"] for scores in panx["languages"].values()) / 7)
    assert "skipped fr: " in printed
    swahili = found[1]["predictions/xnli/test-sw.tsv"].splitlines()
    assert len(swahili) == written["tasks"]["xnli"]["languages"]["sw"]["examples"]


def test_the_scorer_gives_the_same_scores(export, data, tmp_path):
    out, again = tmp_path / "out", tmp_path / "again.json"
    done = xstilts("evaluate", export, "--tasks", "panx,xquad,xcopa,tatoeba,bucc2018,lareqa", "--out", out, *data)
    assert done.returncode == 0, done.stderr
    done = xstilts("score", out / "predictions", out / "labels", "--out", again)
    assert done.returncode == 0, done.stderr
    ours, theirs = (json.loads(path.read_text()) for path in (out / "scores.json", again))
    assert theirs["tasks"].keys() == ours["tasks"].keys()
    for name, task in theirs["tasks"].items():
        for code, scores in task["languages"].items():
            expected = ours["tasks"][name]["languages"][code]
            assert scores == pytest.approx({metric: expected[metric] for metric in scores}), (name, code)
    for average in ("total", "retrieval", "non_retrieval"):
        assert theirs[average] == pytest.approx(ours[average])


def test_a_run_is_evaluated_as_its_export_is(export, data, tmp_path):
    for model, out in ((export, "export"), (export.parent, "run")):
        command = [
            "evaluate",
            model,
            "--tasks",
            "xquad,tatoeba",
            "--languages",
            "de,tr",
            "--out",
            tmp_path / out,
            *data,
        ]
        done = xstilts(*command)
        assert done.returncode == 0, done.stderr
    live, exported = contents(tmp_path / "run"), contents(tmp_path / "export")
    scores = [json.loads(files.pop("scores.json")) for files in (live, exported)]
    assert live == exported and scores[0]["tasks"] == scores[1]["tasks"]
    assert set(scores[0]["tasks"]["xquad"]["languages"]) == {"de", "tr"}
    assert scores[0]["about"]["checkpoint"].endswith("step-6") and scores[1]["about"]["checkpoint"] is None


def test_an_export_needs_none_of_its_training_data(export, data, tmp_path):
    """Elsewhere: only the test files are there, and nothing is prepared."""
    files = tmp_path / "files"
    shutil.copytree(
        data[1].partition("=")[2] + "/xcopa",
        files / "xcopa",
        ignore=lambda _, names: {n for n in names if "test" not in n},
    )
    overrides = ["data.source=files", f"data.folder={files}", f"data.store={tmp_path / 'store'}"]
    done = xstilts("evaluate", export, "--tasks", "xcopa", *overrides)
    assert done.returncode == 0, done.stderr
    assert json.loads((export / "evaluation" / "scores.json").read_text())["tasks"]["xcopa"]["average"] is not None
    shutil.rmtree(export / "evaluation")
