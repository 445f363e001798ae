"""What is known of a cell on disk: begun.json while it runs, done.json, written atomically, once all of it is there.

Both hold the cell's identity (every key that decides its result), so that a cell made with other settings is noticed
and the setting is named.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer import __version__, checkpoint
from trainer.attempt import LOOK, stopped_by
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.study.launch import Stopped
from trainer.study.plan import Cell, Step
from trainer.study.spec import flat

DONE, BEGUN = "done.json", "begun.json"


def state_of(cell: Cell) -> str:
    """`done`, `begun`, `to do`, or `changed`: done or begun with other settings.

    Raises:
        UserError: a record is not what was written there.
    """
    if changes(cell):
        return "changed"
    return next((name for name, file in (("done", DONE), ("begun", BEGUN)) if (cell.folder / file).is_file()), "to do")


def changes(cell: Cell) -> list[str]:
    """The settings in which a cell's record differs from the plan, as "key: then -> now"; a key that a record lacks,
    because it is newer, had its default then."""
    record = _read(cell)
    if record is None:
        return []
    defaults = flat(RunConfig().to_dict())

    def value(identity: dict, key: str) -> Any:
        return identity.get(key, defaults.get(key.removeprefix("intermediate.")))

    then, now = record["identity"], json.loads(json.dumps(dict(cell.identity)))
    keys = [*now, *(key for key in then if key not in now)]
    pairs = [(key, value(then, key), value(now, key)) for key in keys]
    return [f"{key}: {json.dumps(a)} -> {json.dumps(b)}" for key, a, b in pairs if a != b]


def steps_done(cell: Cell) -> dict[str, float]:
    """Seconds that each finished step of the cell took, by name."""
    record = _read(cell)
    return record["seconds"] if record else {}


def mark(cell: Cell, step: Step | None = None, seconds: float = 0.0) -> None:
    """Note that the cell has begun or, with a step, that this step is done."""
    done = steps_done(cell)
    if step is not None:
        done[step.name] = seconds
    _write(cell, BEGUN, {"seconds": done})


def finish(cell: Cell) -> None:
    """Note that the cell is done, last of all."""
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    _write(cell, DONE, {"seconds": steps_done(cell), "finished": finished, "xstilts": __version__})
    (cell.folder / BEGUN).unlink(missing_ok=True)


def set_aside(cell: Cell) -> Path | None:
    """Make room to run a cell anew: what there is of it moves to a folder beside, which is given."""
    return checkpoint.move_aside(cell.folder) if cell.folder.exists() else None


def set_evaluation_aside(cell: Cell) -> Path:
    """The same to evaluate anew a cell that is done, with what it has trained."""
    _write(cell, BEGUN, {"seconds": {name: taken for name, taken in steps_done(cell).items() if name != "evaluate"}})
    (cell.folder / DONE).unlink()
    return checkpoint.move_aside(cell.scores.parent)


@contextlib.contextmanager
def locked(cell: Cell, say: Callable[[str], None], told: Sequence[int] = ()) -> Iterator[int]:
    """Hold the cell's folder against other processes; waits while one has it. Where the file system has no locks, that
    is said, and nothing is held.

    Gives a file descriptor that commands started for the cell should inherit: the lock then lasts until the last of
    them has ended, also when the study itself is killed before.

    Args:
        told: signals to this process, which end the wait.

    Raises:
        UserError: the folder cannot be made.
        Stopped: a signal came.
    """
    try:
        cell.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(cell.folder / ".lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        fix = "folder=FOLDER on another file system"
        raise UserError(f"cell folder {cell.folder} cannot be used", why=str(error), fix=fix) from None
    try:
        _lock(descriptor, cell, say, told)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, cell: Cell, say: Callable[[str], None], told: Sequence[int]) -> None:
    waiting = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not waiting:
                who = "a process, perhaps of a study that was killed,"
                say(f"{cell.name}: {who} is still running it; waiting for its end")
            waiting = True
        except OSError as error:
            say(f"warning: nothing keeps a second study out of {cell.folder}: its file system has no locks ({error})")
            return
        if told:
            code, cause = stopped_by(told[0])
            raise Stopped(code, f"{cause}, waiting for {cell.name}", fix="the same command again")
        time.sleep(LOOK)


def _read(cell: Cell) -> dict[str, Any] | None:
    path = next((path for name in (DONE, BEGUN) if (path := cell.folder / name).is_file()), None)
    if path is None:
        return None
    try:
        record = json.loads(path.read_text())
        record["identity"].keys(), record["seconds"].keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a record of a cell", fix=f"delete {cell.folder}, and it is run anew") from None
    return record


def _write(cell: Cell, name: str, more: dict[str, Any]) -> None:
    text = json.dumps(dict(cell.identity), sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    record = {"cell": cell.name, "hash": digest, **more, "identity": dict(cell.identity)}
    temporary = cell.folder / f".{name}.partial"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, cell.folder / name)
