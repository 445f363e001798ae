"""Means, deviations, averages and differences: figures worked out by hand."""

import dataclasses
import json

import pytest

from tests.study.conftest import LAUNCHER
from trainer.errors import UserError
from trainer.evaluation.results import Skipped
from trainer.study.plan import target_tasks
from trainer.study.results import (
    Statistic,
    collect,
    differences_grid,
    languages_grid,
    read_scores,
    remarks,
    scores_grid,
    statistic,
)
from trainer.study.run import run_cells

# Two seeds. XNLI is in the group sentence_pair, PANX in structured.
FIGURES = {
    "tiny-none-xnli-seed1": {"xnli": 60.0},
    "tiny-none-xnli-seed2": {"xnli": 62.0},
    "tiny-none-panx-seed1": {"panx": 50.0},
    "tiny-none-panx-seed2": {"panx": 54.0},
    "tiny-none-tatoeba": {"tatoeba": 20.0},
    "tiny-mnli-xnli-seed1": {"xnli": 64.0},
    "tiny-mnli-xnli-seed2": {"xnli": 70.0},
    "tiny-mnli-panx-seed1": {"panx": 49.0},
    "tiny-mnli-panx-seed2": {"panx": 51.0},
    "tiny-mnli-tatoeba-seed1": {"tatoeba": 30.0},
    "tiny-mnli-tatoeba-seed2": {"tatoeba": 34.0},
}
NONE, MNLI = ("tiny", "none"), ("tiny", "mnli")


@pytest.fixture
def study_with(cells_of, calls, tmp_path, monkeypatch):
    """The small study, run with these figures; its results when only some cells are taken for done."""
    (tmp_path / "figures.json").write_text(json.dumps(FIGURES))
    monkeypatch.setenv("FAKE_SCORES", str(tmp_path / "figures.json"))
    study, cells = cells_of()
    run_cells(list(cells.values()), LAUNCHER, lambda line: None)

    def results(without=()):
        done = [name for name in cells if name not in without]
        return collect(study, target_tasks(study), list(cells.values()), done)

    return results


def figures(grid, row):
    found = {column: grid.values.get((row, column)) for column in grid.columns}
    return {k: s and (round(s.mean, 3), s.std and round(s.std, 3), s.n) for k, s in found.items()}


def test_scores_and_averages(study_with):
    grid = scores_grid(study_with())
    assert grid.columns == (
        "xnli", "panx", "tatoeba", "sentence_pair", "structured", "non-retrieval", "retrieval", "total",
    )  # fmt: skip
    assert grid.averages == 5 and grid.rows == (NONE, MNLI)
    assert figures(grid, NONE) == {
        "xnli": (61.0, 1.414, 2),
        "panx": (52.0, 2.828, 2),
        "tatoeba": (20.0, None, 1),
        "sentence_pair": (61.0, 1.414, 2),
        "structured": (52.0, 2.828, 2),
        "non-retrieval": (56.5, 2.121, 2),  # 55 and 58
        "retrieval": (20.0, None, 1),
        "total": (44.333, 1.414, 2),  # 130 / 3 and 136 / 3
    }
    assert figures(grid, MNLI) == {
        "xnli": (67.0, 4.243, 2),
        "panx": (50.0, 1.414, 2),
        "tatoeba": (32.0, 2.828, 2),
        "sentence_pair": (67.0, 4.243, 2),
        "structured": (50.0, 1.414, 2),
        "non-retrieval": (58.5, 2.828, 2),  # 56.5 and 60.5
        "retrieval": (32.0, 2.828, 2),
        "total": (49.667, 2.828, 2),  # 143 / 3 and 155 / 3
    }


def test_differences_are_taken_seed_by_seed(study_with):
    grid = differences_grid(study_with())
    assert grid.rows == (MNLI,) and grid.signed
    assert figures(grid, MNLI) == {
        "xnli": (6.0, 2.828, 2),  # 4 and 8
        "panx": (-2.0, 1.414, 2),  # -1 and -3
        "tatoeba": (12.0, 2.828, 2),  # 10 and 14, less the one baseline
        "sentence_pair": (6.0, 2.828, 2),
        "structured": (-2.0, 1.414, 2),
        "non-retrieval": (2.0, 0.707, 2),  # 1.5 and 2.5
        "retrieval": (12.0, 2.828, 2),
        "total": (5.333, 1.414, 2),  # 13 / 3 and 19 / 3
    }


def test_what_is_missing_is_missing_and_averages_with_it(study_with):
    results = study_with(without=["tiny-mnli-panx-seed2", "tiny-none-tatoeba"])
    scores = scores_grid(results)
    assert scores.values[MNLI, "panx"] == Statistic(49.0, None, 1, 2)
    assert scores.values[MNLI, "total"] == Statistic(pytest.approx(143 / 3), None, 1, 2)
    assert (NONE, "tatoeba") not in scores.values and (NONE, "total") not in scores.values
    assert scores.values[NONE, "non-retrieval"].n == 2
    differences = differences_grid(results)
    assert differences.values[MNLI, "panx"] == Statistic(-1.0, None, 1, 2)
    assert (MNLI, "tatoeba") not in differences.values and (MNLI, "total") not in differences.values
    assert remarks(results)[:2] == ["missing: tatoeba of tiny none", "missing: panx of tiny mnli (seeds 2)"]


