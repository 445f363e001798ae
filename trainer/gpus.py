"""GPUs that a process was given, asked of the system and not of torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from trainer.errors import UserError

DEVICES = Path("/dev")
NONE_VISIBLE = ("", "-1", "NoDevFiles")  # the last is Slurm's, of a job without GPUs


def hidden(environ: Mapping[str, str] = os.environ, devices: Path = DEVICES) -> int:
    """NVIDIA GPUs that this process may open, but torch cannot use, although nobody has asked for the CPU."""
    if environ.get("DS_ACCELERATOR") == "cpu" or environ.get("CUDA_VISIBLE_DEVICES") in NONE_VISIBLE:
        return 0
    return 0 if torch.cuda.is_available() else sum(map(_may_open, devices.glob("nvidia[0-9]*")))


def _may_open(device: Path) -> bool:
    """A job or container that was given no GPU may not."""
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError:
        return False
    return True


def why_hidden() -> str:
    return "torch is a CPU build" if torch.version.cuda is None else "CUDA cannot start: is the driver too old?"


def check_gpus_seen(environ: Mapping[str, str] = os.environ, devices: Path = DEVICES) -> None:
    """Raises:
    UserError: a run would go to the CPU, a hundred times slower, on a machine with GPUs.
    """
    if count := hidden(environ, devices):
        raise UserError(
            f"torch cannot use this machine's {count} NVIDIA GPU{'s' if count > 1 else ''}",
            why=why_hidden(),
            fix=f"{sys.executable} -c 'import torch; torch.zeros(1).cuda()' says more; DS_ACCELERATOR=cpu for the CPU",
        )
