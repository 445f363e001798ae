"""Where a run stands, computed from its events alone."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RECENT = 50  # steps that the ETA and the smoothed losses look back on


@dataclass(frozen=True)
class TaskProgress:
    """One task's row.

    Attributes:
        loss: mean over the task's examples in its recent steps; None before the first.
        examples: seen so far.
        asked: its share of the mixture, between 0 and 1; None if no rate was announced.
        reached: its share of the examples seen so far; None before the first.
    """

    name: str
    loss: float | None
    examples: int
    asked: float | None
    reached: float | None


class Progress:
    """Follows `start`, `resume` and `step` events.

    Counts of examples begin at the first event seen; a `start` or `resume` event that carries `examples` {task: count}
    sets them, so that a resumed run goes on where it was.

    Attributes:
        step: optimizer steps done.
        total_steps: None if unknown.
        last: the newest `step` event.
    """

    def __init__(self, total_steps: int | None = None):
        self.step = 0
        self.total_steps = total_steps
        self.last: Mapping[str, Any] = {}
        self._rates: dict[str, float] = {}
        self._examples: dict[str, int] = {}
        self._losses: dict[str, deque[tuple[float, int]]] = {}
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._speeds: deque[tuple[float, float]] = deque(maxlen=RECENT)

    def update(self, event: Mapping[str, Any]) -> None:
        """Takes in one event; kinds that do not move a run are ignored."""
        if event["event"] == "start":
            self.total_steps = event.get("total_steps", self.total_steps)
            self.step = max(0, event.get("first_step", 1) - 1)
            self._rates = dict(event.get("rates") or {})
            for task in event.get("tasks") or self._rates:
                self._examples.setdefault(task, 0)
            self._examples.update(event.get("examples") or {})
        elif event["event"] == "resume":
            self.step = event.get("step", self.step)
            self._examples.update(event.get("examples") or {})
        elif event["event"] == "step":
            self._take_step(event)

    def _take_step(self, event: Mapping[str, Any]) -> None:
        self.step, self.last = event["step"], event
        examples = event.get("examples") or {}
        for task, count in examples.items():
            self._examples[task] = self._examples.get(task, 0) + count
        for task, loss in (event.get("task_loss") or {}).items():
            if count := examples.get(task, 0):
                self._losses.setdefault(task, deque(maxlen=RECENT)).append((loss, count))
        seconds, speed = event.get("step_seconds"), event.get("useful_tokens_per_second")
        if seconds is not None:
            self._seconds.append(seconds)
            if speed is not None:
                self._speeds.append((speed, seconds))

    @property
    def eta_seconds(self) -> float | None:
        """Steps left times the median time of the recent ones: a slow first step or a pause does not count."""
        if self.total_steps is None or not self._seconds:
            return None
        return max(0, self.total_steps - self.step) * statistics.median(self._seconds)

    def tokens_per_second(self, steps: int = RECENT) -> float | None:
        """Useful tokens a second over the newest `steps` steps (at most RECENT): all their tokens by all their time."""
        newest = list(self._speeds)[-steps:]
        seconds = sum(seconds for _, seconds in newest)
        return sum(speed * seconds for speed, seconds in newest) / seconds if seconds else None

    def tasks(self) -> list[TaskProgress]:
        """One row a task, in the order of the recipe."""
        total = sum(self._examples.values())
        rows = []
        for name, examples in self._examples.items():
            recent = self._losses.get(name)
            loss = sum(loss * n for loss, n in recent) / sum(n for _, n in recent) if recent else None
            reached = examples / total if total else None
            rows.append(TaskProgress(name, loss, examples, self._rates.get(name), reached))
        return rows
