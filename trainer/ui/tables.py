"""The tables of the command line; each fits 80 columns with every number whole."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from trainer.evaluation.results import alike, skipped_from_json
from trainer.tasks.spec import Task

_NAME_WIDTH = 20  # a longer name goes on in the next line, so that it never takes the room of a number
_MOST_LABELS = 5  # more are counted instead of listed


def new_table(title: str | None = None) -> Table:
    """An empty table in the house's style: no frame, a rule below the header."""
    return Table(
        title=title,
        title_style="bold",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )


def score_table(
    scores: Mapping[str, Mapping[str, float]],
    headline: Mapping[str, str],
    title: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Table:
    """A row per task: its headline metric, then its other metrics.

    Args:
        scores: task -> metric -> value; values are per cent, except thresholds.
        headline: task -> the metric that stands for it; a task that is not named has its first metric.
        sizes: task -> number of examples scored; adds a column.

    Raises:
        ValueError: a task's headline is not among its scores.
    """
    table = new_table(title)
    table.add_column("task", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True, style="bold")
    table.add_column("metric", no_wrap=True)
    if sizes is not None:
        table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("other metrics", overflow="fold")
    for task, metrics in scores.items():
        main = headline.get(task, next(iter(metrics), ""))
        if main not in metrics:
            raise ValueError(f"task {task} has no score {main!r}, only {', '.join(metrics) or 'none at all'}")
        cells = [Text(_name(task)), _score(metrics[main]), Text(main)]
        if sizes is not None:
            cells.append(Text(f"{sizes[task]:,}" if task in sizes else "-"))
        # Written as one word each, so that a line never breaks between a metric and its value.
        cells.append(Text(" ".join(f"{name}={value:.2f}" for name, value in metrics.items() if name != main)))
        table.add_row(*cells)
    return table


def target_table(summary: Mapping[str, Any], title: str | None = None) -> Table:
    """A row per target: its average over languages, what that is over, and each language's score.

    Args:
        summary: what `trainer.evaluation.results.summarise` gives; scores are per cent.
    """
    table = new_table(title)
    table.add_column("task\n  metric", no_wrap=True)
    table.add_column("average", justify="right", no_wrap=True, style="bold")
    table.add_column("languages", justify="right", no_wrap=True)
    table.add_column("by language", overflow="fold")
    for name, task in summary["tasks"].items():
        lines = [Text(" ".join(f"{code}={found[task['metric']]:.2f}" for code, found in task["languages"].items()))]
        others = [f"{metric}={value:.2f}" for metric, value in task["averages"].items() if metric != task["metric"]]
        if others:
            lines.append(Text(f"averages: {' '.join(others)}"))
        reasons = alike(skipped_from_json(task).items())
        lines += [Text(f"skipped {', '.join(codes)}: {why}", "yellow") for codes, why in reasons]
        lines += [Text(note, "dim") for note in task["notes"]]
        table.add_row(
            Text(f"{_name(name)}\n  {task['metric']}"),
            _average(task["average"]),
            Text(f"{task['averaged_over']}"),
            Text("\n").join(line for line in lines if line.plain),
        )
    return table


def group_table(summary: Mapping[str, Any]) -> Table:
    """A row per group of targets, then the averages over all of them; columns and arguments as of `target_table`."""
    table = new_table()
    table.add_column("group", no_wrap=True)
    table.add_column("average", justify="right", no_wrap=True, style="bold")
    table.add_column("mean over", overflow="fold")
    for group, average in summary["groups"].items():
        table.add_row(Text(_name(group)), _average(average), Text(", ".join(summary["group_tasks"][group])))
    counted = sum(task["average"] is not None for task in summary["tasks"].values())
    retrieval = len(summary["group_tasks"].get("retrieval", ()))
    for name, count in (("non_retrieval", counted - retrieval), ("total", counted)):
        tasks = f"{count} {'task' if count == 1 else 'tasks'}"
        table.add_row(Text(name.replace("_", "-"), "bold"), _average(summary[name]), Text(tasks))
    return table


def layer_table(sweep: Mapping[str, Any], title: str | None = None) -> Table:
    """A row per layer with each task's average over languages, in per cent; the best of a task is bold.

    Args:
        sweep: what `trainer.evaluation.layer_sweep.sweep_layers` gives.
    """
    table = new_table(title)
    table.add_column("layer\n(* XTREME's)", justify="right", no_wrap=True)
    for name, task in sweep["tasks"].items():
        table.add_column(f"{_name(name)}\n{task['metric']}", justify="right", no_wrap=True)
    for place, layer in enumerate(sweep["layers"]):
        cells = [
            Text(f"{task['average'][place]:.2f}", "bold" if layer == task["best_layer"] else "")
            for task in sweep["tasks"].values()
        ]
        table.add_row(Text(f"{layer}{'*' if layer == sweep['default_layer'] else ''}"), *cells)
    return table


def prepare_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """What `xstilts prepare` made: two lines per task and split, as the header's two lines say.

    Args:
        rows: mappings with task, split, examples, units, tokens, p50, p90, p99, max (tokens of a sequence), counts
            {what: how many}, vocabulary (number of distinct token ids) and state ("prepared" or "up to date").
    """
    table = new_table()
    table.add_column("task\n  split, state", no_wrap=True)
    table.add_column("examples\nunits", justify="right", no_wrap=True)
    table.add_column("tokens\nvocabulary", justify="right", no_wrap=True)
    table.add_column("length\np50/p90\np99/max", justify="right", no_wrap=True)
    table.add_column("truncated\ndropped", justify="right", no_wrap=True)
    table.add_column("other counts", overflow="fold")
    previous = None
    for row in rows:
        if previous not in (None, row["task"]):
            table.add_row()
        previous = row["task"]
        counts = dict(row["counts"])
        truncated, dropped = counts.pop("truncated", 0), counts.pop("dropped", 0)
        table.add_row(
            Text.assemble(_name(row["task"]), "\n  ", row["split"], ", ", (row["state"], "dim")),
            Text(f"{row['examples']:,}\n{row['units']:,}"),
            Text(f"{row['tokens']:,}\n{row['vocabulary']:,}"),
            Text(f"{row['p50']:.0f}/{row['p90']:.0f}\n{row['p99']:.0f}/{row['max']:.0f}"),
            Text.assemble(_notable(truncated), "\n", _notable(dropped)),
            Text("\n".join(f"{what.replace('_', ' ')} {n:,}" for what, n in counts.items())),
        )
    return table


def tasks_table(tasks: Mapping[str, Task]) -> Table:
    """What `xstilts tasks` lists: name, format, metric; labels; where the data comes from."""
    table = new_table()
    table.add_column("task\n  format\n  metric", no_wrap=True)
    table.add_column("labels", no_wrap=True)
    table.add_column("hub data set,\nor files below the task's folder", overflow="fold")
    for name, task in tasks.items():
        format_name = task.format.replace("_", " ")
        table.add_row(
            Text(f"{_name(name)}\n  {format_name}\n  {task.metric}"), Text(_labels(task)), Text(_sources(task))
        )
    return table


def _name(name: str) -> str:
    return textwrap.fill(name, _NAME_WIDTH)


def _score(value: float) -> Text:
    return Text(f"{value:.2f}", style="" if value == value else "bold red")


def _average(value: float | None) -> Text:
    return Text("-", "dim") if value is None else _score(value)


def _notable(n: int) -> tuple[str, str]:
    return f"{n:,}", "yellow" if n else ""


def _labels(task: Task) -> str:
    if task.choices:
        return f"{task.choices} options"
    if len(task.labels) > _MOST_LABELS:
        return f"{len(task.labels)} labels"
    return "\n".join(map(_name, task.labels)) or "-"


def _sources(task: Task) -> str:
    """Hub data sets on a line each, then the first-choice file names, both without repeats."""
    parts = [part for split in task.hub.values() for part in split]
    hub = [f"{part.dataset}:{part.config}" if part.config else part.dataset for part in parts]
    files = [alternatives[0] for split in task.files.values() for alternatives in split]
    return "\n".join(dict.fromkeys(hub + files)) or "-"
