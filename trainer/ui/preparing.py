"""Progress of preparing: a bar a split on a terminal, a line a split in a log."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class PrepareProgress:
    """Called with (task and split, examples done); a context manager, so that the bars end with it."""

    def __init__(self, console: Console):
        self.console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,} examples"),
            TimeElapsedColumn(),
        )
        self._bars = Progress(*columns, console=console, disable=not console.is_interactive)
        self._ids: dict[str, int] = {}

    def __call__(self, what: str, done: int) -> None:
        if what not in self._ids:
            for earlier in self._ids.values():  # splits come one after another, so the others are complete
                self._bars.update(earlier, total=self._bars.tasks[earlier].completed)
            self._ids[what] = self._bars.add_task(what, total=None)
            if not self.console.is_interactive:
                self.console.print(f"preparing {what} ...")
        self._bars.update(self._ids[what], completed=done)

    def __enter__(self) -> PrepareProgress:
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()
