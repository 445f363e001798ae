"""The heat map of a study's differences to its baseline."""

from __future__ import annotations

import math
from pathlib import Path

from trainer.study.results import Grid

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP = 0.62, 0.36, 1.6, 1.5  # inches
MISSING = "the heat map is left out, as matplotlib is missing; next: pip install 'xstilts[bench]', then --tables"


def can_draw() -> bool:
    """Whether matplotlib, which is optional, is there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def heat_map(grid: Grid, path: Path) -> Path:
    """Write a PNG of a grid of differences: a colour and a number for each, red below 0 and blue above, equally strong
    at equal distance; what is missing is grey and says so. Needs matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    means = [[_mean(grid, row, column) for column in grid.columns] for row in grid.rows]
    bound = max([abs(value) for line in means for value in line if not math.isnan(value)], default=1.0) or 1.0
    encoders = {encoder for encoder, _ in grid.rows}
    labels = [" ".join(row) if len(encoders) > 1 else row[1] for row in grid.rows]
    left = max(LEFT, 0.085 * max(map(len, labels)) + 0.2)
    size = (left + CELL_WIDTH * len(grid.columns) + 0.9, TOP + CELL_HEIGHT * len(labels) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    image = axes.imshow(means, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for y, line in enumerate(means):
        for x, value in enumerate(line):
            missing = math.isnan(value)
            colour = "white" if not missing and abs(value) > 0.6 * bound else "0.4" if missing else "black"
            shown, size = ("missing", 6.5) if missing else (f"{value:+.1f}", 8)
            axes.text(x, y, shown, ha="center", va="center", fontsize=size, color=colour)
    columns = [column.replace("_", " ") for column in grid.columns]
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="left")
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.axvline(len(grid.columns) - grid.averages - 0.5, color="black", linewidth=1)
    for number in range(1, len(grid.rows)):
        if grid.rows[number][0] != grid.rows[number - 1][0]:
            axes.axhline(number - 0.5, color="black", linewidth=1)
    axes.spines[:].set_visible(False)
    axes.set_title(grid.title, loc="left", fontsize=10)
    figure.colorbar(image, label="points")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def _mean(grid: Grid, row: tuple[str, str], column: str) -> float:
    found = grid.values.get((row, column))
    return math.nan if found is None else found.mean
