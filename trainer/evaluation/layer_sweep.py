"""Retrieval scores by layer, of as many layers from one pass of the encoder as memory allows, as JSON and as a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.config import RunConfig
from trainer.distributed import World
from trainer.errors import UserError
from trainer.evaluation.dev import PackProgress
from trainer.evaluation.results import skipped_as_json
from trainer.evaluation.retrieval import evaluate_layers
from trainer.evaluation.vectors import choose_layer
from trainer.tasks.spec import Task

NAME = "layer_sweep"


def sweep_layers(
    encoder: torch.nn.Module,
    tokenizer,
    config: RunConfig,
    world: World,
    tasks: Mapping[str, Task],
    languages: Sequence[str] | None = None,
    pooling: str = "mean",
    progress: PackProgress | None = None,
) -> dict[str, Any]:
    """Scores of retrieval tasks by layer, in per cent, on every rank; arguments as of `evaluate_retrieval`.

    Returns:
        Plain JSON: `pooling`, `layers` (indices of hidden states, 0 the embeddings), `default_layer` (XTREME's, see
        `choose_layer`), and `tasks`: name -> `metric`; `average` over the languages, one number a layer; `best_layer`,
        the lowest one with the highest average; `languages`: code -> one number a layer; `skipped`, `skipped_details`
        and `notes` as `summarise` gives them, notes without those of single layers. A task without languages is left
        out.

    Raises:
        UserError: see `evaluate_retrieval`; or there is no matplotlib for `write_sweep`.
    """
    _matplotlib()  # before any time is spent
    layers = list(range(len(encoder.encoder.layer) + 1))
    results = evaluate_layers(encoder, tokenizer, config, world, tasks, layers, languages, pooling, progress)
    swept = {}
    for name, task in tasks.items():
        by_layer = [results[layer][name] for layer in layers]
        average = [result.average for result in by_layer]
        if not by_layer[0].languages:
            continue
        swept[name] = {
            "metric": task.metric,
            "average": average,
            "best_layer": max(layers, key=lambda layer, average=average: (average[layer], -layer)),
            "languages": {
                code: [result.languages[code].scores[task.metric] for result in by_layer]
                for code in by_layer[0].languages
            },
            **skipped_as_json(by_layer[0].skipped),
            "notes": list(dict.fromkeys(note for result in by_layer for note in result.notes[1:])),
        }
    return {"pooling": pooling, "layers": layers, "default_layer": choose_layer(None, encoder), "tasks": swept}


def write_sweep(folder: Path, sweep: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write FOLDER/layer_sweep.json and a plot of it, layer_sweep.png; their paths. On one rank only.

    Raises:
        UserError: nothing was swept, or there is no matplotlib.
    """
    if not sweep["tasks"]:
        raise UserError("there is no score to plot by layer", why="every language of every task was skipped")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.json"
    path.write_text(json.dumps(sweep, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path, _plot(folder / f"{NAME}.png", sweep)


def _plot(path: Path, sweep: Mapping[str, Any]) -> Path:
    """A panel a task: the average in bold, languages in grey, XTREME's layer dashed."""
    figure_class, canvas_class = _matplotlib()
    columns = min(2, len(sweep["tasks"]))
    rows = math.ceil(len(sweep["tasks"]) / columns)
    figure = figure_class(figsize=(6 * columns, 3.6 * rows), layout="constrained")
    canvas_class(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(sweep["tasks"]) :]:
        panel.remove()
    for panel, (name, task) in zip(panels, sweep["tasks"].items(), strict=False):
        for scores in task["languages"].values():
            panel.plot(sweep["layers"], scores, color="#bbbbbb", linewidth=0.7)
        count = len(task["languages"])
        label = f"mean of {count} languages" if count > 1 else next(iter(task["languages"]))
        panel.plot(sweep["layers"], task["average"], color="#4878a8", linewidth=2.2, marker="o", label=label)
        panel.axvline(sweep["default_layer"], color="#333333", linestyle="--", linewidth=0.8, label="XTREME's layer")
        panel.set_title(f"{name}: best layer {task['best_layer']}", loc="left", fontsize=11)
        panel.set_xlabel(f"layer ({sweep['pooling']} pooling)")
        panel.set_ylabel(f"{task['metric']}, per cent")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def _matplotlib():
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("the plot by layer needs matplotlib", fix="pip install 'xstilts[bench]'") from None
    return Figure, FigureCanvasAgg
