"""Arms: what a comparison compares, each a process of its own, of which exactly one runs at a time.

Every arm is built and warmed up once and then waits; the parent gives turns A B A B, so that all arms see the same
machine, the same heat and the same neighbours. An arm has its own memory, its own environment and its own log.

    parent                                          child (python -m MODULE SPEC.json)
    with start([Arm(...), ...]) as running:         channel = connect()
        rounds = interleave(running, 20, 5, 20, 5)  channel.ready(parameters=...)       # waits for the first turn
    summary(rounds["name"])                         channel.step(tokens, tokens, units) # after each optimizer step

Of several processes only rank 0 talks; while it waits for its turn, the others wait for it in a collective (on GPUs,
with a kernel that spins on their devices, but not on rank 0's).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.channel import ADDRESS, Channel, Stop, connect, peak_bytes, spec_of, use_cores, used_bytes, wrap

__all__ = [  # both sides, so that an arm needs to know one module
    "Arm", "ArmDied", "Channel", "Process", "Running", "Stop", "Turn", "connect", "interleave", "peak_bytes",
    "ratio_of_rounds", "spec_of", "spread", "start", "summary", "use_cores", "used_bytes", "wrap",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]
SETTLE = 2  # untimed steps at the start of a turn: caches that the other arms' turns took are filled again
PATIENCE = 1800.0  # seconds without a word from an arm
TAIL = 3000  # characters of a dead arm's log that are shown

Turn = dict[str, Any]


class ArmDied(RuntimeError):
    """An arm ended, or fell silent, before its work was done; the text has the end of its log."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        module: what the process runs: `python -m MODULE SPEC.json`.
        spec: plain JSON for it.
        processes: above 1, it is started through the deepspeed launcher.
        environment: variables besides this process's own.
    """

    name: str
    module: str
    spec: dict[str, Any]
    processes: int = 1
    environment: dict[str, str] = field(default_factory=dict)


class Process:
    """An arm that was started. `facts` is what it said when it was ready."""

    def __init__(self, arm: Arm, folder: Path):
        self.arm, self.facts, self.log = arm, {}, folder / "log.txt"
        folder.mkdir()
        spec = folder / "spec.json"
        spec.write_text(json.dumps(arm.spec))
        # Linux allows a socket's path 108 characters, which a nested temporary folder may exceed: hence its own.
        self._place = tempfile.TemporaryDirectory(prefix="arm")
        address = str(Path(self._place.name) / "s")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(1)
        self._listener.settimeout(0.2)
        self._connection: Connection | None = None
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **arm.environment, ADDRESS: address}
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                _command(arm, spec), env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_ready(self) -> None:
        """Until the arm is built.

        Raises:
            ArmDied: it is not going to be.
        """
        until = time.monotonic() + PATIENCE
        while self._connection is None:
            try:
                self._connection = Connection(self._listener.accept()[0].detach())
            except TimeoutError:
                self._check(until)
        self.facts = self._receive(until)

    def turn(self, steps: int, seconds: float = 0.0, settle: int = SETTLE, profile: bool = False) -> Turn:
        """Let the arm run at least `steps` steps and `seconds` seconds after `settle` untimed steps.

        Args:
            profile: measure phases, which needs synchronisations: such a turn is not to be compared.

        Raises:
            ArmDied: it ended before the turn did.
        """
        try:
            self._connection.send({"steps": steps, "seconds": seconds, "settle": settle, "profile": profile})
        except OSError:
            self._check(0)
        return self._receive(time.monotonic() + seconds + PATIENCE)

    def stop(self, grace: float = 20.0) -> None:
        """End the arm, by force where asking does not help; several processes are always ended by force, since all
        but the first sit in a collective."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send({"stop": True})
        until = time.monotonic() + (grace if self._connection is not None and self.arm.processes == 1 else 0)
        while self._process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        if self._process.poll() is None or self.arm.processes > 1:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its own session: nothing but this arm is in it
        self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._listener.close()
        self._place.cleanup()

    def _receive(self, until: float) -> dict[str, Any]:
        while True:
            try:
                if self._connection.poll(0.2):
                    return self._connection.recv()
            except (EOFError, OSError):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)  # its last words come before the end
                self._check(0)
            self._check(until)

    def _check(self, until: float) -> None:
        ended = self._process.poll()
        if ended is None and time.monotonic() < until:
            return
        what = f"ended with exit code {ended}" if ended is not None else "said nothing for too long"
        tail = self.log.read_text(errors="replace")[-TAIL:]
        raise ArmDied(f"arm {self.arm.name} ({self.arm.module}) {what}; the end of its log:\n{tail}")


