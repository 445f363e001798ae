"""The supervisor: starts a run, and again from its newest checkpoint when it was ended by something that may pass.

It trains nothing itself, so it survives what ends the run's processes. It knows them by the files that they leave in
the run folder (trainer.watch.ranks).
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from trainer.attempt import LOOK, Attempt, End, new_token, stopped_by
from trainer.exits import TRANSIENT, Exit, RunError
from trainer.hosts import AT_ONCE, CONNECT_SECONDS, ssh_command
from trainer.running import Running, signals_taken
from trainer.watch.ranks import ATTEMPT, read_all

LONGEST_WAIT = 60.0  # seconds between starts
SAME_AGAIN = frozenset({Exit.BUG, Exit.HANG, Exit.MEMORY, Exit.NOT_FINITE})  # what the step itself may be the cause of
Hosts = Mapping[str, int]  # host -> processes; empty: this machine, as the launcher decides
Start = Callable[[Hosts, Mapping[str, str]], Running]  # starts the run on these hosts, in this environment


@dataclass
class Patience:
    """Decides whether a run is started again.

    Attributes:
        retries: so many attempts in a row may end without any step more than before.
        pause: seconds before the next attempt; doubled by each that was in vain.
    """

    retries: int = 10
    pause: float = 1.0
    furthest: int = 0
    in_vain: int = 0
    failed_at: dict[int, int] = field(default_factory=dict)  # exit code -> step at which it last ended the run

    def after(self, end: End) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            RunError: there is to be none: the cause does not pass by itself, the step itself is the cause (it ended
                the run twice), or too many attempts were in vain.
        """
        if end.code not in TRANSIENT:
            raise RunError(_known(end.code), end.cause, fix="mend it, then the same command again: it continues")
        if end.code in SAME_AGAIN and self.failed_at.get(end.code) == end.step and end.step:
            raise RunError(
                Exit.GAVE_UP,
                f"step {end.step + 1} ended the run twice with exit code {int(end.code)}: {end.cause}",
                why="what happens twice at one step would happen again",
                fix="see its examples and the stacks in the run's folder ranks/; then the same command again",
            )
        self.failed_at[end.code] = end.step
        self.in_vain = 0 if end.step > self.furthest else self.in_vain + 1
        self.furthest = max(self.furthest, end.step)
        if self.in_vain > self.retries:
            raise RunError(
                Exit.GAVE_UP,
                f"{self.in_vain} attempts in a row came no further than step {self.furthest}; the last: {end.cause}",
                fix="xstilts doctor RECIPE --hostfile H; --retries N allows more",
            )
        return min(LONGEST_WAIT, self.pause * 2.0**self.in_vain)


