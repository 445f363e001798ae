"""The GPUs of this machine: those that a run uses, and those that torch overlooks."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import UserError

DEVICES = Path("/dev")
SMI_SECONDS = 10.0
NONE_VISIBLE = ("", "-1", "NoDevFiles")  # the last is Slurm's, of a job without GPUs


def wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an environment leaves GPUs to a run, if there are any: neither it nor its user has chosen the CPU."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return environ.get("DS_ACCELERATOR") != "cpu" and (visible is None or visible.strip() not in NONE_VISIBLE)


def gpus_of_node() -> int:
    """GPUs that a run's processes on this machine use: those on which CUDA starts.

    torch's own count may come from the driver's library, which knows GPUs on which CUDA does not start.
    """
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def check_seen(environ: Mapping[str, str] = os.environ, devices: Path = DEVICES) -> None:
    """Where a run would use no GPU, there is none, or none is wanted.

    Raises:
        UserError: the driver has some, which a run would leave idle to train on the CPU.
    """
    if not wanted(environ) or gpus_of_node() or not (count := driver_gpus(devices)):
        return
    import torch

    host, gpus = socket.gethostname(), "an NVIDIA GPU" if count == 1 else f"{count} NVIDIA GPUs"
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is not built for CUDA"
        fix = "pip install --force-reinstall torch, in a build for CUDA"
    else:
        visible = environ.get("CUDA_VISIBLE_DEVICES")
        why = f"CUDA {torch.version.cuda} does not start{f' with CUDA_VISIBLE_DEVICES={visible}' if visible else ''}"
        fix = f"{sys.executable} -c 'import torch; torch.zeros(1).cuda()' says more: is the driver too old"
        fix += ", or is a GPU named that nvidia-smi -L does not list?" if visible else "?"
    fix += "; DS_ACCELERATOR=cpu before the command uses the CPU all the same"
    raise UserError(f"{host} has {gpus} that torch cannot use", why=why, fix=fix)


def driver_gpus(devices: Path = DEVICES) -> int:
    """NVIDIA GPUs that this process may use, as far as the driver goes."""
    if smi := shutil.which("nvidia-smi"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=SMI_SECONDS)
            if found := sum(line.startswith("GPU ") for line in done.stdout.splitlines()):
                return found
    # A container may be without nvidia-smi. /proc would name GPUs that are not this container's or this job's.
    return sum(_opens(path) for path in devices.glob("nvidia[0-9]*"))


def _opens(device: Path) -> bool:
    """A job or container that was given no GPU may not."""
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError:
        return False
    return True
