"""The watchdog: ends a process whose run makes no step, and says which rank holds it up, and where."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Any

from trainer.exits import Exit
from trainer.watch.ranks import RankFiles, write_exit

PHASES = ("start", "data", "forward", "backward", "update", "evaluation", "checkpoint", "export")  # in their order
PERIOD = 10.0  # seconds between looks, and between the files that other ranks read
MEDIAN_OF = 50  # steps
FILES_SECONDS = 10.0  # that reading or writing small files may take
UNKNOWN = "the run folder cannot be written, so it is not known by whom"


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
        self._writing: threading.Thread | None = None

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
            self._aside(self._write)
            if self._ended.wait(self.period):
                return
            if time.monotonic() - self._alive_at > self.limit():
                try:
                    self._give_up()
                except Exception:  # whatever it cannot say, it ends the process
                    os._exit(Exit.HANG)

    def _aside(self, work: Callable[[], Any], otherwise: Any = None) -> Any:
        """What `work` with files gives; `otherwise` where it fails, or does not come back from a disk that hangs: that
        must not keep the watchdog from looking, and may be the very hang."""
        found = [otherwise]

        def try_it():
            with contextlib.suppress(Exception):
                found[0] = work()

        if self._writing is None or not self._writing.is_alive():  # else one more would only wait, too
            thread = threading.Thread(target=try_it, name="watchdog's files", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread can be started
                thread.start()
                self._writing = thread
                thread.join(FILES_SECONDS)
        return found[0]

    def _write(self) -> bool:
        place = {"step": self.step, "pack": self.pack, "phase": self.phase}
        self.files.write_state(**place, seconds=time.monotonic() - self.since, written=time.time())
        return True

    def _give_up(self) -> None:
        silent = time.monotonic() - self._alive_at
        stacks, files = _stacks(), self.files
        kept = self._aside(lambda: files.stacks.write_text(stacks))
        before = self._aside(files.read_states, [])
        self._aside(self._write)
        self._ended.wait(2.5 * self.period)  # who lives will have written
        if time.monotonic() - self._alive_at < silent:
            return  # it went on after all
        written, held = self._aside(self._write), UNKNOWN
        if written:
            held = self._aside(lambda: blame(before, files.read_states(), files.world.size), UNKNOWN)
        where = f"in {self.phase} of step {self.step}"
        cause = f"rank {files.world.rank} has been {where} for {silent:.0f} s, {self.limit():.0f} are allowed: {held}"
        self._aside(lambda: write_exit(files.folder.parent, Exit.HANG, cause))
        said = f"exit {Exit.HANG:d} (hang): {cause}"
        said = f"{said}; stacks: {files.stacks}\n" if kept else f"{stacks}{said}\n"
        self._writing = None
        self._aside(lambda: sys.stderr.write(said) and sys.stderr.flush())
        os._exit(Exit.HANG)


def _stacks() -> str:
    """Where each thread is. By way of memory: faulthandler lets no other thread run while it writes to a disk."""
    try:
        with _memory() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read()
    except OSError as error:
        return f"no stacks: {error}\n"


def _memory() -> IO[str]:
    """A file in memory; Pythons that were built for an older glibc have no memfd."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("stacks"), "w+")
    return tempfile.TemporaryFile("w+", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


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
