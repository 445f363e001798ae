"""Signals that ask a run to save and leave."""

from __future__ import annotations

import signal

STOP = (signal.SIGTERM, signal.SIGUSR1)  # of schedulers and people; Slurm's --signal sends the second


class StopSignals:
    """Remembers the first signal to stop, for the end of the step. Ctrl-C is not one: it stops at once."""

    def __init__(self):
        self.received: int | None = None

    def install(self) -> None:
        for number in STOP:
            signal.signal(number, self._take)

    def _take(self, number: int, frame) -> None:
        self.received = self.received or number

    def name_of(self, total: int) -> str:
        """The signal by the sum of its number over the ranks that got it."""
        names = [signal.Signals(number).name for number in STOP if total % number == 0]
        return names[0] if len(names) == 1 else "a signal"
