"""Progress of an evaluation: a bar for each thing done on a terminal, a line in a log."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class EvaluationProgress:
    """Called with (what, done, in all); a context manager, so that the bars end with it.

    What has no total is being prepared, and counted in examples; the rest is evaluated, and counted in packs.
    """

    def __init__(self, console: Console):
        self.console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_interactive)
        self._ids: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        what = f"{'preparing' if total is None else 'evaluating'} {what}"
        if what not in self._ids:
            for earlier in self._ids.values():  # they come one after another, so the others are complete
                self._bars.update(earlier, total=self._bars.tasks[earlier].completed)
            self._ids[what] = self._bars.add_task(what, total=total)
            if not self.console.is_interactive:
                self.console.print(f"{what} ...")
        self._bars.update(self._ids[what], completed=done, total=total)

    def __enter__(self) -> EvaluationProgress:
        self._bars.start()
        return self

    def __exit__(self, *_) -> None:
        self._bars.stop()
