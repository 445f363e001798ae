"""One start of a run, watched to its end: signals go on to its ranks, what waits for a failed rank is ended, and what
the ranks have left in the run's folder (trainer.watch.ranks) says how it ended."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.events import read_events
from trainer.exits import Exit
from trainer.running import Running
from trainer.watch.ranks import ATTEMPT, JOB, clear, read_all, see_new_files, slurm_job, why_it_ended

GRACE = 45.0  # seconds for the other processes to end by themselves once one has failed
LOOK = 0.2  # seconds between looks at a run
AGAIN = 3.0  # seconds after which a signal is repeated that perhaps came before the ranks
Start = Callable[[Mapping[str, str]], Running]  # starts the run, with these variables besides its own


def new_token() -> str:
    return secrets.token_hex(4)


@dataclass(frozen=True)
class End:
    """How an attempt ended: exit code, cause in one line, and its own last step (0: it took none and resumed at none).

    The code is 0 only if the run is complete, whatever its launcher says: deepspeed's and pdsh's end with 0 when a
    signal has killed what they started.
    """

    code: int
    cause: str
    step: int


def stopped_by(number: int) -> tuple[Exit, str]:
    """Exit code and cause where a signal has come while no rank was there that could save."""
    code = Exit.INTERRUPTED if number == signal.SIGINT else Exit.STOPPED
    return code, f"stopped by {signal.Signals(number).name}"


class Attempt:
    """A start of a run.

    Args:
        run: its folder.
        start: see `Start`.
        say: takes a line for the user.
        number: of the start, from 1.
        token: of what starts it, the same in all of its starts; random.
    """

    def __init__(self, run: Path, start: Start, say: Callable[[str], None], number: int = 1, token: str | None = None):
        self.folder, self.say = run, say
        self.name = f"{number}-{token or new_token()}"  # files of a process that another attempt left behind differ
        clear(run)
        self._before = len(self._events())
        self._not_taken, self._send_again = 0, 0.0  # a signal that perhaps no rank has got, and when to repeat it
        self.running = start({ATTEMPT: self.name, JOB: slurm_job()})

    def end(self, told: Sequence[int]) -> End:
        """Wait for it.

        Args:
            told: signals to this process, in order; it may grow meanwhile. Each goes on to every rank. One that comes
                before the ranks have begun ends the run at once, as there is nothing to save; so does a second Ctrl-C.
                (Not a second SIGTERM: Slurm sends one itself and one by way of srun.)
        """
        passed_on, failed_at = 0, None
        try:
            while self.running.process.poll() is None:
                time.sleep(LOOK)
                for number in told[passed_on:]:
                    passed_on += 1
                    self._pass_on(number, again=list(told[:passed_on]).count(signal.SIGINT) > 1)
                if self._not_taken and time.monotonic() > self._send_again:
                    self._pass_on(self._not_taken, again=False)
                if failed_at is None and self._left("exit"):
                    failed_at = time.monotonic()
                if failed_at is not None and time.monotonic() - failed_at > GRACE:
                    self.say("the run does not end by itself after a process has failed, and is killed")
                    self.running.kill()
        except BaseException:
            self.running.kill()
            raise
        return self._end(self.running.wait(), told)

    def _pass_on(self, number: int, again: bool) -> None:
        see_new_files(self.folder / "ranks")
        begun = bool(self._left("rank"))
        if again or not (begun or self.running.remote):
            self.running.kill()
            return
        self.running.signal(signal.SIGTERM if number == signal.SIGHUP else number)
        # On other hosts there may be ranks already, or none yet; and this machine may not see the run's folder.
        self._not_taken, self._send_again = 0 if begun else number, time.monotonic() + AGAIN

    def _end(self, code: int, told: Sequence[int]) -> End:
        see_new_files(self.folder / "ranks")
        events = self._events()[self._before :]
        step = next((event["step"] for event in reversed(events) if event["event"] in ("step", "resume")), 0)
        complete = any(event["event"] == "finish" for event in events)
        # Where this machine does not see the run's folder, only the launcher can be believed.
        if code == 0 and (complete or not (self.folder / "events.jsonl").is_file()):
            return End(Exit.DONE, "complete", step)
        if told and not self._left("rank"):
            code, cause = stopped_by(told[0])
            return End(code, f"{cause} before the run had begun", step)
        return End(*why_it_ended(self.folder, code, self.name), step)

    def _left(self, kind: str) -> list[dict[str, Any]]:
        return read_all(self.folder / "ranks", kind, self.name)

    def _events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        return read_events(path) if path.is_file() else []