class Supervisor:
    """Args:
    run: the run's folder.
    packs: gives the packs of a step, which the processes must share evenly; None where nobody knows yet.
    start: see `Start`.
    hosts: all that the run may use.
    wait_for_hosts: seconds that a host may be away before the run goes on without it.
    say: takes a line for the user.
    """

    def __init__(
        self,
        run: Path,
        packs: Callable[[], int | None],
        start: Start,
        hosts: Hosts,
        patience: Patience,
        wait_for_hosts: float,
        say: Callable[[str], None],
    ):
        self.folder, self.packs, self.start, self.hosts = run, packs, start, dict(hosts)
        self.patience, self.wait_for_hosts = patience, wait_for_hosts
        self.say = lambda text: say(f"supervisor: {text}")
        self.attempt, self.token, self.told = 0, new_token(), []
        self._names = {socket.gethostname(): ""}  # what a host calls itself -> what ssh calls it; "": this machine
        self._left: set[tuple[str, int, str]] = set()  # processes that may live on: host, number, their attempt

    def run(self) -> None:
        """Until the run is complete.

        Raises:
            RunError: it was stopped by a signal, or cannot be completed; see `Patience`.
        """
        with signals_taken() as self.told:
            while True:
                hosts = self._hosts()
                self._check_told()
                end = self._attempt(hosts)
                if end.code == Exit.DONE:
                    return
                wait = self.patience.after(end)
                self.say(f"attempt {self.attempt} ended at step {end.step} with {end.code}: {end.cause}")
                self._check_told()
                self.say(f"starting again in {wait:.1f} s")
                self._sleep(wait)

    def _attempt(self, hosts: Hosts) -> End:
        self.attempt += 1
        self._end_leftovers(hosts)
        start = lambda own: self.start(hosts, own)  # noqa: E731
        attempt = Attempt(self.folder, start, self.say, self.attempt, self.token)
        self.say(f"attempt {self.attempt}: {shlex.join(attempt.running.command)}")
        end = attempt.end(self.told)
        return end if end.code in set(Exit) else End(Exit.PEER, end.cause, end.step)

    def _check_told(self) -> None:
        if self.told:
            code, cause = stopped_by(self.told[0])
            raise RunError(code, f"{cause}, when the run was down", fix="the same command again")

    def _sleep(self, seconds: float) -> None:
        """Until a signal comes."""
        until = time.monotonic() + seconds
        while not self.told and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK, left))

    def _end_leftovers(self, hosts: Hosts) -> None:
        """Kill what attempts before have left, say behind a cut link: two of a rank would write one checkpoint."""
        for state in read_all(self.folder / "ranks", "rank"):
            if attempt := state.get("attempt"):
                self._left.add((state["host"], int(state["pid"]), attempt))
        for name, pid, attempt in sorted(self._left):
            host = self._names.get(name)
            # The number may have gone to another program since, perhaps to another run's.
            own = shlex.quote(f"{ATTEMPT}={attempt}")
            is_it = f"tr '\\0' '\\n' < /proc/{pid}/environ | grep -qxF {own}"
            command = ["sh", "-c", f"{is_it} && kill -KILL {pid}"]
            if host == "":
                subprocess.run(command, stderr=subprocess.DEVNULL)
            elif host not in hosts or _over_ssh(host, command) is None:
                continue  # until it answers
            self._left.discard((name, pid, attempt))

    def _hosts(self) -> Hosts:
        """The hosts of the next attempt: those that answer, once the others have had their time to come back."""
        if not self.hosts:
            return {}
        deadline, said = time.monotonic() + self.wait_for_hosts, False
        while True:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                found = dict(zip(self.hosts, pool.map(name_of, self.hosts), strict=True))
            there = {host: self.hosts[host] for host, name in found.items() if name}
            self._names = {name: host for host, name in found.items() if name} | self._names
            if len(there) == len(self.hosts) or time.monotonic() > deadline or self.told:
                break
            if not said:
                away = ", ".join(host for host in self.hosts if host not in there)
                self.say(f"{away} does not answer; waiting for up to {self.wait_for_hosts:.0f} s")
                said = True
            self._sleep(5.0)
        chosen = share_evenly(there, self.packs())
        if not chosen and not self.told:
            raise RunError(Exit.PEER, "no host answers", fix="xstilts doctor --hostfile H")
        if len(chosen) < len(self.hosts):
            self.say(f"going on with {', '.join(chosen)}")
        return chosen


def share_evenly(hosts: Hosts, packs: int | None) -> Hosts:
    """As many of the hosts' processes as share `packs` evenly (None: all of them): the fewest hosts are left out, then
    slots."""
    if packs is None:
        return hosts
    names = list(hosts)
    for count in range(len(names), 0, -1):
        kept = {name: hosts[name] for name in names[:count]}
        for most in range(max(kept.values()), 0, -1):
            fewer = {name: min(slots, most) for name, slots in kept.items()}
            if packs % sum(fewer.values()) == 0:
                return fewer
    return {}


def name_of(host: str) -> str | None:
    """What a host calls itself; None if it does not answer over ssh within seconds."""
    asked = _over_ssh(host, ["uname", "-n"])
    return asked.stdout.strip() if asked and asked.returncode == 0 else None


def _over_ssh(host: str, command: Sequence[str]) -> subprocess.CompletedProcess | None:
    words, quiet = ssh_command(host, command), {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        return subprocess.run(words, **quiet, timeout=2 * CONNECT_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _known(code: int) -> Exit:
    return Exit(code) if code in set(Exit) else Exit.BUG
