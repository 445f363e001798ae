"""A launcher's command while it runs: its exit code, and signals to every rank it has started."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from trainer import hosts
from trainer.hosts import Host

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
POLL_SECONDS = 0.2
HOSTS_SECONDS = 60.0  # for a command on all hosts
SRUN_SECONDS = 30.0  # for srun to end its tasks


class Running:
    """A command at work, in a session of its own: a terminal's Ctrl-C reaches only the process that started it, which
    tells every rank by `signal`.

    Attributes:
        command: its words; process: its Popen.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        remote: Sequence[Host] = (),
        alone: bool = False,
        **options,
    ):
        """Start it.

        Args:
            remote: hosts on which a deepspeed launcher starts ranks over ssh.
            alone: the command is no launcher, but itself the only rank.
            options: of subprocess.Popen.
        """
        self.command, self.remote, self.alone = list(command), tuple(remote), alone
        own = {"env": dict(environment), "stdin": subprocess.DEVNULL, "start_new_session": True}
        # Launchers do not know SIGUSR1, and would end by it; srun passes it on. What a process ignores, those that it
        # starts ignore too, until they ask for it, as ranks do.
        usr1 = signal.SIG_DFL if self._is_srun else signal.SIG_IGN
        ready = functools.partial(signal.signal, signal.SIGUSR1, usr1)
        self.process = subprocess.Popen(self.command, preexec_fn=ready, **(own | options))

    @property
    def _is_srun(self) -> bool:
        return Path(self.command[0]).name == "srun"

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; 128 + N, as in a shell, if signal N has killed it.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        code = self.process.wait(timeout)
        return code if code >= 0 else 128 - code

    def wait_passing_signals(self) -> int:
        """As `wait`; meanwhile signals to end go on to every rank, and a second Ctrl-C ends everything at once."""
        passed_on = 0
        with signals_taken() as told:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return self.wait(POLL_SECONDS)
                for number in told[passed_on:]:
                    passed_on += 1
                    if told[:passed_on].count(signal.SIGINT) > 1:
                        self.kill()
                    else:
                        self.signal(number)

    def signal(self, number: int) -> None:
        """Send a signal to every rank on every host; the launcher itself only sees how they end.

        A signal to the launcher would do more: deepspeed's then ends all deepspeed processes of the user on all hosts,
        and deepspeed's and torchrun's give ranks 30 seconds to save, then kill them. Only srun passes signals on; to
        Ctrl-C's it would merely answer with a status, so it gets SIGTERM.
        """
        if self.remote:
            self._on_hosts(f"pkill -{int(number)} -P $p")
        elif self._is_srun:
            self.process.send_signal(signal.SIGTERM if number == signal.SIGINT else number)
        elif not self.alone and (ranks := ranks_below(self.process.pid)):
            for rank in ranks:
                _send(rank, number)
        else:  # without a launcher, or before its first rank
            self.process.send_signal(number)

    def kill(self) -> None:
        """End the command and every rank at once; the launcher first, which could take their end for a good one."""
        if self._is_srun:  # whose tasks would live on, were it killed
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(SRUN_SECONDS)
        below = _descendants(self.process.pid)
        self.process.kill()
        for process in below:
            _send(process, signal.SIGKILL)
        self.process.wait()
        if self.remote:
            self._on_hosts("pkill -KILL -P $p; kill -KILL $(echo $p | tr , ' ')")

    def _on_hosts(self, action: str) -> None:
        """Run a shell command on every host with $p being the deepspeed process there whose children are the ranks."""
        port = self.command[self.command.index("--master_port") + 1]
        # Not the ssh, pdsh and shells that have the same words behind their own.
        mark = f"^[^ ]*python[^ ]* -u -m deepspeed.launcher.launch .*--master_port={port} "
        names = ",".join(host.name for host in self.remote)
        words = ["pdsh", "-R", "ssh", "-w", names, f"p=$(pgrep -d, -f '{mark}') && {{ {action}; }}"]
        environment = {**os.environ, "PDSH_SSH_ARGS_APPEND": hosts.SSH_OPTIONS}
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with contextlib.suppress(subprocess.TimeoutExpired):  # a host whose shell hangs
            subprocess.run(words, env=environment, **quiet, timeout=HOSTS_SECONDS)


@contextlib.contextmanager
def signals_taken() -> Iterator[list[int]]:
    """Meanwhile signals that would end this process only grow a list, in the order in which they come. Under nohup the
    end of a terminal is none."""
    told: list[int] = []
    taken = [n for n in PASSED_ON if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: told.append(number)) for number in taken}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ranks_below(process: int) -> list[psutil.Process]:
    """The ranks on this machine that a process has started: the topmost of its descendants that have RANK in their
    environment. (Below them are processes that read and prepare data.)"""
    found: list[psutil.Process] = []
    for below in _descendants(process):
        with contextlib.suppress(psutil.Error):
            if "RANK" in below.environ() and not any(parent in found for parent in below.parents()):
                found.append(below)
    return found


def _descendants(process: int) -> list[psutil.Process]:
    """Parents before their children; none of a process that has ended."""
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
