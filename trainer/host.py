"""This machine's cores and memory."""

from __future__ import annotations

import ctypes
import os
import resource
import sys

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def available_cores() -> int:
    """Cores this process may use (a Slurm job's, say, rather than the machine's)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_resident_bytes() -> int:
    """Most memory this process has had resident, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def use_cpu_well(processes: int) -> None:
    """Share the cores among this node's processes, and keep freed memory.

    By default glibc returns every large buffer to the kernel and gets it back page by page: training on a CPU then
    spends most of its time in page faults. Other C libraries are left as they are.
    """
    torch.set_num_threads(max(1, available_cores() // processes))
    libc = _glibc()
    if libc:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.mallopt(_M_TOP_PAD, 1 << 28)


def release_free_memory() -> None:
    """Give free pages back to the kernel: kept memory becomes fragmented, and would grow without bound."""
    libc = _glibc()
    if libc:
        libc.malloc_trim(0)


def _glibc():
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
