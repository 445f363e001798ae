"""Which rank the others wait for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

WINDOW = 50  # steps
WORTH_SAYING = 0.05  # share of the time


class Stragglers:
    """Compares what every rank needs for its own work: waiting for its data and, at ZeRO stages 0 to 2, the forward
    pass of its first pack, before any rank waits for another. (At stage 3 that pass gathers weights, so that there the
    data alone is seen.)

    Args:
        hosts: of each rank.
        factor: a rank that needs so many times the median's is one.
    """

    def __init__(self, hosts: Sequence[str], factor: float):
        self.hosts, self.factor = list(hosts), factor
        self._own = [0.0] * len(self.hosts)
        self._seconds, self._steps = 0.0, 0

    def add(self, own_seconds: Sequence[float], step_seconds: float) -> str | None:
        """Take a step; after each window, the sentence that names the slowest rank, if it is worth one."""
        self._own = [total + seconds for total, seconds in zip(self._own, own_seconds, strict=True)]
        self._seconds, self._steps = self._seconds + step_seconds, self._steps + 1
        if self._steps < WINDOW:
            return None
        own, seconds = self._own, self._seconds
        self._own, self._seconds, self._steps = [0.0] * len(own), 0.0, 0
        slowest = max(range(len(own)), key=own.__getitem__)
        others = statistics.median(own[:slowest] + own[slowest + 1 :]) if len(own) > 1 else own[0]
        lost = (own[slowest] - others) / seconds if seconds else 0.0
        if own[slowest] < self.factor * others or lost < WORTH_SAYING:
            return None
        return (
            f"the others wait for rank {slowest} on {self.hosts[slowest]}: in the last {WINDOW} steps its own data and "
            f"forward pass took {own[slowest] / others:.1f} times theirs, {100 * lost:.0f}% of everyone's time"
        )
