"""A study's tables: on the terminal, in Markdown, CSV and LaTeX. What is missing says so, and is never a number."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.text import Text

from trainer.study.results import (
    Grid,
    Results,
    Row,
    Statistic,
    differences_grid,
    languages_grid,
    remarks,
    scores_grid,
)
from trainer.ui.tables import new_table

MISSING = "missing"
ROWS = "intermediate"  # what a row is of
WIDTH = 80  # of a terminal table
NOTE = (
    "In per cent, differences in points: mean and sample standard deviation (±) over seeds; (n of m): only n of the m "
    "seeds are there; bold: the best of its column."
)


def write_tables(folder: Path, results: Results, heat_map: Path | None) -> list[Path]:
    """Write scores and differences as .md, .csv and .tex, and languages/TASK.csv; the files, in that order.

    Args:
        heat_map: shown in the Markdown of the differences.
    """
    notes, written = remarks(results), []
    for name, grid in (("scores", scores_grid(results)), ("differences", differences_grid(results))):
        if grid is not None:
            shown = heat_map if grid.signed else None
            written.append(_write(folder / f"{name}.md", markdown(grid, notes, shown)))
            written.append(_write(folder / f"{name}.csv", as_csv(grid)))
            written.append(_write(folder / f"{name}.tex", latex(grid)))
    for task in results.tasks:
        written.append(_write(folder / "languages" / f"{task}.csv", as_csv(languages_grid(results, task))))
    return written


def terminal_tables(grid: Grid) -> list[Group]:
    """One table for each encoder, in blocks of columns that fit 80 characters; the best of a column is bold."""
    tables = []
    for encoder in _encoders(grid):
        rows = [row for row in grid.rows if row[0] == encoder]
        labels = max(len(label) for label in (ROWS, *(intermediate for _, intermediate in rows)))
        averages = grid.columns[len(grid.columns) - grid.averages :]
        for columns in _blocks(grid, rows, WIDTH - labels):
            what = "averages over tasks" if set(columns) <= set(averages) else ""
            title = Text(", ".join(filter(None, (f"{encoder}: {grid.title}", what))), "bold")
            table = new_table()
            table.add_column(ROWS, no_wrap=True)
            for column in columns:
                table.add_column(Text(_header(column)), justify="right", no_wrap=True)
            for row in rows:
                cells = [_terminal_cell(grid, row, column) for column in columns]
                table.add_row(Text(row[1]), *cells)
            tables.append(Group(title, table))  # a title of the table's own would be broken to its width
    return tables


def markdown(grid: Grid, notes: Sequence[str] = (), heat_map: Path | None = None) -> str:
    """A heading, a table for each encoder (the best of a column is bold), the notes as a list."""
    lines = [f"# {grid.title.capitalize()}", "", NOTE, ""]
    for encoder in _encoders(grid):
        lines += [f"## {encoder}", "", _md_row([ROWS, *map(_words, grid.columns)])]
        lines.append("|---|" + "---:|" * len(grid.columns))
        for row in (row for row in grid.rows if row[0] == encoder):
            lines.append(_md_row([row[1], *(_md_cell(grid, row, column) for column in grid.columns)]))
        lines.append("")
    if heat_map:
        lines += [f"![{grid.title}]({heat_map.name})", ""]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def as_csv(grid: Grid) -> str:
    """Three lines for each row of the table: mean, std and n; a field without a value is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["encoder", "intermediate", "statistic", *grid.columns])
    for row in grid.rows:
        found = [grid.values.get((row, column)) for column in grid.columns]
        writer.writerow([*row, "mean", *(_number(s and s.mean) for s in found)])
        writer.writerow([*row, "std", *(_number(s and s.std) for s in found)])
        writer.writerow([*row, "n", *(s.n if s else 0 for s in found)])
    return out.getvalue()


