"""The Slurm job that this process is in, as its environment says."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping

from trainer.errors import UserError
from trainer.gpus import wanted

SPECIAL_STEPS = 0xFFFFFFF0  # slurm.h: steps that are no srun's are numbered from the largest number down


def in_task(environ: Mapping[str, str]) -> bool:
    """Whether srun has started this process as a task of a step.

    A batch script is no step. The shell of salloc is one at many sites, with a number that marks it: of one task on the
    first node, from which srun reaches the others.
    """
    return environ.get("SLURM_STEP_ID", "").isdigit() and int(environ["SLURM_STEP_ID"]) < SPECIAL_STEPS


def nodes(environ: Mapping[str, str]) -> int:
    """Nodes of the Slurm step or job that this process is in; 1 outside of one."""
    of_job = ("SLURM_JOB_NUM_NODES", "SLURM_NNODES")
    names = ("SLURM_STEP_NUM_NODES", "SLURM_NNODES") if in_task(environ) else of_job
    return int(next((environ[name] for name in names if environ.get(name)), 1))


def gpus(environ: Mapping[str, str]) -> int:
    """GPUs of the job on each node, for its processes; 0 where Slurm does not say, or the CPU is chosen.

    On a login node (salloc) only what was asked for is known, perhaps with types: a100:4,h100:4.
    """
    if not wanted(environ):
        return 0
    here, each = environ.get("SLURM_GPUS_ON_NODE"), environ.get("SLURM_GPUS_PER_NODE")
    return _number(here or each or "") or _number(environ.get("SLURM_GPUS", "")) // nodes(environ)


def _number(asked: str) -> int:
    counts = [part.rpartition(":")[2] for part in asked.split(",")]
    return sum(map(int, counts)) if all(map(str.isdigit, counts)) else 0


def first_node() -> str:
    """The name of the job's first node, where srun puts the first task.

    Raises:
        UserError: this is no Slurm job, or its controller does not answer.
    """
    words = ["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        return done.stdout.split()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired) as error:
        raise UserError(
            "the nodes of this Slurm job are not known",
            why=f"{shlex.join(words)} gave nothing ({type(error).__name__})",
            fix="start it in a job (sbatch launch/slurm.sbatch RECIPE), or set MASTER_ADDR",
        ) from None
