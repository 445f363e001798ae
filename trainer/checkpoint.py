"""Checkpoints: written beside, verified, renamed into place; a kill at any moment leaves the previous one whole.

checkpoints/step-N/
    manifest.json       size and xxh3 checksum of every file below
    state.json          step, position in the data, what the run was: plain JSON
    probe.safetensors   hidden states of the live model on a few sequences, for export to compare with
    vocabulary_rows.npy the embedding rows that are trained, when not all are
    engine/             what DeepSpeed saves, every rank's part
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import xxhash

from trainer import distributed
from trainer.distributed import World
from trainer.errors import UserError


class CorruptCheckpoint(Exception):
    """A file of a checkpoint is missing, cut short or changed."""


def checkpoint_folders(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [p for p in (run / "checkpoints").glob("step-*") if (p / "manifest.json").is_file()]
    return sorted(found, key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def save_checkpoint(run: Path, step: int, state: dict, write: Callable[[Path], None], world: World) -> Path:
    """Write checkpoint `step`; all ranks call it.

    Args:
        write: writes the rank's own files below the folder it is given.

    Raises:
        UserError: the disk is full or not writable; the previous checkpoint is untouched.
    """
    final = run / "checkpoints" / f"step-{step}"
    temporary = run / "checkpoints" / f".step-{step}.partial"
    problem = None
    try:
        if world.first:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        distributed.barrier()
        write(temporary)
        distributed.barrier()
        if world.first:
            (temporary / "state.json").write_text(json.dumps(state))
            _seal(temporary)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(temporary, final)
            _sync(final.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        problem = " ".join(str(error).split())[:300]
    problems = [p for p in distributed.gather_objects(problem) if p]
    if problems:
        raise UserError(
            f"checkpoint {final} could not be written",
            why=problems[0],
            fix="free some space and start the same command again: it continues from the checkpoint before",
        )
    return final


def read_state(folder: Path) -> dict:
    return json.loads((folder / "state.json").read_text())


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        CorruptCheckpoint: naming the file and what is wrong with it.
    """
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        for name, expected in files.items():
            file = folder / name
            size = file.stat().st_size
            if size != expected["size"]:
                raise CorruptCheckpoint(f"{file} has {size:,} bytes instead of {expected['size']:,}")
            if _checksum(file) != expected["xxh3"]:
                raise CorruptCheckpoint(f"{file} has changed since it was written (checksum)")
    except (OSError, ValueError, KeyError) as error:
        raise CorruptCheckpoint(f"{folder}: {error}") from None


def newest_good(run: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are all as written; None when the run has none yet.

    Raises:
        UserError: there are checkpoints, and every one is damaged.
    """
    folders = checkpoint_folders(run)
    for folder in reversed(folders):
        try:
            verify(folder)
            return folder
        except CorruptCheckpoint as error:
            problem = str(error)
            warn(f"checkpoint {folder} is damaged and passed over: {error}")
    if folders:
        raise UserError(
            f"no usable checkpoint in {run / 'checkpoints'}",
            why=problem,
            fix="checkpoint.resume=false starts the run afresh, or choose another run.name",
        )
    return None


def set_aside(run: Path) -> Path | None:
    """Make room for a run that starts afresh: its earlier checkpoints move to a folder beside, which is given."""
    if not checkpoint_folders(run):
        return None
    numbers = (n for n in range(1, 1_000_000) if not (run / f"checkpoints.before-{n}").exists())
    aside = run / f"checkpoints.before-{next(numbers)}"
    os.replace(run / "checkpoints", aside)
    (run / "checkpoints").mkdir()
    return aside


def prune(run: Path, keep: int, best: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one, and what interrupted saves left."""
    for partial in (run / "checkpoints").glob(".step-*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    for folder in checkpoint_folders(run)[:-keep]:
        if step_of(folder) != best:
            shutil.rmtree(folder, ignore_errors=True)


def _seal(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    entries = {str(p.relative_to(folder)): {"size": p.stat().st_size, "xxh3": _checksum(p)} for p in files}
    (folder / "manifest.json").write_text(json.dumps({"files": entries}, indent=1))
    for path in [*files, folder / "manifest.json", *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
