import pytest

from tests.ui.test_tables import WIDTHS, render
from trainer.ui.tables import group_table, layer_table, target_table

LANGUAGES = "af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te".split()
PANX = {code: {"f1": 40 + i / 7, "precision": 50.0, "examples": 100 + i} for i, code in enumerate(LANGUAGES)}
SUMMARY = {
    "tasks": {
        "panx": {"group": "structured", "metric": "f1", "average": 61.428,
                 "averages": {"f1": 61.428, "precision": 50.0}, "averaged_over": len(LANGUAGES), "languages": PANX,
                 "skipped": {"yo": "no test files", "th": "no test files", "zh": "no test examples"},
                 "skipped_details": {"yo": "looked for yo/test", "th": "looked for th/test"},
                 "notes": ["scored by the head of panx"]},
        "tatoeba": {"group": "retrieval", "metric": "accuracy", "average": 7.5, "averages": {"accuracy": 7.5},
                    "averaged_over": 1, "languages": {"de": {"accuracy": 7.5, "examples": 1000}}, "skipped": {},
                    "notes": []},
        "bucc2018": {"group": "retrieval", "metric": "f1", "average": None, "averages": {}, "averaged_over": 0,
                     "languages": {}, "skipped": {"zh": "no file"}, "notes": []},
    },
    "groups": {"structured": 61.428, "retrieval": 7.5},
    "group_tasks": {"structured": ["panx"], "retrieval": ["tatoeba"]},
    "total": 34.464, "retrieval": 7.5, "non_retrieval": 61.428,
}  # fmt: skip


@WIDTHS
def test_every_language_stands_beside_its_score(width):
    words = render(target_table(SUMMARY, "scores of x"), width).split()
    for code, found in PANX.items():
        assert f"{code}={found['f1']:.2f}" in words
    assert "61.43" in words and str(len(LANGUAGES)) in words and "precision=50.00" in words


def test_what_was_skipped_is_said_with_its_reason():
    text = render(target_table(SUMMARY), 120)
    assert "skipped yo, th: no test files (e.g. looked for yo/test)" in text and "th/test" not in text
    assert "skipped zh: no test examples" in text and "skipped zh: no file" in text
    assert "scored by the head of panx" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("bucc2018")]
    assert row[1:3] == ["-", "0"], "no average over no language"


@WIDTHS
def test_groups_say_what_they_are_the_mean_of(width):
    rows = {line.split()[0]: line.split()[1:] for line in render(group_table(SUMMARY), width).splitlines()[2:] if line}
    assert rows["structured"] == ["61.43", "panx"]
    assert rows["total"] == ["34.46", "2", "tasks"] and rows["non-retrieval"] == ["61.43", "1", "task"]


def test_nothing_scored_is_no_number():
    nothing = {"tasks": {}, "groups": {}, "group_tasks": {}, "total": None, "retrieval": None, "non_retrieval": None}
    rows = {line.split()[0]: line.split()[1:] for line in render(group_table(nothing)).splitlines()[2:] if line}
    assert rows["total"] == rows["non-retrieval"] == ["-", "0", "tasks"]


@pytest.mark.parametrize("width", [80, 120])
def test_layers(width):
    sweep = {
        "pooling": "mean", "layers": [0, 1, 2], "default_layer": 1,
        "tasks": {"tatoeba": {"metric": "accuracy", "average": [10.0, 55.56, 20.0], "best_layer": 1, "languages": {}}},
    }  # fmt: skip
    text = render(layer_table(sweep, "by layer"), width)
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "10.00"] in rows and ["1*", "55.56"] in rows and "(* XTREME's)" in text