def test_skipped_languages_are_told(study_with):
    assert remarks(study_with()) == ["not scored: panx in sw: its file is empty"]
    results = study_with()
    place = ("tiny", "none"), "panx"
    whole = dataclasses.replace(results.found[place][1], skipped={})
    found = {**results.found, place: {**results.found[place], 1: whole}}
    [line] = remarks(dataclasses.replace(results, found=found))
    assert line == "not scored: panx in sw (3 of 4 cells): its file is empty"


def test_languages_without_files_are_told_in_one_line_a_task(study_with):
    results = study_with()
    missing = {code: Skipped("no test files", f"looked for panx/{code}/test") for code in ("hu", "id", "it")}
    found = {
        place: {seed: dataclasses.replace(scores, skipped=missing) for seed, scores in seeds.items()}
        for place, seeds in results.found.items()
        if place[1] == "panx"
    }
    lines = remarks(dataclasses.replace(results, found={**results.found, **found}))
    assert lines == ["not scored: panx in hu, id, it: no test files (e.g. looked for panx/hu/test)"]
    place = ("tiny", "none"), "panx"
    some = {**missing, "it": Skipped("no test examples")}
    found[place][1] = dataclasses.replace(found[place][1], skipped=some)
    assert remarks(dataclasses.replace(results, found={**results.found, **found})) == [
        "not scored: panx in hu, id: no test files (e.g. looked for panx/hu/test)",
        "not scored: panx in it (1 of 4 cells): no test examples",
        "not scored: panx in it (3 of 4 cells): no test files (looked for panx/it/test)",
    ]


def test_cells_are_compared_over_the_languages_that_all_of_them_have(study_with, tmp_path):
    """mnli's XNLI of seed 1 without German, whose figures are 65 and, in the baseline, 61 of English."""
    path = tmp_path / "study" / "cells" / "tiny-mnli-xnli-seed1" / "evaluation" / "scores.json"
    scores = json.loads(path.read_text())
    del scores["tasks"]["xnli"]["languages"]["de"]
    scores["tasks"]["xnli"] |= {"average": 65.0, "skipped": {"de": "no test files"}}
    path.write_text(json.dumps(scores))
    results = study_with()
    assert figures(scores_grid(results), NONE)["xnli"] == (62.0, 1.414, 2)  # 61 and 63
    differences = figures(differences_grid(results), MNLI)
    assert differences["xnli"] == differences["sentence_pair"] == (6.0, 2.828, 2)  # 4 and 8
    assert differences["panx"] == (-2.0, 1.414, 2)
    languages = figures(languages_grid(results, "xnli"), MNLI)
    assert (languages["de"], languages["average"]) == ((69.0, None, 1), (68.0, 4.243, 2))
    assert remarks(results) == [
        "not scored: xnli in de (1 of 4 cells): no test files",
        "averaged without: xnli in de, which not all of its cells have",
        "not scored: panx in sw: its file is empty",
        "once those test files are there, evaluate again: xstilts study STUDY --redo tiny-mnli-xnli-seed1",
    ]
    scores["tasks"]["xnli"] |= {"average": None, "languages": {}}
    path.write_text(json.dumps(scores))  # missing as a whole, so that it takes no language from the others
    assert figures(scores_grid(study_with()), NONE)["xnli"] == (61.0, 1.414, 2)


def test_languages_of_a_target(study_with):
    grid = languages_grid(study_with(), "xnli")
    assert grid.columns == ("de", "en", "average")
    assert figures(grid, MNLI) == {"de": (66.0, 4.243, 2), "en": (68.0, 4.243, 2), "average": (67.0, 4.243, 2)}


def test_without_a_baseline_there_are_no_differences(cells_of):
    study, cells = cells_of(intermediate={"mnli": {"recipe": "launch/recipes/demo.yaml"}})
    assert differences_grid(collect(study, target_tasks(study), list(cells.values()), [])) is None


def test_another_baseline(study_with, cells_of):
    study, cells = cells_of(baseline="mnli")
    grid = differences_grid(collect(study, target_tasks(study), list(cells.values()), list(cells)))
    assert grid.rows == (NONE,)
    assert figures(grid, NONE)["tatoeba"] == (-12.0, 2.828, 2)


def test_sample_standard_deviation():
    assert statistic([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).std == pytest.approx((32 / 7) ** 0.5)
    assert statistic([3.0]) == Statistic(3.0, None, 1, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not what an evaluation writes"),
        ('{"tasks": {"tatoeba": {"metric": "accuracy"}}}', "is not what an evaluation writes"),
        ('{"tasks": {}}', "has no scores of tatoeba"),
        (
            '{"tasks": {"tatoeba": {"metric": "m", "average": NaN, "languages": {}, "skipped": {}}}}',
            "is not what an evaluation writes",
        ),
        (None, "cannot be read"),
    ],
)
def test_bad_score_files_are_named(cells_of, text, said):
    cell = cells_of()[1]["tiny-none-tatoeba"]
    cell.scores.parent.mkdir(parents=True)
    if text is not None:
        cell.scores.write_text(text)
    with pytest.raises(UserError, match=said):
        read_scores(cell)
