"""`checkpoint.resume=false`: a run starts afresh once.

When its supervisor starts it again, or Slurm as a requeued job, it goes on from what it has saved itself.

RUN/checkpoints/afresh names the supervisors and the Slurm job under which the run last started afresh.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer import checkpoint
from trainer.watch.ranks import ATTEMPT, JOB, slurm_job, write_json

FILE = "afresh"


def is_due(run: Path, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a run with `checkpoint.resume=false` has still to start afresh, and not only to be started again."""
    there, mine = _noted(run), supervisor(environ)
    if mine and mine in there.get("supervisors", ()):
        return False
    job, requeued = _job(environ)
    return not (requeued and job and job == there.get("job"))


def begin(run: Path, supervisors: Iterable[str], environ: Mapping[str, str] = os.environ) -> Path | None:
    """Start afresh: earlier checkpoints move to a folder beside, which is given.

    Args:
        supervisors: of all ranks.
    """
    aside = checkpoint.set_aside(run)
    noted = {"supervisors": sorted(set(filter(None, supervisors))), "job": _job(environ)[0]}
    write_json(run / "checkpoints" / FILE, noted)  # last: a start that is killed before is made again
    checkpoint.sync(run / "checkpoints" / FILE)
    return aside


def supervisor(environ: Mapping[str, str] = os.environ) -> str:
    """What starts this rank, the same in all of its attempts; empty if nothing does."""
    return environ.get(ATTEMPT, "").partition("-")[2]


def _noted(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / "checkpoints" / FILE).read_text())
    except (OSError, ValueError):  # it never did
        return {}


def _job(environ: Mapping[str, str]) -> tuple[str, bool]:
    """The Slurm job, and whether it is there again: of what has started the ranks over ssh, else our own."""
    job, _, again = environ.get(JOB, slurm_job(environ)).partition("/")
    return job, int(again or 0) > 0