def latex(grid: Grid) -> str:
    """A `tabular` for booktabs: a block for each encoder, averages behind a rule, the best of a column bold."""
    tasks = len(grid.columns) - grid.averages
    bar = "|" if tasks and grid.averages else ""
    lines = [f"% {grid.title}; needs \\usepackage{{booktabs}}. {NOTE.replace('±', 'after +-')}"]
    lines += [f"\\begin{{tabular}}{{l{'r' * tasks}{bar}{'r' * grid.averages}}}", "\\toprule"]
    lines.append(_tex_row(["", *map(_words, grid.columns)]))
    for encoder in _encoders(grid):
        lines += ["\\midrule", f"\\multicolumn{{{len(grid.columns) + 1}}}{{l}}{{{_tex(encoder)}}} \\\\"]
        for row in (row for row in grid.rows if row[0] == encoder):
            cells = [_tex_cell(grid, row, column) for column in grid.columns]
            lines.append(" & ".join([_tex(row[1]), *cells]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _encoders(grid: Grid) -> list[str]:
    return list(dict.fromkeys(encoder for encoder, _ in grid.rows))


def _best(grid: Grid, row: Row, column: str) -> bool:
    """Whether the row has the column's highest mean among its encoder's rows, as far as it is printed."""
    rows = [other for other in grid.rows if other[0] == row[0]]
    means = [found.mean for other in rows if (found := grid.values.get((other, column)))]
    own = grid.values.get((row, column))
    return own is not None and len(rows) > 1 and f"{own.mean:.1f}" == f"{max(means):.1f}"


def _mean(grid: Grid, found: Statistic) -> str:
    return f"{found.mean:+.1f}" if grid.signed else f"{found.mean:.1f}"


def _text(grid: Grid, row: Row, column: str) -> str:
    found = grid.values.get((row, column))
    if found is None:
        return MISSING
    deviation = "" if found.std is None else f" ± {found.std:.1f}"
    partial = "" if found.n == found.wanted else f" ({found.n} of {found.wanted})"
    return _mean(grid, found) + deviation + partial


def _terminal_cell(grid: Grid, row: Row, column: str) -> Text:
    found = grid.values.get((row, column))
    if found is None:
        return Text(MISSING, "red")
    below = [] if found.std is None else [f"±{found.std:.1f}"]
    below += [] if found.n == found.wanted else [f"{found.n} of {found.wanted}"]
    mean = (_mean(grid, found), "bold" if _best(grid, row, column) else "")
    return Text.assemble(mean, *((f"\n{line}", "dim") for line in below))


def _blocks(grid: Grid, rows: Sequence[Row], width: int) -> list[list[str]]:
    """Columns in groups that fit a width; the averages begin a group of their own unless all fit."""
    first = len(grid.columns) - grid.averages
    blocks: list[list[str]] = [[]]
    used = 0
    needed = [_column_width(grid, rows, column) for column in grid.columns]
    split = sum(needed) > width
    for number, (column, size) in enumerate(zip(grid.columns, needed, strict=True)):
        if blocks[-1] and (used + size > width or split and number == first):
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += size
    return blocks


def _column_width(grid: Grid, rows: Sequence[Row], column: str) -> int:
    lines = _header(column).split("\n")
    for row in rows:
        lines += _terminal_cell(grid, row, column).plain.split("\n")
    return max(map(len, lines)) + 2  # and the gap before it


def _words(column: str) -> str:
    return column.replace("_", " ")


def _header(column: str) -> str:
    return column.replace("_", "\n").replace(" ", "\n").replace("-", "-\n")


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _md_cell(grid: Grid, row: Row, column: str) -> str:
    text = _text(grid, row, column)
    return f"**{text}**" if _best(grid, row, column) else text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _tex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_tex, cells)) + " \\\\"


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def _tex_cell(grid: Grid, row: Row, column: str) -> str:
    found = grid.values.get((row, column))
    if found is None:
        return f"\\textit{{{MISSING}}}"
    mean = _mean(grid, found)
    mean = f"\\mathbf{{{mean}}}" if _best(grid, row, column) else mean
    deviation = "" if found.std is None else f"_{{\\pm {found.std:.1f}}}"
    partial = "" if found.n == found.wanted else f" ({found.n} of {found.wanted})"
    return f"${mean}{deviation}${partial}"
