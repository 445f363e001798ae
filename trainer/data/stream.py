"""The stream: an endless sequence of (task, unit), a function of (seed, sizes, rates) alone.

Randomness comes from counters: Philox raw words keyed by (seed, purpose, index), a stream numpy promises not to
change, so the order is the same on every rank, machine and restart, and a position in it is a few integers.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

BLOCK = 4096  # positions drawn at a time


def random_words(seed: int, purpose: str, index: int, count: int) -> np.ndarray:
    """uint64 (count,): the same words for the same arguments, anywhere."""
    key = np.array([seed, (zlib.crc32(purpose.encode()) << 32) + index], np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def permutation(seed: int, purpose: str, index: int, n: int) -> np.ndarray:
    """int64 (n,): a random order of range(n)."""
    return np.argsort(random_words(seed, purpose, index, n), kind="stable")


class Stream:
    """Draws tasks by rate and, within a task, every unit once an epoch in an order that changes each epoch.

    Tasks are drawn by systematic sampling: each block of 4,096 positions holds every task to within one of its exact
    share, so the rates reached are the rates asked for.
    """

    def __init__(self, sizes: Mapping[str, int], rates: Mapping[str, float], seed: int):
        self.names = list(sizes)
        self.sizes = [sizes[name] for name in self.names]
        self.edges = np.cumsum([rates[name] for name in self.names])
        self.edges[-1] = 1.0
        self.seed = seed
        self.block = 0
        self.drawn = [0] * len(self.names)
        self._order: dict[tuple[int, int], np.ndarray] = {}

    def next_block(self) -> tuple[np.ndarray, np.ndarray]:
        """(tasks, units), each int64 (BLOCK,): index into `names`, and unit of that task's training split."""
        offset = random_words(self.seed, "quantile", self.block, 1)[0] / 2.0**64
        quantiles = (np.arange(BLOCK) + offset) / BLOCK
        tasks = np.searchsorted(self.edges, quantiles, side="right").clip(max=len(self.names) - 1)
        tasks = tasks[permutation(self.seed, "block", self.block, BLOCK)]
        units = np.empty(BLOCK, np.int64)
        for task in range(len(self.names)):
            where = np.flatnonzero(tasks == task)
            units[where] = self._take(task, len(where))
        self.block += 1
        return tasks, units

    def _take(self, task: int, count: int) -> np.ndarray:
        """The task's next `count` units, across epochs."""
        start, size = self.drawn[task], self.sizes[task]
        self.drawn[task] += count
        position = np.arange(start, start + count)
        epochs, within = np.divmod(position, size)
        units = np.empty(count, np.int64)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            units[chosen] = self._epoch(task, epoch)[within[chosen]]
        return units

    def _epoch(self, task: int, epoch: int) -> np.ndarray:
        if (task, epoch) not in self._order:
            self._order = {key: order for key, order in self._order.items() if key[0] != task}
            self._order[task, epoch] = permutation(self.seed, self.names[task], epoch, self.sizes[task])
        return self._order[task, epoch]

    def state(self) -> dict:
        return {"block": self.block, "drawn": list(self.drawn)}

    def restore(self, state: dict) -> None:
        self.block, self.drawn = state["block"], list(state["drawn"])
