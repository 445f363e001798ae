"""The GPUs of this machine: those that a run uses, and those that torch overlooks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import UserError

SMI_SECONDS = 10.0
_NAMES_A_GPU = re.compile(r"\s*(\d|GPU-|MIG-)")  # CUDA takes any other word (-1, NoDevFiles) for none


def gpus_of_node(environ: Mapping[str, str] = os.environ) -> int:
    """GPUs that a run's processes on this machine use: those that torch sees, none under DS_ACCELERATOR=cpu."""
    import torch

    return 0 if environ.get("DS_ACCELERATOR") == "cpu" else torch.cuda.device_count()


def check_seen(environ: Mapping[str, str] = os.environ) -> None:
    """Where torch sees no GPU, there is none, or none is wanted.

    Raises:
        UserError: the driver has some, which a run would leave idle to train on the CPU.
    """
    import torch

    visible = environ.get("CUDA_VISIBLE_DEVICES")
    unwanted = environ.get("DS_ACCELERATOR") == "cpu" or (visible is not None and not _NAMES_A_GPU.match(visible))
    if unwanted or torch.cuda.device_count() or not (count := driver_gpus()):
        return
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is a CPU build"
        fix = "pip install --force-reinstall torch, in a build for CUDA"
    else:
        shown = f"; CUDA_VISIBLE_DEVICES is {visible}" if visible else ""
        why = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, which cannot start here{shown}"
        fix = "compare it with nvidia-smi's CUDA version, then update the driver or install an older torch"
    host, gpus = socket.gethostname(), "an NVIDIA GPU" if count == 1 else f"{count} NVIDIA GPUs"
    fix += "; or DS_ACCELERATOR=cpu before the command to use the CPU all the same"
    raise UserError(f"{host} has {gpus}, but torch sees none", why=why, fix=fix)


def driver_gpus() -> int:
    """NVIDIA GPUs that this process may use, as far as the driver goes."""
    if smi := shutil.which("nvidia-smi"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run([smi, "-L"], capture_output=True, text=True, timeout=SMI_SECONDS)
            if found := sum(line.startswith("GPU ") for line in done.stdout.splitlines()):
                return found
    # A container may be without nvidia-smi. /proc would name GPUs that are not this container's or this job's.
    return sum(_opens(path) for path in Path("/dev").glob("nvidia[0-9]*"))


def _opens(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError:
        return False
    return True
