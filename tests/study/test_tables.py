"""Tables and the heat map show the grid's numbers, whole, and what is missing as missing."""

import csv
import io

from rich.console import Console

from trainer.study import plot
from trainer.study.results import Grid, Statistic
from trainer.study.tables import as_csv, latex, markdown, terminal_tables

NONE, MNLI = ("xlmr_base", "none"), ("xlmr_base", "mnli")
COLUMNS = ("xnli", "tatoeba", "non-retrieval", "total")
VALUES = {
    (NONE, "xnli"): Statistic(61.0, 1.41421, 2, 2),
    (MNLI, "xnli"): Statistic(66.95, 4.24264, 2, 2),
    (NONE, "tatoeba"): Statistic(20.0, None, 1, 1),
    (MNLI, "tatoeba"): Statistic(32.0, None, 1, 2),
    (NONE, "non-retrieval"): Statistic(61.0, 1.41421, 2, 2),
}
GRID = Grid("scores", (NONE, MNLI), COLUMNS, VALUES, averages=2)


def rendered(grid, width=80):
    console = Console(width=width, record=True, file=io.StringIO())
    for table in terminal_tables(grid):
        console.print(table)
    return console.export_text()


def test_markdown():
    lines = markdown(GRID, ["missing: total"]).splitlines()
    assert "| intermediate | xnli | tatoeba | non-retrieval | total |" in lines
    assert "| none | 61.0 ± 1.4 | 20.0 | **61.0 ± 1.4** | missing |" in lines
    assert "| mnli | **67.0 ± 4.2** | **32.0 (1 of 2)** | missing | missing |" in lines
    assert lines[-1] == "- missing: total"


def test_csv_leaves_missing_fields_empty():
    rows = list(csv.DictReader(io.StringIO(as_csv(GRID))))
    assert [row["statistic"] for row in rows] == ["mean", "std", "n"] * 2
    assert rows[3]["xnli"] == "66.9500" and rows[4]["xnli"] == "4.2426" and rows[5]["xnli"] == "2"
    assert rows[3]["total"] == rows[4]["total"] == "" and rows[5]["total"] == "0"
    assert rows[1]["tatoeba"] == ""


def test_latex():
    text = latex(GRID)
    assert "\\begin{tabular}{lrr|rr}" in text
    assert "\\multicolumn{5}{l}{xlmr\\_base} \\\\" in text
    assert "none & $61.0_{\\pm 1.4}$ & $20.0$ & $\\mathbf{61.0}_{\\pm 1.4}$ & \\textit{missing} \\\\" in text
    assert text.count("{") == text.count("}")


def test_differences_carry_their_sign():
    signed = Grid("differences", (MNLI,), ("xnli", "panx"), {(MNLI, "xnli"): Statistic(6.0, 1.0, 2, 2),
                  (MNLI, "panx"): Statistic(-2.04, 1.0, 2, 2)}, signed=True)  # fmt: skip
    assert "| mnli | +6.0 ± 1.0 | -2.0 ± 1.0 |" in markdown(signed)
    assert "+6.0" in rendered(signed) and "-2.0" in rendered(signed)


def test_the_terminal_shows_every_number_whole():
    tasks = ("xnli", "pawsx", "udpos", "panx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba")
    averages = ("sentence_pair", "structured", "qa", "non-retrieval", "retrieval", "total")
    rows = tuple(("xlmr_large", name) for name in ("none", "nine_tasks_translated"))
    places = [(row, column) for row in rows for column in (*tasks, *averages)]
    values = {place: Statistic(60 + number, 0.5, 3, 3) for number, place in enumerate(places)}
    text = rendered(Grid("scores", rows, (*tasks, *averages), values, averages=6))
    assert "…" not in text and all(len(line.rstrip()) <= 80 for line in text.splitlines())
    for column in tasks:
        assert column in text
    for found in values.values():
        assert f"{found.mean:.1f}" in text
    assert text.count("±0.5") == len(values)
    assert "missing" in rendered(GRID)


def test_the_heat_map_is_a_picture(tmp_path):
    values = {(MNLI, "xnli"): Statistic(6.0, 1.0, 2, 2), (MNLI, "tatoeba"): Statistic(-3.0, None, 1, 2)}
    path = plot.heat_map(Grid("differences to none", (MNLI,), COLUMNS, values, True, 2), tmp_path / "a" / "map.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    empty = plot.heat_map(Grid("differences to none", (MNLI,), COLUMNS, {}, True, 2), tmp_path / "empty.png")
    assert empty.stat().st_size > 1000
