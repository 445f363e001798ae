"""Small files in the run folder that say where every process of a run is: for its watchdogs, its supervisor, people.

ranks/rank-N.json           host, pid, step, phase and since when, of rank N
ranks/exit-N.json           exit code and cause, once it has ended with an error
ranks/stacks-N-ATTEMPT.txt  where each of its threads was when its watchdog ended it; kept when the run starts again
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.distributed import World
from trainer.exits import Exit, explain

# In the environment of a run's processes: which start they are of, and of which Slurm job (ssh drops Slurm's own).
ATTEMPT, JOB = "XSTILTS_ATTEMPT", "XSTILTS_JOB"
SAY_LITTLE = (Exit.HANG, Exit.STOPPED)  # ranks that saw another hang or fail, or were then told to stop


class RankFiles:
    """One rank's files.

    Args:
        job: the same number on all ranks of one start, and another at the next: files of earlier starts are not read.
    """

    def __init__(self, run: Path, world: World, job: int):
        self.folder, self.world, self.job = run / "ranks", world, job
        self.host, self.pid = socket.gethostname(), os.getpid()
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def stacks(self) -> Path:
        attempt = os.environ.get(ATTEMPT)
        return self.folder / f"stacks-{self.world.rank}{f'-{attempt}' if attempt else ''}.txt"

    def write_state(self, **state: Any) -> None:
        write_json(self.folder / f"rank-{self.world.rank}.json", {**self._who(), **state})

    def read_states(self) -> list[dict[str, Any]]:
        """Of every rank of this start that has written, by rank."""
        return [state for state in read_all(self.folder, "rank") if state.get("job") == self.job]

    def _who(self) -> dict[str, Any]:
        attempt = os.environ.get(ATTEMPT)
        return {"rank": self.world.rank, "host": self.host, "pid": self.pid, "job": self.job, "attempt": attempt}


def write_exit(run: Path, code: int, cause: str) -> None:
    """Leave behind why this process ends; a run folder that cannot be written is no reason to fail again."""
    rank = int(os.environ.get("RANK", 0))
    who = {"rank": rank, "host": socket.gethostname(), "pid": os.getpid(), "attempt": os.environ.get(ATTEMPT)}
    try:
        (run / "ranks").mkdir(parents=True, exist_ok=True)
        write_json(run / "ranks" / f"exit-{rank}.json", {**who, "code": int(code), "cause": cause})
    except OSError:
        pass


@contextlib.contextmanager
def ends_recorded(run: Path) -> Iterator[None]:
    """An error that comes out of this leaves its exit code and cause in the run folder."""
    try:
        yield
    except BaseException as error:
        write_exit(run, *explain(error))
        raise


def read_all(folder: Path, kind: str, attempt: str | None = None) -> list[dict[str, Any]]:
    """The files of one kind (rank, exit) that are there and whole, by rank; only of one attempt, if it is named."""
    found = []
    for path in folder.glob(f"{kind}-*.json"):
        try:
            entry = json.loads(path.read_text())
        except (OSError, ValueError):  # gone, or a damaged disk: this file is a help, not a need
            continue
        if attempt is None or entry.get("attempt") == attempt:
            found.append(entry)
    return sorted(found, key=lambda entry: entry["rank"])


def see_new_files(folder: Path) -> None:
    """A network file system may show a listing that is a minute old, until this machine changes the folder itself."""
    with contextlib.suppress(OSError):
        probe = folder / f".{socket.gethostname()}.{os.getpid()}"
        probe.touch()
        probe.unlink()


def why_it_ended(run: Path, launcher_code: int, attempt: str | None = None) -> tuple[int, str]:
    """Exit code and cause of a run that failed: those of the rank that says most, from what the ranks have left.

    A launcher's own exit code says less: pdsh and srun give the largest of the ranks', torchrun always 1.
    """
    exits, states = (read_all(run / "ranks", kind, attempt) for kind in ("exit", "rank"))
    telling = [end for end in exits if end["code"] != Exit.PEER]
    if telling:
        first = min(telling, key=lambda end: SAY_LITTLE.index(end["code"]) if end["code"] in SAY_LITTLE else -1)
        return first["code"], f"rank {first['rank']} on {first['host']}: {first['cause']}"
    ended = {end["rank"] for end in exits}
    silent = [f"rank {state['rank']} on {state['host']}" for state in states if state["rank"] not in ended]
    if silent:
        return Exit.PEER, f"{', '.join(silent)} ended without a word: killed, or its host is gone"
    if exits:
        return Exit.PEER, f"rank {exits[0]['rank']} on {exits[0]['host']}: {exits[0]['cause']}"
    cause = f"the launcher ended with exit code {launcher_code} before any process of the run had begun"
    return launcher_code or Exit.PEER, cause


def slurm_job(environ: Mapping[str, str] = os.environ) -> str:
    """JOB/RESTARTS; empty outside of a Slurm job."""
    job = environ.get("SLURM_JOB_ID", "")
    return job and f"{job}/{environ.get('SLURM_RESTART_COUNT') or 0}"


def clear(run: Path) -> None:
    """Remove what an earlier start left, but for the stacks, which may be why it ended."""
    with contextlib.suppress(OSError):  # none yet, or a folder that cannot be written: the run itself will say so
        for path in (run / "ranks").iterdir():
            if not path.name.startswith("stacks-"):
                path.unlink(missing_ok=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write beside, then rename: readers see the old or the new file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)
