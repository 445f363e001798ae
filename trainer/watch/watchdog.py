"""The watchdog: ends a process whose run makes no step, and says which rank holds it up, and where."""

from __future__ import annotations

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from trainer.exits import Exit
from trainer.watch.ranks import RankFiles, write_exit

PHASES = ("start", "data", "forward", "backward", "update", "evaluation", "checkpoint", "export")  # in their order
PERIOD = 10.0  # seconds between looks, and between the files that other ranks read
MEDIAN_OF = 50  # steps


class Watchdog(threading.Thread):
    """Looks after one rank from a thread of its own.

    Args:
        factor: a phase may take so many times the median step;
        least_seconds: and always this long;
        start_seconds: before the first step, with loading and compiling.
    """

    def __init__(self, files: RankFiles, factor: float, least_seconds: float, start_seconds: float):
        super().__init__(name="watchdog", daemon=True)
        self.files, self.factor, self.least, self.first = files, factor, least_seconds, start_seconds
        self.period = min(PERIOD, least_seconds / 4)
        self.phase, self.step, self.pack, self.since = "start", 0, 0, time.monotonic()
        self._alive_at = self.since
        self._steps: deque[float] = deque(maxlen=MEDIAN_OF)
        self._ended = threading.Event()

    def beat(self, phase: str | None = None, step: int | None = None, pack: int | None = None) -> None:
        """A sign of life; with `phase`, a new one begins: of a step, of which of its packs on this rank."""
        self._alive_at = time.monotonic()
        if phase is not None:
            self.phase, self.since = phase, self._alive_at
        if step is not None:
            self.step, self.pack = step, 0
        if pack is not None:
            self.pack = pack

    def stepped(self, seconds: float) -> None:
        self._steps.append(seconds)

    def limit(self) -> float:
        """Seconds without a sign of life that are allowed now."""
        if not self._steps:
            return self.first
        return max(self.least, self.factor * statistics.median(self._steps))

    def end(self) -> None:
        self._ended.set()

    def run(self) -> None:
        while True:
            self._write()
            if self._ended.wait(self.period):
                return
            if time.monotonic() - self._alive_at > self.limit():
                self._give_up()

    def _write(self) -> None:
        place = {"step": self.step, "pack": self.pack, "phase": self.phase}
        try:
            self.files.write_state(**place, seconds=time.monotonic() - self.since, written=time.time())
        except OSError:  # a full or lost disk is found where it matters
            pass

    def _give_up(self) -> None:
        silent = time.monotonic() - self._alive_at
        with open(self.files.stacks, "w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        before = self.files.read_states()
        self._write()
        self._ended.wait(2.5 * self.period)  # who lives will have written
        if time.monotonic() - self._alive_at < silent:
            return  # it went on after all
        self._write()
        held = blame(before, self.files.read_states(), self.files.world.size)
        where = f"in {self.phase} of step {self.step}"
        who, limit = self.files.world.rank, self.limit()
        cause = f"rank {who} has been {where} for {silent:.0f} s, {limit:.0f} are allowed: {held}"
        write_exit(self.files.folder.parent, Exit.HANG, cause)
        sys.stderr.write(f"exit {Exit.HANG:d} (hang): {cause}; stacks: {self.files.stacks}\n")
        sys.stderr.flush()
        os._exit(Exit.HANG)


def blame(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], size: int) -> str:
    """Which ranks hold up the others: those that are gone, else those that are furthest behind.

    Args:
        before, after: what the ranks had written, some periods apart; hosts' clocks need not agree.
        size: how many ranks there are.
    """
    written = {state["rank"]: state["written"] for state in before}
    missing = sorted(set(range(size)) - {state["rank"] for state in after})
    gone = [state for state in after if state["written"] == written.get(state["rank"])]
    if missing or gone:
        texts = [f"rank {state['rank']} on {state['host']}" for state in gone]
        texts += [f"rank {rank} (never heard of)" for rank in missing]
        return f"no sign of life from {', '.join(texts)}"
    order = {state["rank"]: (state["step"], state["pack"], PHASES.index(state["phase"])) for state in after}
    last = min(order.values())
    behind = [state for state in after if order[state["rank"]] == last]
    phase = f"{PHASES[last[2]]} of step {last[0]}"
    if len(behind) == len(after):
        return f"all ranks are in {phase}, so one of them or the network hangs there"
    names = ", ".join(f"rank {state['rank']} on {state['host']}" for state in behind)
    return f"held up by {names}, in {phase}"
