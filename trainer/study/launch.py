"""The command of a step: on which launcher it runs, where its output goes, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer import launchers
from trainer.attempt import LOOK, Attempt, End
from trainer.errors import UserError
from trainer.exits import RunError
from trainer.launchers import Launcher
from trainer.launching import Options, choose
from trainer.running import Running
from trainer.study.plan import Cell, Step

LAST_LINES = 15
# Threads that wait for each other by spinning waste their cores as soon as anything else needs one, and threads that
# never spin are slow on cores of their own. Tokens/s of one run on 2 cores, alone and beside two busy processes:
# 750 and down to 50 by OpenMP's default, 540 and 370 by OMP_WAIT_POLICY=passive, 840 and 420 spinning this short while.
QUIET_WAITING = {"GOMP_SPINCOUNT": "30000"}


class Stopped(RunError):
    """A signal has ended the study, or only the run of its cell; the cell is neither done nor failed."""


def run_step(launcher: Launcher, cell: Cell, step: Step, log: Path, descriptor: int, told: Sequence[int]) -> End:
    """Run a step to its end, its output added to `log`.

    Args:
        descriptor: an open file that the command inherits (a lock).
        told: signals to this process; it may grow meanwhile. Training gets them (see `Attempt.end`) and saves; an
            evaluation has nothing to save and is killed.
    """
    with open(log, "ab", buffering=0) as file:
        files = {"stdout": file, "stderr": subprocess.STDOUT, "pass_fds": (descriptor,)}

        def start(own: Mapping[str, str]) -> Running:
            running = launcher.start(step.arguments, log.parent, {**QUIET_WAITING, **os.environ, **own}, **files)
            file.write(f"$ {shlex.join(running.command)}\n".encode())
            return running

        if step.name == "train":
            return Attempt(cell.run, start, lambda line: file.write(f"{line}\n".encode())).end(told)
        return _evaluated(start({}), told)


def open_launcher(text: str | None) -> Launcher:
    """The launcher a user named; by default deepspeed where there are GPUs, else this Python in one process.

    Raises:
        UserError: it is not there, or this process was itself started by a launcher.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        fix = "start xstilts study as one plain process; --launcher names the launcher of its runs"
        raise UserError("the study was started by a launcher, as one of several processes", fix=fix)
    if text is None:  # a cell that is to take all nodes of a Slurm job needs --launcher srun
        return choose(Options(), {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")})[0]
    return launchers.open_launcher(text)


def last_lines(log: Path, start: int = 0) -> list[str]:
    """The end of what was added to a log file since it had `start` bytes."""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()][-LAST_LINES:]


def _evaluated(running: Running, told: Sequence[int]) -> End:
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = running.wait(LOOK)
                return End(code, "see its log" if code else "complete", 0)
            if told:
                running.kill()
    except BaseException:
        running.kill()
        raise
