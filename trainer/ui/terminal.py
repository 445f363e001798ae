"""The sink that shows a run to a person: a live view on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer.ui import human
from trainer.ui.progress import Progress
from trainer.ui.tables import new_table, score_table

_REFRESH_SECONDS = 0.1  # a view redrawn at every step of a tiny model would cost more than the step


class Terminal:
    """An event sink.

    Args:
        total_steps: optimizer steps of the run; a `start` event's own number replaces it.
        every: steps a plain line stands for; the live view shows every step.
        console: where to write; standard output by default. Lines are plain unless it is an interactive terminal.
    """

    def __init__(self, total_steps: int | None = None, every: int = 1, console: Console | None = None):
        self.progress = Progress(total_steps)
        self.every = every
        self.console = console or Console()
        self._live: Live | None = None
        self._drawn = -math.inf
        self._began: float | None = None
        self._since_line = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.progress.update(event)
        show = getattr(self, f"_show_{event['event']}", self._show_other)
        show(event)

    def close(self) -> None:
        """Leaves the last state of the live view on the screen and gives the cursor back."""
        if self._live:
            self._live.update(self._view())
            self._live.stop()
            self._live = None

    def _show_start(self, event: Mapping[str, Any]) -> None:
        self._began = event.get("time")
        self._line(Text(f"start  {_fields(event, 'tasks', 'rates', 'notes', 'examples', 'encoder_keys')}"))
        rates = event.get("rates") or {}
        tasks = (f"{task} {human.percent(rates.get(task))}" for task in event.get("tasks") or rates)
        self._line(Text("tasks (share of the mixture): " + ", ".join(tasks)))
        for note in event.get("notes") or ():
            self._line(Text(f"note: {note}"))

    def _show_step(self, event: Mapping[str, Any]) -> None:
        if self.console.is_interactive:
            self._draw()
            return
        self._since_line += 1
        if event["step"] % self.every == 0 or event["step"] == self.progress.total_steps:
            self._line(step_line(self.progress, self._since_line))
            self._since_line = 0

    def _show_evaluation(self, event: Mapping[str, Any]) -> None:
        title = f"evaluation at step {event['step']:,}" if "step" in event else "evaluation"
        self.console.print(score_table(event["scores"], event.get("headline") or {}, title, event.get("sizes")))

    def _show_warning(self, event: Mapping[str, Any]) -> None:
        message = str(event.get("message", ""))
        text = Text.assemble(("WARNING", "bold black on yellow"), "  ", (message, "bold yellow"))
        if details := _fields(event, "message"):
            text.append(f"  {details}")
        self._line(text)

    def _show_finish(self, event: Mapping[str, Any]) -> None:
        self.close()
        text = Text(f"finished at step {self.progress.step:,}", style="bold green")
        if self._began is not None and "time" in event:
            text.append(f" after {human.duration(event['time'] - self._began)}")
        self._line(text)
        for key, value in event.items():
            if key not in ("event", "time", "step"):
                self._line(Text(f"  {key.replace('_', ' ')}: {_value(key, value)}"))

    def _show_other(self, event: Mapping[str, Any]) -> None:
        self._line(Text(f"{event['event']}  {_fields(event)}"))

    def _line(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        now = time.monotonic()
        if now - self._drawn >= _REFRESH_SECONDS:
            self._live.update(self._view(), refresh=True)
            self._drawn = now

    def _view(self) -> Group:
        return live_view(self.progress)


def step_line(progress: Progress, steps: int = 1) -> Text:
    """The newest step as one line; tokens/s over the newest `steps` steps, task losses over the recent ones."""
    parts = [Text(_step_of(progress)), *_figures(progress, steps)]
    if progress.eta_seconds is not None:
        parts.append(Text(f"eta {human.duration(progress.eta_seconds)}"))
    losses = [f"{row.name} {row.loss:.2f}" for row in progress.tasks() if row.loss is not None]
    return Text("  ").join([*parts, Text(" ".join(losses))] if losses else parts)


def live_view(progress: Progress) -> Group:
    """Bar and ETA, the newest step's figures, and a table with a row per task."""
    bar = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for ratio in (None, 1, None, None):
        bar.add_column(ratio=ratio, no_wrap=True)
    if progress.total_steps:
        bar.add_row(
            _step_of(progress),
            ProgressBar(total=progress.total_steps, completed=progress.step),
            human.percent(progress.step / progress.total_steps),
            f"eta {human.duration(progress.eta_seconds) if progress.eta_seconds is not None else '?'}",
        )
    else:
        bar.add_row(_step_of(progress))
    tasks = new_table()
    tasks.add_column("task", no_wrap=True)
    for name in ("loss", "examples", "rate asked", "rate reached"):
        tasks.add_column(name, justify="right", no_wrap=True)
    for row in progress.tasks():
        tasks.add_row(
            Text(row.name),
            Text("-") if row.loss is None else _number(row.loss, ".4f"),
            f"{row.examples:,}",
            human.percent(row.asked),
            human.percent(row.reached),
        )
    return Group(bar, Text("  ").join(_figures(progress)), Text(""), tasks)


def _step_of(progress: Progress) -> str:
    return f"step {progress.step}" + (f"/{progress.total_steps}" if progress.total_steps else "")


def _figures(progress: Progress, steps: int | None = None) -> list[Text]:
    """Loss, learning rate, gradient norm, tokens/s and memory, as far as they are known."""
    last, speed = progress.last, progress.tokens_per_second(*([steps] if steps else []))
    figures = []
    for name, key, spec in (("loss", "loss", ".4f"), ("lr", "learning_rate", ".1e"), ("grad", "grad_norm", ".2f")):
        if last.get(key) is not None:
            figures.append(Text.assemble(f"{name} ", _number(last[key], spec)))
    if speed is not None:
        figures.append(Text(f"{human.count(speed)} tok/s"))
    if last.get("memory_bytes") is not None:
        figures.append(Text(human.size(last["memory_bytes"])))
    return figures


def _number(value: float, spec: str) -> Text:
    return Text(f"{value:{spec}}", style="" if math.isfinite(value) else "bold red")


def _fields(event: Mapping[str, Any], *without: str) -> str:
    """An event's fields as `key value  key value`."""
    shown = [key for key in event if key not in ("event", "time", *without)]
    return "  ".join(f"{key.replace('_', ' ')} {_value(key, event[key])}" for key in shown)


def _value(key: str, value: Any) -> str:
    """A field's value; the end of its key tells its unit."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if isinstance(value, Mapping):
            return ", ".join(f"{below} {_value(below, inner)}" for below, inner in value.items())
        return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if key.endswith("bytes"):
        return human.size(value)
    if key.endswith("seconds"):
        return human.duration(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
