"""Writing checkpoints while training goes on; a kill or a full disk at any moment leaves the one before whole.

`save` takes what is to be written from memory; a thread of each rank writes its rank's files into a folder beside,
with their sizes and checksums in rank-N.json, when all are on the disk. The thread of rank 0 waits for those of all
ranks, makes the manifest of them, renames the folder into place, and only then points `latest` to it and deletes old
checkpoints. Threads make no collectives: while a checkpoint is being written, `poll` agrees once a step on how far it
is, so that every rank learns at the same step that it is complete, or has failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
import xxhash

from trainer import distributed
from trainer.checkpoint import BLOCK, FORMAT, check_sizes, prune, sync
from trainer.distributed import World
from trainer.events import Events
from trainer.exits import Exit, RunError

Content = Mapping[str, Callable[[BinaryIO], Any]]  # file below the checkpoint's folder -> writes it
PATIENCE = 1800.0  # seconds that rank 0 waits for the others' parts


class Abandoned(Exception):
    """The checkpoint is not wanted any more: another rank has failed, or the program ends."""


class CheckpointWriter:
    """Writes a run's checkpoints; every rank has one, and all ranks call each method at the same step.

    Args:
        keep: newest checkpoints kept, besides the best.
        background: write while training goes on; else `save` returns when all is written.
    """

    def __init__(self, run: Path, world: World, events: Events, keep: int, background: bool = True):
        self.folder, self.world, self.events = run / "checkpoints", world, events
        self.keep, self.background = keep, background
        self._job: _Job | None = None
        on_gpu = world.size > 1 and world.device.type == "cuda"
        # On the CPU, so that agreeing does not wait for the GPU's work.
        self._group = dist.new_group(backend="gloo") if on_gpu else None

    def save(
        self, step: int, state: Mapping[str, Any], take: Callable[[Path], tuple[Content, Callable[[], None]]],
        best: int | None = None,
    ) -> Path:  # fmt: skip
        """Take a checkpoint of `step`, and write it; a checkpoint still being written is waited for first.

        Args:
            state: for state.json, of rank 0.
            take: folder -> what this rank writes, and what returns once that may be read; called on all ranks.
            best: step of the checkpoint to keep whatever comes.

        Returns:
            The folder where it will be.

        Raises:
            RunError: as `poll`.
        """
        began, busy = time.monotonic(), self._job is not None
        self.finish()
        waited = time.monotonic() - began if busy else 0.0
        partial = self.folder / f".step-{step}.{distributed.from_first(secrets.token_hex(4))}.partial"
        content, wait = take(partial)
        after = {"keep": self.keep, "best": best}
        self._job = _Job(self.folder / f"step-{step}", partial, content, wait, state, self.world, after)
        self._job.began, self._job.waited = began, waited
        self._job.thread.start()
        if not self.background:
            self.finish()
            return self.folder / f"step-{step}"
        self._job.stalled = time.monotonic() - began
        return self.folder / f"step-{step}"

    def poll(self) -> None:
        """Once a step: notice that the checkpoint being written is complete, or has failed.

        Raises:
            RunError: it could not be written; what was written of it is gone, the one before is untouched.
        """
        if self._job is None:
            return
        unfinished = self._job.thread.is_alive()  # asked first: what a finished thread says is final
        flags = torch.tensor([self._job.problem is not None, unfinished], dtype=torch.int32)
        if self.world.size > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._group)
        failed, unfinished = flags.tolist()
        if failed:
            self._fail()
        if not unfinished:
            job, self._job = self._job, None
            if job.warning:
                self.events.emit("warning", message=job.warning)
            self.events.emit(
                "checkpoint",
                step=job.step,
                folder=str(job.final),
                seconds=job.ended - job.began,
                stalled_seconds=job.ended - job.began if job.stalled is None else job.stalled,
                bytes=job.bytes,
                **({"waited_seconds": job.waited} if job.waited else {}),
            )

    def finish(self) -> None:
        """Wait until no checkpoint is being written.

        Raises:
            RunError: as `poll`.
        """
        while self._job is not None:
            self._job.thread.join(0.5)
            distributed.while_waiting()
            self.poll()

    def _fail(self) -> None:
        job, self._job = self._job, None
        job.abandoned.set()
        while job.thread.is_alive():  # of a write that hangs, too, the watchdog should hear
            job.thread.join(0.5)
            distributed.while_waiting()
        problems = [p for p in distributed.gather_objects(job.problem) if p]
        if self.world.first:
            shutil.rmtree(job.partial, ignore_errors=True)
        code, why = problems[0]
        raise RunError(
            code,
            f"checkpoint {job.final} could not be written",
            why=why,
            fix="free some space and start the same command again: it continues from the checkpoint before",
        )


class _Job:
    """One checkpoint being written by one rank.

    Attributes:
        problem: exit code and cause, once it has failed; bytes: of all ranks, on rank 0, once it is complete.
        warning: what went wrong after that.
        began, ended, waited, stalled: when it was taken and was complete; seconds that training waited for the one
            before, and for this one (None: for all of it).
    """

    def __init__(
        self, final: Path, partial: Path, content: Content, wait: Callable[[], None], state: Mapping[str, Any],
        world: World, after: Mapping[str, Any],
    ):  # fmt: skip
        self.final, self.partial, self.content, self.wait = final, partial, content, wait
        self.state, self.world, self.after = state, world, after
        self.step = int(final.name.removeprefix("step-"))
        self.problem: tuple[Exit, str] | None = None
        self.warning = ""
        self.abandoned = threading.Event()
        self.began = self.ended = self.waited = 0.0
        self.stalled: float | None = None
        self.bytes = 0
        # Not a daemon: one that writes while the interpreter shuts down would abort the process with a code of its own.
        self.thread = threading.Thread(target=self._run, name=f"checkpoint {self.step}")

    def _run(self) -> None:
        try:
            self.wait()
            entries = {name: self._write(name, write) for name, write in self.content.items()}
            self._write_json(f"rank-{self.world.rank}.json", entries)
            if self.world.first:
                self._complete()
        except Abandoned:
            pass  # whoever abandoned it knows why
        except Exception as error:
            code = Exit.DISK if isinstance(error, (OSError, RuntimeError)) else Exit.BUG
            self.problem = code, " ".join(f"{error} ({type(error).__name__})".split())[:300]
            with contextlib.suppress(OSError):  # the run, too, may need the room to go on until it is told
                for name in self.content:
                    (self.partial / name).unlink(missing_ok=True)
        finally:
            self.content, self.ended = {}, time.monotonic()

    def _write(self, name: str, write: Callable[[BinaryIO], Any]) -> dict[str, Any]:
        path = self.partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            tally = _Tally(file, self.check_wanted)
            try:
                write(tally)
            finally:
                tally.finish()
        return {"size": tally.size, "xxh3": tally.digest.hexdigest()}

    def _write_json(self, name: str, value: Any) -> None:
        """Under another name first, so that rank 0 never sees half of it."""
        path = self.partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.with_suffix(".tmp")
        with open(text, "w") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(text, path)

    def check_wanted(self) -> None:
        if self.abandoned.is_set() or not threading.main_thread().is_alive():
            raise Abandoned

    def _complete(self) -> None:
        """All that only rank 0 does."""
        entries = self._entries_of_all()
        self._write_json("state.json", self.state)
        written = (self.partial / "state.json").read_bytes()
        entries["state.json"] = {"size": len(written), "xxh3": xxhash.xxh3_128_hexdigest(written)}
        self._write_json("manifest.json", {"format": FORMAT, "files": entries})
        for folder in [*(p for p in self.partial.rglob("*") if p.is_dir()), self.partial]:
            sync(folder)
        check_sizes(self.partial)
        self.check_wanted()
        if self.final.exists():  # of this step, found damaged when the run was continued
            os.replace(self.final, self.final.with_name(f".{self.final.name}.damaged.partial"))
        os.replace(self.partial, self.final)
        sync(self.final.parent)
        self.bytes = sum(entry["size"] for entry in entries.values())
        try:
            self._point_latest()
            prune(self.final.parent.parent, self.step, **self.after)
        except OSError as error:  # this one is whole, and the next one's turn comes
            self.warning = f"checkpoint {self.final} is complete, but old ones were not deleted: {error}"

    def _entries_of_all(self) -> dict[str, Any]:
        """What every rank has written, as their rank-N.json say, which then go.

        Raises:
            TimeoutError: a rank has not finished in time.
        """
        entries, deadline = {}, time.monotonic() + PATIENCE
        for rank in range(self.world.size):
            path = self.partial / f"rank-{rank}.json"
            while not path.is_file():
                self.check_wanted()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"rank {rank} has not written its part within {PATIENCE:,.0f} s")
                time.sleep(0.05)
            entries |= json.loads(path.read_text())
            path.unlink()
        return entries

    def _point_latest(self) -> None:
        text = self.final.with_name(".latest.tmp")
        text.write_text(f"{self.final.name}\n")
        sync(text)
        os.replace(text, self.final.with_name("latest"))
        sync(self.final.parent)


class _Tally:
    """A file that counts and hashes what is written to it.

    `write` never fails: torch would try to write the end of the file after an error, and hide it behind a second one.
    What went wrong comes out of `finish`.
    """

    def __init__(self, file: BinaryIO, check: Callable[[], None]):
        self.file, self.check = file, check
        self.size, self.digest = 0, xxhash.xxh3_128()
        self.error: Exception | None = None

    def write(self, data) -> int:
        view = memoryview(data).cast("B")
        try:
            for start in range(0, 0 if self.error else len(view), BLOCK):
                self.check()
                part = view[start : start + BLOCK]  # hashing holds the interpreter's lock, so a little at a time
                self.file.write(part)
                self.digest.update(part)
                self.size += len(part)
        except (OSError, Abandoned) as error:
            self.error = error
        return len(view)

    def flush(self) -> None:
        """Nothing: `finish` does."""

    def finish(self) -> None:
        """Have everything on the disk.

        Raises:
            OSError: what went wrong, now or before.
            Abandoned: it is not wanted any more.
        """
        if self.error is not None:
            raise self.error
        self.file.flush()
        os.fsync(self.file.fileno())
