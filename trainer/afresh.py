"""`checkpoint.resume=false`: a run starts afresh once.

When its supervisor starts it again, or Slurm as a requeued job, it goes on from what it has saved itself.

RUN/checkpoints/afresh names the supervisor and the Slurm job under which the run last started afresh.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from trainer import checkpoint
from trainer.watch.ranks import ATTEMPT, write_json

FILE = "afresh"


def is_due(run: Path, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a run with `checkpoint.resume=false` has still to start afresh, and not only to be started again."""
    there, mine = _noted(run), _starts(environ)
    if mine["supervisor"] and mine["supervisor"] == there.get("supervisor"):
        return False
    requeued = int(environ.get("SLURM_RESTART_COUNT") or 0) > 0
    return not (requeued and mine["job"] and mine["job"] == there.get("job"))


def begin(run: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Start afresh: earlier checkpoints move to a folder beside, which is given."""
    aside = checkpoint.set_aside(run)
    write_json(run / "checkpoints" / FILE, _starts(environ))  # last: a start that is killed before is made again
    checkpoint.sync(run / "checkpoints" / FILE)
    return aside


def _noted(run: Path) -> dict[str, str]:
    try:
        return json.loads((run / "checkpoints" / FILE).read_text())
    except (OSError, ValueError):  # it never did
        return {}


def _starts(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        "supervisor": environ.get(ATTEMPT, "").partition("-")[2],  # the same in all of its attempts
        "job": environ.get("SLURM_JOB_ID", ""),
    }
