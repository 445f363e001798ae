"""Checkpoints in a run's folder: which there are, whether they are whole, which one to use, which to delete.

checkpoints/
    latest                  the name of the newest one, for people and scripts; nothing here relies on it
    afresh                  where `checkpoint.resume=false` was obeyed: by which start; see `afresh`
    step-N/
        manifest.json       size and xxh3 checksum of every file below
        state.json          step, position in the data, what the run was: plain JSON
        probe.safetensors   hidden states of the live model on a few sequences, for export to compare with
        vocabulary_rows.npy the embedding rows that are trained, when not all are
        engine/             what DeepSpeed saves, every rank's part
    .step-N.ID.partial/     one being written, or what a killed run left of it

`checkpoint_writer` writes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

from trainer import distributed
from trainer.distributed import World
from trainer.errors import UserError
from trainer.exits import Exit, RunError

FORMAT = 2  # goes up when a checkpoint's content changes meaning; 1 had no number
BLOCK = 1 << 22  # bytes read or written at a time


class CorruptCheckpoint(Exception):
    """A file of a checkpoint is missing, cut short or changed."""


def checkpoint_folders(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first. One that a user has renamed, to step-9-keep say, is theirs."""
    named = (p for p in (run / "checkpoints").glob("step-*") if re.fullmatch("step-[0-9]+", p.name))
    found = [p for p in named if (p / "manifest.json").is_file()]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def room_needed(run: Path, parameters: int, keep: int) -> int:
    """Bytes that a run's checkpoints will take besides what they take now: those kept and one being written.

    Each is about 16 bytes a parameter: fp32 weights twice (module and optimizer) and two Adam moments.
    """
    there = sum(file.stat().st_size for file in (run / "checkpoints").rglob("*") if file.is_file())
    return 16 * parameters * (keep + 1) - there


def read_state(folder: Path) -> dict:
    """A checkpoint's state.json.

    Raises:
        UserError: a later version of this program wrote it.
    """
    state = json.loads((folder / "state.json").read_text())
    if (found := state.setdefault("format", 1)) > FORMAT:
        raise UserError(
            f"{folder} has format {found}, this version of xstilts reads up to {FORMAT}",
            fix="update xstilts, or choose another run.name",
        )
    return state


def check_sizes(folder: Path) -> None:
    """Compare the files of a checkpoint with its manifest by size.

    Raises:
        CorruptCheckpoint: naming the file and what is wrong with it.
    """
    for _ in _sized(folder):
        pass


def verify(folder: Path, share: int = 0, shares: int = 1) -> None:
    """Compare the files of a checkpoint with its manifest: the sizes of all, and the checksums of every `shares`-th.

    Raises:
        CorruptCheckpoint: naming the file and what is wrong with it.
    """
    try:
        with held(folder):
            for number, (file, expected) in enumerate(_sized(folder)):
                if "xxh3" not in expected:
                    raise CorruptCheckpoint(f"{folder}/manifest.json has no xxh3 checksum of {file.name}")
                if number % shares == share and _checksum(file) != expected["xxh3"]:
                    raise CorruptCheckpoint(f"{file} has changed since it was written (checksum)")
    except OSError as error:
        raise CorruptCheckpoint(f"{folder}: {error}") from None


def newest_good(run: Path, warn: Callable[[str], None], world: World | None = None) -> Path | None:
    """The newest checkpoint whose files are all as written; None when the run has none yet.

    Args:
        world: the ranks that all call this and check a share of the files each; None: this process checks all.

    Raises:
        RunError: there are checkpoints, and every one is damaged.
    """
    mine, shares = (world.rank, world.size) if world else (0, 1)
    folders = checkpoint_folders(run)
    if world:
        folders = distributed.from_first(folders)
    problems: list[str] = []
    for folder in reversed(folders):
        problem = None
        try:
            verify(folder, mine, shares)
        except CorruptCheckpoint as error:
            problem = str(error)
        problems = [p for p in (distributed.gather_objects(problem) if world else [problem]) if p]
        if not problems:
            return folder
        warn(f"checkpoint {folder} is damaged and passed over: {problems[0]}")
    if folders:
        raise RunError(
            Exit.CHECKPOINT,
            f"no usable checkpoint in {run / 'checkpoints'}",
            why=problems[0],
            fix="checkpoint.resume=false starts the run afresh, or choose another run.name",
        )
    return None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """While a checkpoint is being read, the run that it belongs to does not delete it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def set_aside(run: Path) -> Path | None:
    """Make room for a run that starts afresh: its earlier checkpoints move to a folder beside, which is given."""
    if not checkpoint_folders(run):
        return None
    aside = move_aside(run / "checkpoints")
    (run / "checkpoints").mkdir()
    return aside


def move_aside(folder: Path) -> Path:
    """Rename a folder to FOLDER.before-N, the first that is free, which is given."""
    names = (folder.with_name(f"{folder.name}.before-{number}") for number in range(1, 1_000_000))
    aside = next(name for name in names if not name.exists())
    os.replace(folder, aside)
    return aside


def prune(run: Path, newest: int, keep: int, best: int | None) -> None:
    """After `step-newest` is complete: delete all but the `keep` newest checkpoints, the best one, and any being read.

    Those of later steps go, too: a run only ever writes an earlier step when it has found the later ones damaged.
    """
    sweep(run)
    folders = checkpoint_folders(run)
    good = [folder for folder in folders if step_of(folder) <= newest]
    for folder in folders:
        if folder not in good[-keep:] and not (folder in good and step_of(folder) == best) and not _is_held(folder):
            # Gone in one instant: killed while it deletes, a run would leave a checkpoint that lacks files.
            os.replace(folder, folder.with_name(f".{folder.name}.partial"))
    sweep(run)


def sweep(run: Path) -> None:
    """Delete what interrupted saves and `prune` left; no save may be going on."""
    for partial in (run / "checkpoints").glob(".step-*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file's or folder's entries on the disk, whatever happens to the machine."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_held(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


def _sized(folder: Path) -> Iterator[tuple[Path, dict]]:
    """The files of a checkpoint, largest first, with what the manifest says of them, their sizes compared."""
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        for name, expected in sorted(files.items(), key=lambda item: -item[1]["size"]):
            file = folder / name
            size = file.stat().st_size
            if size != expected["size"]:
                raise CorruptCheckpoint(f"{file} has {size:,} bytes instead of {expected['size']:,}")
            yield file, expected
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{folder}: {error}") from None


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
