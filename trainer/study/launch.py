"""The command of a step: on which launcher it runs, and where its output goes."""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError

PATIENCE = 10.0  # seconds that an interrupted command is given to end, before each harder signal
PORTS = range(20000, 32000)  # below the ephemeral ports, which any connection may take
LAST_LINES = 15
# Threads that wait for each other by spinning waste their cores as soon as anything else needs one, and threads that
# never spin are slow on cores of their own. Tokens/s of one run on 2 cores, alone and beside two busy processes:
# 750 and down to 50 by OpenMP's default, 540 and 370 by OMP_WAIT_POLICY=passive, 840 and 420 spinning this short while.
QUIET_WAITING = {"GOMP_SPINCOUNT": "30000"}
_PROCESSES = re.compile(r"--(?:num_gpus|num_accelerators|nproc[_-]per[_-]node)$")


@dataclass(frozen=True)
class Launcher:
    """Words of a command that takes `--module trainer ...` (deepspeed) or `-m trainer ...` (python, torchrun)."""

    words: tuple[str, ...]

    @property
    def is_deepspeed(self) -> bool:
        return Path(self.words[0]).name == "deepspeed"

    @property
    def processes(self) -> int | None:
        """Of one run; None where the launcher does not say, and takes every GPU."""
        for word, after in zip(self.words, (*self.words[1:], ""), strict=True):
            name, _, value = word.partition("=")
            if _PROCESSES.match(name) and (value or after).isdigit():
                return int(value or after)
        return None if self.is_deepspeed else 1

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The whole command line of a step."""
        words = list(self.words)
        if self.is_deepspeed and not any(word.startswith("--master_port") for word in words):
            words += ["--master_port", str(_free_port())]  # two cells of a Slurm array may share a machine
        return [*words, "--module" if self.is_deepspeed else "-m", "trainer", *arguments]

    def run(self, arguments: Sequence[str], log: Path, descriptor: int) -> int:
        """Run a step to its end, its output added to `log`; its exit code (negative: the signal that killed it).

        Args:
            descriptor: an open file that the command inherits (a lock).
        """
        command = self.command(arguments)
        with open(log, "ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            environment = {**QUIET_WAITING, **os.environ}
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
    words = shlex.split(text) if text else _default()
    if not words:
        raise UserError("--launcher names no command", fix='e.g. --launcher "deepspeed --num_gpus 2"')
    beside = Path(sys.executable).parent / words[0]  # of an environment that is not activated
    found = shutil.which(words[0]) or (str(beside) if beside.is_file() else None)
    if found is None:
        fix = 'name one that is on the path, e.g. --launcher "deepspeed --num_gpus 2"'
        raise UserError(f"the launcher {words[0]!r} does not exist", fix=fix)
    return Launcher((found, *words[1:]))


def last_lines(log: Path, start: int = 0) -> list[str]:
    """The end of what was added to a log file since it had `start` bytes."""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()][-LAST_LINES:]


def _default() -> list[str]:
    import torch

    return ["deepspeed"] if torch.cuda.is_available() else [sys.executable]


def _end(process: subprocess.Popen) -> None:
    for stop in (process.terminate, process.kill):
        try:
            process.wait(PATIENCE)
            return
        except subprocess.TimeoutExpired:
            stop()
    process.wait()


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise UserError("a hundred random ports are all taken", fix="--launcher 'deepspeed --master_port PORT ...'")
