"""Processes that share the work of preparing data."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from trainer.exits import Exit, RunError


class Workers:
    """A pool of processes that call one function; a context, at whose end they end.

    Whatever is large goes through files of a folder of its own. Through the pool's pipes it would hang for ever when a
    process is killed in the midst of a message: the other side waits for the rest of it.
    """

    def __init__(self, count: int, function: Callable):
        self._folder = tempfile.TemporaryDirectory(prefix="xstilts-")
        self._numbers = itertools.count()
        context, path = multiprocessing.get_context("spawn"), Path(self._folder.name) / "function"
        path.write_bytes(pickle.dumps(function))
        self._others = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(count, context, _start, (path,))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, error: type | None, *_) -> None:
        if error:
            # A pool that breaks ends the processes it knows of, then waits for all: one that was just starting would
            # wait for work, and the pool for it, for ever.
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def submit(self, *arguments: Any) -> Future:
        """Have the function called with these.

        Raises:
            RunError: see `result`.
        """
        path = Path(self._folder.name) / str(next(self._numbers))
        path.write_bytes(pickle.dumps(arguments))
        try:
            return self._pool.submit(_call, path)
        except (BrokenProcessPool, OSError) as error:  # an OSError ("handle is closed") where it has just broken
            raise _killed(error) from None

    def result(self, future: Future) -> Any:
        """What the function gave.

        Raises:
            RunError: a process of the pool was killed.
        """
        try:
            path = future.result()
        except BrokenProcessPool as error:
            raise _killed(error) from None
        value = pickle.loads(path.read_bytes())
        path.unlink()
        return value


def _killed(error: Exception) -> RunError:
    return RunError(
        Exit.WORKER,
        "a process that prepares data was killed",
        why=f"perhaps for want of memory ({error})",
        fix="the same command again; data.workers=N with a small N needs less memory",
    )


_function: list[Callable] = []


def _start(path: Path) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a process; threads below it would fight
    _function.append(pickle.loads(path.read_bytes()))


def _call(path: Path) -> Path:
    """Replace a file of arguments by one of the value."""
    path.write_bytes(pickle.dumps(_function[0](*pickle.loads(path.read_bytes()))))
    return path
