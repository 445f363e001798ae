"""Short distributed runs, whose processes on this host a probe starts and ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from trainer.errors import UserError

GRACE = 3.0  # seconds that the others have to end by themselves when one failed
_RANK = re.compile(r"^\[rank\d+\]:\s*")  # torch puts it before each line of a traceback


def run_ranks(
    module: str, arguments: Sequence[str], ranks: Sequence[int], world: int, address: str, port: int, timeout: float
) -> None:
    """Run this host's processes of a distributed run, as a launcher would, to their end.

    Args:
        ranks: of the processes on this host.
        timeout: seconds, for all of it.

    Raises:
        UserError: one of them failed, with its last words, or they took too long.
    """
    with contextlib.ExitStack() as stack:
        started = []
        for local, rank in enumerate(ranks):
            errors = stack.enter_context(tempfile.TemporaryFile())
            variables = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": len(ranks)}
            variables |= {"MASTER_ADDR": address, "MASTER_PORT": port}
            environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
            command = [sys.executable, "-m", module, *arguments]
            options = {"stdin": subprocess.DEVNULL, "stdout": errors, "stderr": errors, "start_new_session": True}
            process = subprocess.Popen(command, env=environment, **options)
            stack.callback(_end, process)
            started.append((rank, process, errors))
        deadline = time.monotonic() + timeout
        while any(process.poll() is None for _, process, _ in started) and time.monotonic() < deadline:
            if any(process.poll() for _, process, _ in started):
                deadline = min(deadline, time.monotonic() + GRACE)
            time.sleep(0.05)
        late = [rank for rank, process, _ in started if process.poll() is None]
        failed = [(rank, _last_words(errors)) for rank, process, errors in started if process.poll()]
        if failed:
            raise UserError(f"rank {failed[0][0]} failed: {failed[0][1]}")
        if late:
            words = _last_words(next(errors for rank, _, errors in started if rank == late[0]))
            raise UserError(f"rank {late[0]} did not end within {timeout:.0f} s", why=words)


def _end(process: subprocess.Popen) -> None:
    """With what it has started, such as a compiler."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(file) -> str:
    file.seek(0)
    lines = [_RANK.sub("", line).strip() for line in file.read().decode(errors="replace").splitlines()]
    return ([line for line in lines if line and not line.startswith("[W")] or ["it said nothing"])[-1][:300]
