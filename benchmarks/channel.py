"""The side of an arm: a training process that works only when it is its turn. `benchmarks.arms` is the other side."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

ADDRESS = "XSTILTS_ARM"  # environment variable: the parent's socket


class Stop(SystemExit):
    """Raised in an arm when the parent needs it no more."""


def connect() -> Channel:
    """The way to the parent that started this process as an arm; without a parent, steps just run on."""
    first = int(os.environ.get("RANK", 0)) == 0
    address = os.environ.get(ADDRESS) if first else None
    return Channel(Client(address, family="AF_UNIX") if address else None)


def spec_of(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The spec of this process, with `folder`: where it may write. The launcher's --local_rank is passed over."""
    words = [a for a in (sys.argv[1:] if arguments is None else arguments) if not a.startswith("--local_rank")]
    path = Path(words[0])
    return {"folder": str(path.parent), **json.loads(path.read_text())}


class Channel:
    """The arm's side. `step` blocks while it is not this arm's turn.

    Attributes:
        profiling: whether this turn measures phases.
    """

    def __init__(self, connection: Connection | None):
        self._connection = connection
        self.profiling = False
        self._turn: dict[str, Any] = {}
        self._clear()

    def ready(self, **facts: Any) -> None:
        """Tell the parent that the arm is built, and wait for the first turn.

        Args:
            facts: plain values, e.g. parameters, and baseline_bytes: memory before the model was built.

        Raises:
            Stop: the parent needs this arm no more.
        """
        if self._connection is None:
            return
        _synchronize()
        self._send(facts)
        self._await_turn()

    def step(self, useful_tokens: int, padded_tokens: int, examples: int) -> None:
        """Say that a complete optimizer step is done.

        Args:
            useful_tokens: tokens of the step on all processes, without padding.
            padded_tokens: tokens the model computed on, with padding.

        Raises:
            Stop: the parent needs this arm no more.
        """
        if self._connection is None:
            return
        now = time.perf_counter()
        if self._turn["settle"] > 0:
            self._turn["settle"] -= 1
            if self._turn["settle"] == 0:
                self._clear()
            return
        self._done += 1
        if self._done > 1 or not _cuda():  # on a GPU the first may only have been waiting to be reported
            self._steps.append(now - self._last)
        self._last = now
        self._useful, self._padded = self._useful + useful_tokens, self._padded + padded_tokens
        self._examples += examples
        if self._done < self._turn["steps"] or now - self._began < self._turn["seconds"]:
            return
        # Both ends of a turn wait for the device, so as many steps were computed in between as were counted, also
        # where the arm runs ahead of the device or reports a step late.
        _synchronize()
        seconds = time.perf_counter() - self._began
        self._send(
            {
                "steps": self._done,
                "seconds": seconds,
                "useful_tokens": self._useful,
                "padded_tokens": self._padded,
                "examples": self._examples,
                "step_seconds": self._steps,
                "peak_bytes": peak_bytes(),
                "phases": {name: total / self._done for name, total in self._phases.items()},
            }
        )
        _release()
        self._await_turn()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within to a phase of the step, in turns that profile."""
        if not self.profiling:
            yield
            return
        _synchronize()
        began = time.perf_counter()
        yield
        _synchronize()
        self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - began

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._connection.send(dict(message))
        except OSError:  # the parent is gone
            raise Stop(1) from None

    def _await_turn(self) -> None:
        try:
            self._turn = self._connection.recv()
        except (EOFError, OSError):
            raise Stop(1) from None
        if self._turn.get("stop"):
            raise Stop(0)
        self.profiling = self._turn["profile"]
        self._clear()

    def _clear(self) -> None:
        _synchronize()
        self._steps, self._phases = [], {}
        self._done = self._useful = self._padded = self._examples = 0
        self._began = self._last = time.perf_counter()


def use_cores(count: int) -> None:
    """Keep this process to the first `count` cores it may use, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:count]))


def wrap(channel: Channel, owner: Any, method: str, phase: str) -> None:
    """Count every call of `owner.method` to a phase."""
    inner = getattr(owner, method)

    def timed(*arguments, **keywords):
        with channel.phase(phase):
            return inner(*arguments, **keywords)

    setattr(owner, method, timed)


def peak_bytes() -> int:
    """Most memory of this process so far: allocated on the GPU, or resident."""
    cuda = _cuda()
    if cuda:
        return cuda.max_memory_allocated()
    return _status("VmHWM") or _peak_of_usage()


def used_bytes() -> int:
    """Memory of this process now: allocated on the GPU, or resident (0 where the system does not tell)."""
    cuda = _cuda()
    return cuda.memory_allocated() if cuda else _status("VmRSS")


def _status(key: str) -> int:
    # Not getrusage: its peak of a process that was just started includes the parent's memory (vfork).
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key + ":")), 0)


def _peak_of_usage() -> int:
    from trainer.host import peak_resident_bytes  # which imports torch, as the parent of arms need not

    return peak_resident_bytes()


def _cuda():
    """torch.cuda where this process uses it; nothing is imported for it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _synchronize() -> None:
    if (cuda := _cuda()) and cuda.is_initialized():
        cuda.synchronize()


def _release() -> None:
    """Give cached memory back, as other arms share the device, or the machine."""
    if (cuda := _cuda()) and cuda.is_initialized():
        cuda.empty_cache()
    elif "torch" in sys.modules:
        from trainer.host import release_free_memory

        release_free_memory()
