"""What happens in a run, as a stream of events.

An event is one flat dict: its kind under `event`, seconds since the epoch under `time`, and the fields of that kind.
Sinks receive every event as it happens: `JsonLines` keeps them for good, the terminal view shows them.

Kinds and their fields (a kind may carry more):

    start       total_steps, first_step (the number of the first one to take), tasks, rates {task: share asked for},
                world_size, stage, dtype, device, run_folder, packs_per_step, pack_tokens, notes (said once)
    prepared    what preparing the data gave
    step        step (1 is the first), loss, task_loss {task: loss}, examples {task: count}, example_ids_hash, tokens,
                pack_fill, learning_rate, grad_norm, step_seconds, useful_tokens_per_second, memory_bytes
    evaluation  step, scores {task: {metric: value}}
    checkpoint  step, folder, seconds (of writing it), stalled_seconds (of them, training waited), bytes; waited_seconds
                when the one before was still being written
    resume      step, folder, examples {task: count}
    export      step, path
    progress    what, and how far it is: signs of life of a long evaluation
    warning     message
    finish      where everything lies
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer.errors import UserError

Sink = Callable[[dict[str, Any]], None]
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Events:
    """Hands every event to every sink, in order. Ranks other than 0 have none: `Events([])`.

    Args:
        sinks: callables of one event; those with a `close()` are closed with this.
    """

    def __init__(self, sinks: Iterable[Sink]):
        self.sinks = list(sinks)

    def emit(self, event: str, **fields: Any) -> None:
        """Gives each sink the same dict, of plain Python values: numpy and torch scalars become numbers."""
        if not self.sinks:
            return
        happened = {"event": event, "time": time.time(), **_plain(fields)}
        for sink in self.sinks:
            sink(happened)

    def close(self) -> None:
        """Closes the sinks that can be closed; a second call does nothing."""
        sinks, self.sinks = self.sinks, []
        for sink in sinks:
            if hasattr(sink, "close"):
                sink.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class JsonLines:
    """Appends one JSON object a line, flushed, so that a killed run loses at most the line being written.

    Floats keep their full precision; NaN and infinities, which JSON lacks, are written as "nan", "inf", "-inf".

    Attributes:
        torn_bytes: length of a half-written last line, left by a killed process, that opening removed.

    Raises:
        UserError: the file cannot be opened for writing.
    """

    def __init__(self, path: str | Path):
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.torn_bytes = _remove_torn_line(Path(path))
            self._file = open(path, "ab")
        except OSError as error:
            raise UserError(
                f"events cannot be written to {path}", why=str(error), fix="choose another run.folder"
            ) from None

    def __call__(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(_finite(_plain(event)), ensure_ascii=False, allow_nan=False) + "\n"
        self._file.write(line.encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of a file written by `JsonLines`, oldest first, with "nan", "inf" and "-inf" as floats again.

    A last line without its newline is still being written, or was torn by a kill: it is no event yet.

    Raises:
        UserError: the file is missing, or a whole line is not a JSON object.
    """
    if not Path(path).is_file():
        raise UserError(f"event file {path} does not exist", fix="name the events.jsonl in a run's folder")
    events = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if not isinstance(event, dict):
                raise UserError(f"line {number} of {path} is not a JSON object", fix="remove that line")
            events.append(_numbers(event))
    return events


def _remove_torn_line(path: Path) -> int:
    """Cuts the file after its last newline and returns the number of bytes removed."""
    if not path.exists():
        return 0
    with open(path, "rb+") as file:
        size = place = file.seek(0, os.SEEK_END)
        keep = 0
        while place:
            start = max(0, place - 65536)
            file.seek(start)
            newline = file.read(place - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            place = start
        file.truncate(keep)
    return size - keep


def _plain(value: Any) -> Any:
    """`value` as JSON's types; 0-d and larger numpy arrays and torch tensors become numbers and lists."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(below) for below in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    raise TypeError(f"an event cannot carry {value!r}, a {type(value).__name__}")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(below) for key, below in value.items()}
    return [_finite(below) for below in value] if isinstance(value, list) else value


def _numbers(value: Any) -> Any:
    """The inverse of `_finite`."""
    if isinstance(value, dict):
        return {key: _numbers(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_numbers(below) for below in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
