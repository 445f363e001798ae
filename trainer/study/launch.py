"""The command of a step: on which launcher it runs, and where its output goes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer import launchers
from trainer.errors import UserError
from trainer.launchers import Launcher

PATIENCE = 10.0  # seconds that an interrupted command is given to end, before each harder signal
LAST_LINES = 15
# Threads that wait for each other by spinning waste their cores as soon as anything else needs one, and threads that
# never spin are slow on cores of their own. Tokens/s of one run on 2 cores, alone and beside two busy processes:
# 750 and down to 50 by OpenMP's default, 540 and 370 by OMP_WAIT_POLICY=passive, 840 and 420 spinning this short while.
QUIET_WAITING = {"GOMP_SPINCOUNT": "30000"}


def run_step(launcher: Launcher, arguments: Sequence[str], log: Path, descriptor: int) -> int:
    """Run a step to its end, its output added to `log`; its exit code (negative: the signal that killed it).

    Args:
        descriptor: an open file that the command inherits (a lock).
    """
    command = launcher.command(arguments)
    with open(log, "ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        environment = launcher.environment(log.parent, {**QUIET_WAITING, **os.environ})
        options = {"env": environment, "stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, pass_fds=(descriptor,), **options)
        try:
            return process.wait()
        except KeyboardInterrupt:  # which a terminal has sent to the command as well
            _end(process)
            raise


def open_launcher(text: str | None) -> Launcher:
    """The launcher a user named; by default deepspeed where there are GPUs, else this Python in one process.

    Raises:
        UserError: it is not there, or this process was itself started by a launcher.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        fix = "start xstilts study as one plain process; --launcher names the launcher of its runs"
        raise UserError("the study was started by a launcher, as one of several processes", fix=fix)
    if text is None:
        text = "deepspeed" if launchers.gpus_of_node() else shlex.quote(sys.executable)
    return launchers.open_launcher(text)


def last_lines(log: Path, start: int = 0) -> list[str]:
    """The end of what was added to a log file since it had `start` bytes."""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()][-LAST_LINES:]


def _end(process: subprocess.Popen) -> None:
    for stop in (process.terminate, process.kill):
        try:
            process.wait(PATIENCE)
            return
        except subprocess.TimeoutExpired:
            stop()
    process.wait()
