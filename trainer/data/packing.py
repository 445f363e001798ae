"""Packing: units of the stream into packs, packs into steps. Every rank computes the whole plan for itself.

A *window* is a few hundred thousand tokens' worth of packs. Units come in stream order and each goes into the fullest
pack of the window that has room (best fit); what fits nowhere comes first in the next window. Packs are then
shuffled within the window, so that no pack is systematically late. Ranks take packs of a step in turn; all packs hold
nearly the same number of tokens, so ranks do too.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.data.stream import Stream, permutation
from trainer.errors import UserError

WINDOW_TOKENS = 1 << 19
FULL = 0.9995  # a window this full is closed
MISSES = 192  # or when this many units found no room


@dataclass(frozen=True)
class Pack:
    """Units that share one row of tokens: task index and unit, int64 (units,), in order; and their tokens."""

    tasks: np.ndarray
    units: np.ndarray
    tokens: int


@dataclass(frozen=True)
class StepPlan:
    """What one optimizer step consumes, on all ranks together; `state` continues after it."""

    packs: tuple[Pack, ...]
    pack_tokens: int
    state: dict

    def task_counts(self, tasks: int) -> np.ndarray:
        """int64 (tasks,): units of each task in the step."""
        return np.bincount(np.concatenate([pack.tasks for pack in self.packs]), minlength=tasks)

    @property
    def tokens(self) -> int:
        return sum(pack.tokens for pack in self.packs)

    @property
    def fill(self) -> float:
        return self.tokens / (len(self.packs) * self.pack_tokens)

    def example_ids_hash(self) -> str:
        digest = hashlib.blake2b(digest_size=8)
        for pack in self.packs:
            digest.update(pack.tasks.astype("<i8").tobytes() + pack.units.astype("<i8").tobytes())
        return digest.hexdigest()


class Planner:
    """Turns a stream into steps of `packs_per_step` packs.

    Args:
        tokens: for each task of the stream, int (units,): tokens of each unit, all its sequences together.

    Raises:
        UserError: a unit is larger than a pack.
    """

    def __init__(self, stream: Stream, tokens: Sequence[np.ndarray], pack_tokens: int, packs_per_step: int):
        for name, counts in zip(stream.names, tokens, strict=True):
            if counts.max() > pack_tokens:
                raise UserError(
                    f"an example of {name} has {counts.max()} tokens, but a pack holds {pack_tokens}",
                    why="the sequences of one example stay in one pack",
                    fix=f"train.pack_tokens={1 << int(counts.max() - 1).bit_length()}, or a smaller data.max_length",
                )
        self.stream, self.tokens = stream, tokens
        self.pack_tokens, self.packs_per_step = pack_tokens, packs_per_step
        self.window_packs = packs_per_step * max(1, -(-WINDOW_TOKENS // (pack_tokens * packs_per_step)))
        self.window = 0
        self._missed: list[tuple[int, int]] = []  # found no room in the last window
        self._block: list[tuple[int, int]] = []  # the stream's newest block, of which `_at` are used
        self._at = 0
        self._before_block = stream.state()
        self._packs: list[Pack] = []
        self._taken = 0  # packs of the current window already handed out
        self._window_start = self._snapshot()

    def next_step(self) -> StepPlan:
        if self._taken == len(self._packs):
            self._window_start = self._snapshot()
            self._packs, self._taken = self._fill_window(), 0
        packs = self._packs[self._taken : self._taken + self.packs_per_step]
        self._taken += self.packs_per_step
        return StepPlan(tuple(packs), self.pack_tokens, {**self._window_start, "taken": self._taken})

    def restore(self, state: dict) -> None:
        """Continue after the step whose plan carried `state`."""
        self.stream.restore(state["stream"])
        self._block, self._at = [], 0
        if state["at"]:
            self._draw()
            self._at = state["at"]
        self.window, self._missed = state["window"], [tuple(pair) for pair in state["missed"]]
        self._window_start = self._snapshot()
        self._packs, self._taken = self._fill_window(), state["taken"]

    def _snapshot(self) -> dict:
        if self._at == len(self._block):
            stream, at = self.stream.state(), 0
        else:
            stream, at = self._before_block, self._at
        return {"stream": stream, "at": at, "window": self.window, "missed": [list(pair) for pair in self._missed]}

    def _draw(self) -> None:
        self._before_block = self.stream.state()
        tasks, units = self.stream.next_block()
        self._block, self._at = list(zip(tasks.tolist(), units.tolist(), strict=True)), 0

    def _fill_window(self) -> list[Pack]:
        contents: list[list[tuple[int, int]]] = [[] for _ in range(self.window_packs)]
        room = [(self.pack_tokens, pack) for pack in range(self.window_packs)]  # kept sorted
        wanted = self.window_packs * self.pack_tokens * FULL
        used, missed = 0, []
        earlier = iter(self._missed)
        while used < wanted and len(missed) < MISSES:
            task, unit = next(earlier, None) or self._next_drawn()
            size = int(self.tokens[task][unit])
            slot = bisect_left(room, (size, -1))
            if slot == len(room):
                missed.append((task, unit))
                continue
            free, pack = room.pop(slot)
            insort(room, (free - size, pack))
            contents[pack].append((task, unit))
            used += size
        self._missed = missed + list(earlier)
        free = {pack: left for left, pack in room}
        order = permutation(self.stream.seed, "window", self.window, self.window_packs)
        self.window += 1
        return [self._pack(contents[i], self.pack_tokens - free[i]) for i in order.tolist()]

    def _next_drawn(self) -> tuple[int, int]:
        if self._at == len(self._block):
            self._draw()
        self._at += 1
        return self._block[self._at - 1]

    @staticmethod
    def _pack(pairs: list[tuple[int, int]], tokens: int) -> Pack:
        array = np.array(pairs, np.int64).reshape(-1, 2)
        return Pack(array[:, 0].copy(), array[:, 1].copy(), tokens)


def packs_of_rank(packs_per_step: int, rank: int, world_size: int) -> range:
    """Which packs of a step a rank takes.

    Raises:
        UserError: the world size does not divide the packs.
    """
    if packs_per_step % world_size:
        near = world_size * max(1, round(packs_per_step / world_size))
        raise UserError(
            f"train.packs_per_step is {packs_per_step}, which {world_size} processes cannot share evenly",
            why="every rank takes the same number of packs, so that a step is the same at any world size",
            fix=f"train.packs_per_step={near}, or start a number of processes that divides {packs_per_step}",
        )
    return range(rank, packs_per_step, world_size)


def pack_in_order(tokens: np.ndarray, pack_tokens: int) -> list[np.ndarray]:
    """Units of one split, in order, into packs that are closed when the next unit does not fit (for evaluation)."""
    packs, start, used = [], 0, 0
    for unit, size in enumerate(tokens.tolist()):
        if used + size > pack_tokens and unit > start:
            packs.append(np.arange(start, unit))
            start, used = unit, 0
        used += size
    if start < len(tokens):
        packs.append(np.arange(start, len(tokens)))
    return packs
