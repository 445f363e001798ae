"""A run folder is one run's, and every host of the run sees it.

RUN/lock           host, process and a token of this start; under a lock that lasts until rank 0 ends, however it ends
RUN/launch.lock    the same of what starts the run's processes
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer import distributed
from trainer.errors import UserError
from trainer.exits import Exit, RunError
from trainer.watch.ranks import ATTEMPT, see_new_files

FILE, LAUNCH_FILE = "lock", "launch.lock"
PATIENCE = 30.0  # seconds: a run that is started again at once may find its killed process not yet gone
OTHER_HOST = 120.0  # seconds, instead: a file server keeps the locks of a host that is lost for about 90
SEEN_WITHIN = 30.0  # seconds: network file systems show new files late
LOOK = 0.5  # seconds between looks


@contextlib.contextmanager
def claimed(run: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The folder is this run's alone while the context lasts; all ranks must enter it.

    Args:
        say: takes a line for the user, on rank 0.

    Raises:
        UserError: on every rank: another run has the folder, it cannot be written, or not every host sees it.
    """
    with contextlib.ExitStack() as held:
        _check_seen(run, distributed.on_first(lambda: _take(run, held, say)))
        yield


@contextlib.contextmanager
def launch_claimed(run: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Only this process starts and ends processes of the run while the context lasts.

    Raises:
        UserError: another one does, or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        _take(run, held, say, LAUNCH_FILE)
        yield


def _take(run: Path, held: contextlib.ExitStack, say: Callable[[str], None], file: str = FILE) -> str:
    """Lock the folder until `held` closes; the text of its lock file."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        handle = os.open(run / file, os.O_RDWR | os.O_CREAT, 0o644)  # NFS locks only what is open for writing
        held.callback(os.close, handle)
        _lock(handle, run, say)
        text = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}\n"
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
        os.fsync(handle)
    except OSError as error:
        fix = "run.folder=FOLDER elsewhere"
        raise UserError(f"run folder {run} cannot be written", why=str(error), fix=fix) from None
    return text


def _lock(handle: int, run: Path, say: Callable[[str], None]) -> None:
    deadline = None
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            host, pid, *_ = [*os.pread(handle, 1000, 0).decode(errors="replace").split(), "?", "?"]
        except OSError as error:
            say(f"warning: nothing keeps a second run out of {run}: its file system has no locks ({error})")
            return
        here = host == socket.gethostname()
        if deadline is None:
            patience = PATIENCE if here else OTHER_HOST
            deadline = time.monotonic() + patience
            say(f"run folder {run} is in use by process {pid} on {host}; waiting up to {patience:.0f} s for its end")
        elif time.monotonic() > deadline:
            end = f"kill {pid}" if here else f"ssh {host} kill {pid}"
            raise RunError(
                Exit.PEER if os.environ.get(ATTEMPT) else Exit.USER,  # under a supervisor: a lost host's lock will go
                f"run folder {run} is in use by process {pid} on {host}",
                why="two runs would delete each other's checkpoints",
                fix=f"run.name=ANOTHER for a run beside it; or end that one first: {end}",
            )
        time.sleep(LOOK)


def _check_seen(run: Path, text: str) -> None:
    """Every host must find rank 0's lock file, with its text, in the folder: else it is another folder there."""
    own = socket.gethostname()
    hosts = distributed.gather_objects(own)
    if len(set(hosts)) == 1:
        return
    deadline = time.monotonic() + SEEN_WITHIN
    while not (seen := _sees(run, text)) and time.monotonic() < deadline:
        time.sleep(LOOK)
    blind = [host for host, sees in zip(hosts, distributed.gather_objects(seen), strict=True) if not sees]
    if blind:
        raise UserError(
            f"run folder {run} of {hosts[0]} is not seen on {', '.join(dict.fromkeys(blind))}",
            why="every process writes its part of a checkpoint there",
            fix="run.folder=FOLDER on a file system that all hosts share, at the same path",
        )


def _sees(run: Path, text: str) -> bool:
    with contextlib.suppress(OSError):
        if (run / FILE).read_text() == text:
            return True
    see_new_files(run)
    return False