class Running(dict[str, Process]):
    """Arms by name that are ready; `failed` has the reasons of those that are not any more."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: dict[str, str] = {}

    def lose(self, name: str, error: ArmDied, tolerate: bool) -> None:
        if not tolerate:
            raise error
        self.failed[name] = str(error)
        self.pop(name, None)


@contextlib.contextmanager
def start(arms: Sequence[Arm], together: int = 1, tolerate: bool = False) -> Iterator[Running]:
    """Build arms; they are stopped at the end, whatever happens.

    Args:
        together: how many are built at a time. Building is not timed, but takes memory and cores.
        tolerate: an arm that dies is noted in `failed` and the others go on.

    Raises:
        ArmDied: an arm did not get ready.
    """
    running, started = Running(), []
    with tempfile.TemporaryDirectory(prefix="arms") as folder:
        try:
            for at in range(0, len(arms), together):
                batch = []
                for number, arm in enumerate(arms[at : at + together], at):
                    batch.append(Process(arm, Path(folder) / str(number)))
                    started.append(batch[-1])
                for process in batch:
                    try:
                        process.wait_ready()
                        running[process.arm.name] = process
                    except ArmDied as error:
                        running.lose(process.arm.name, error, tolerate)
            yield running
        except BaseException:
            for process in started:
                process.stop(grace=0)
            raise
        for process in started:
            process.stop()


def interleave(
    running: Running,
    warmup_steps: int,
    rounds: int,
    steps: int,
    seconds: float,
    tolerate: bool = False,
    after_round: Callable[[dict[str, list[Turn]]], None] = lambda turns: None,
) -> dict[str, list[Turn]]:
    """Warm every arm up, then `rounds` times give each a turn; the timed turns by arm.

    Args:
        after_round: told the turns so far after each timed round.

    Raises:
        ArmDied: an arm ended on the way.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in running}
    for number in range(rounds + 1):
        for name, process in list(running.items()):
            try:
                if number == 0:
                    process.turn(max(1, warmup_steps), settle=0)
                else:
                    turns[name].append(process.turn(steps, seconds))
            except ArmDied as error:
                running.lose(name, error, tolerate)
        if number:
            after_round({name: turns[name] for name in running})
    return {name: turns[name] for name in running}


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Figures of an arm over its turns: rates are each turn's tokens over its seconds, steps those of all turns."""
    rates = {
        f"{kind}_tokens_per_second": spread([turn[f"{kind}_tokens"] / turn["seconds"] for turn in turns])
        for kind in ("useful", "padded")
    }
    return {
        **rates,
        "examples_per_second": spread([turn["examples"] / turn["seconds"] for turn in turns]),
        "step_seconds": spread([seconds for turn in turns for seconds in turn["step_seconds"]]),
        "peak_bytes": max(turn["peak_bytes"] for turn in turns),
        "fill": sum(turn["useful_tokens"] for turn in turns) / sum(turn["padded_tokens"] for turn in turns),
        "useful_tokens": sum(turn["useful_tokens"] for turn in turns),
        "padded_tokens": sum(turn["padded_tokens"] for turn in turns),
        "examples": sum(turn["examples"] for turn in turns),
        "steps": sum(turn["steps"] for turn in turns),
        "seconds": sum(turn["seconds"] for turn in turns),
        "turns": len(turns),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratio_of_rounds(ours: Sequence[Turn], theirs: Sequence[Turn]) -> dict[str, float]:
    """Useful tokens/s of one arm over another's, round by round: neighbours in time are compared with each other."""
    rates = [[turn["useful_tokens"] / turn["seconds"] for turn in turns] for turns in (ours, theirs)]
    return spread([a / b for a, b in zip(*rates, strict=True)])


def _command(arm: Arm, spec: Path) -> list[str]:
    if arm.processes == 1:
        return [sys.executable, "-u", "-m", arm.module, str(spec)]
    # The launcher's module rather than its script, which need not be on the path; below the ephemeral ports.
    launcher = [sys.executable, "-u", "-m", "deepspeed.launcher.runner", "--num_gpus", str(arm.processes)]
    return [*launcher, "--master_port", str(_free_port()), "--module", arm.module, str(spec)]


def _free_port() -> int:
    for port in range(21000 + os.getpid() % 4000, 32000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise RuntimeError("no free port between 21000 and 32000")
