"""How the command ends: an exit code for each cause, and one line that says the cause, the last on standard error.

Codes are below 64, where neither the shell's (126 and above) nor sysexits.h's begin.
"""

from __future__ import annotations

import errno
import re
from enum import IntEnum

from trainer.errors import UserError

_PEER = re.compile(r"connection (closed|reset|refused)|broken pipe|gloo|nccl|TCPStore|timed out|wait timeout", re.I)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Exit(IntEnum):
    """Exit codes; README lists them."""

    DONE = 0
    BUG = 1  # an unexpected error, with its traceback; or cells of a study failed
    USER = 2  # the recipe, the data or the machine: said with the next command
    DISK = 20  # a file of the run could not be written
    CHECKPOINT = 21  # every checkpoint of the run is damaged
    NOT_FINITE = 22  # the loss was not a number for too long
    HANG = 23  # no step within the watchdog's time
    PEER = 24  # another process of the run is gone, or never came
    WORKER = 25  # a process that prepares data was killed
    ENVIRONMENT = 26  # the run's processes do not have the same devices, code, versions or data
    MEMORY = 27  # out of memory
    STOPPED = 28  # asked to stop by a signal; saved before
    GAVE_UP = 29  # the supervisor: restarted in vain
    INTERRUPTED = 130  # Ctrl-C


class RunError(UserError):
    """An error of a run with an exit code of its own."""

    def __init__(self, code: Exit, what: str, *, why: str = "", fix: str = ""):
        super().__init__(what, why=why, fix=fix)
        self.exit_code = code

    def __reduce__(self):  # pickled, from rank 0 to the others
        return _rebuild, (self.exit_code, self.what, self.why, self.fix)


def _rebuild(code, what, why, fix):
    return RunError(code, what, why=why, fix=fix)


# Started again, the run may well come through: nothing in the recipe, the data or the machine need be mended first.
TRANSIENT = frozenset({Exit.BUG, Exit.HANG, Exit.PEER, Exit.WORKER, Exit.MEMORY, Exit.NOT_FINITE})


def explain(error: BaseException) -> tuple[Exit | int, str]:
    """Exit code and one-line cause of what ended a command."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    if isinstance(error, UserError):
        return error.exit_code, " ".join(error.what.split())
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED, "interrupted"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Exit.MEMORY, said
    if isinstance(error, OSError) and error.errno in _DISK:
        return Exit.DISK, said
    if isinstance(error, (RuntimeError, ConnectionError)) and _PEER.search(said):
        return Exit.PEER, f"the connection to another process of the run broke: {said}"
    return Exit.BUG, said
