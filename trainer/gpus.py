"""GPUs that a machine has, asked of its driver and not of torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from trainer.errors import UserError

DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each


def hidden(environ: Mapping[str, str] = os.environ, driver: Path = DRIVER) -> int:
    """NVIDIA GPUs of this machine that torch cannot use, although nobody has asked for the CPU."""
    asked_for_cpu = environ.get("DS_ACCELERATOR") == "cpu" or environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if asked_for_cpu or torch.cuda.is_available() or not driver.is_dir():
        return 0
    return len(list(driver.iterdir()))


def why_hidden() -> str:
    return "torch is a CPU build" if torch.version.cuda is None else "CUDA cannot start: is the driver too old?"


def check_gpus_seen(environ: Mapping[str, str] = os.environ, driver: Path = DRIVER) -> None:
    """Raises:
    UserError: a run would go to the CPU, a hundred times slower, on a machine with GPUs.
    """
    if count := hidden(environ, driver):
        raise UserError(
            f"torch cannot use this machine's {count} NVIDIA GPU{'s' if count > 1 else ''}",
            why=why_hidden(),
            fix=f"{sys.executable} -c 'import torch; torch.zeros(1).cuda()' says more; DS_ACCELERATOR=cpu for the CPU",
        )
