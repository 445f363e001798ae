"""The devices a plan is for: seen here, or described on the command line."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.errors import UserError
from trainer.gpus import gpus_of_node
from trainer.host import available_cores

# Dense bf16 products (flop/s) and memory bandwidth (bytes/s) of the makers' data sheets; the first name that a GPU's
# own name contains counts.
SHEETS = {
    "B200": (2.25e15, 8.0e12),
    "H200": (989e12, 4.8e12),
    "H100 PCIe": (756e12, 2.0e12),
    "H100 NVL": (835e12, 3.9e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L40S": (362e12, 0.86e12),
    "A6000": (155e12, 0.77e12),
    "4090": (165e12, 1.0e12),
    "3090": (71e12, 0.94e12),
    "A10": (125e12, 0.6e12),
    "V100": (125e12, 0.9e12),
}
UNKNOWN_GPU = "A100"  # what is assumed of a GPU whose name says nothing
HOST_BANDWIDTH = 2.0e10  # bytes/s of a machine's memory: a careful figure for two channels of DDR4
SERVER_BANDWIDTH = 1.0e11  # of a machine with GPUs: eight channels
PCIE = 2.0e10  # bytes/s between a GPU and its host


@dataclass(frozen=True)
class Devices:
    """`count` equal devices of `memory` bytes on `nodes` machines; one process each.

    Attributes:
        kind: cuda or cpu.
        name: the GPU's, or "CPU"; `assumed` says that its speed is not known but assumed.
        host_memory: bytes a machine can give to offloaded state, None if unknown.
        bandwidth: bytes/s each device moves in a collective.
        matmul: flop/s of large products in bf16 (fp32 on a CPU); memory_bandwidth: bytes/s.
    """

    kind: str
    name: str
    count: int
    nodes: int
    memory: float
    host_memory: float | None
    bandwidth: float
    matmul: float
    memory_bandwidth: float
    assumed: bool = False

    @property
    def per_node(self) -> int:
        return -(-self.count // self.nodes)


def given_gpus(
    count: int, memory: float, nodes: int = 1, bandwidth: float | None = None, name: str | None = None
) -> Devices:
    """GPUs that need not be here.

    Args:
        memory: bytes of one.
        bandwidth: bytes/s of one in a collective; default: 150 GB/s within a node (NVLink), 25 GB/s between nodes
            (200 Gbit/s).

    Raises:
        UserError: a number is not positive, or the nodes cannot share the GPUs evenly.
    """
    for what, value in (("--gpus", count), ("--gpu-memory", memory), ("--nodes", nodes), ("--bandwidth", bandwidth)):
        if value is not None and not value > 0:
            raise UserError(f"{what} must be above 0, not {value:g}")
    if count % nodes:
        raise UserError(
            f"{count} GPUs cannot be shared evenly by {nodes} nodes", fix="--gpus is their number on all nodes together"
        )
    known = next((key for key in SHEETS if name and key in name), None)
    matmul, memory_bandwidth = SHEETS[known or UNKNOWN_GPU]
    bandwidth = bandwidth or (1.5e11 if nodes == 1 else 2.5e10)
    shown = name or f"GPU of {memory / 1e9:.0f} GB"
    return Devices(
        "cuda", shown, count, nodes, memory, None, bandwidth, matmul, memory_bandwidth, assumed=known is None
    )


def seen_devices(processes: int | None = None, nodes: int = 1, bandwidth: float | None = None) -> Devices:
    """What this machine has, times `nodes`: its GPUs, or its cores as one process.

    Args:
        processes: of a run that has been started, on all nodes; on a CPU they share the memory.
    """
    host = available_memory()
    if gpus_of_node():
        properties = torch.cuda.get_device_properties(0)
        count = processes or torch.cuda.device_count() * nodes
        seen = given_gpus(count, properties.total_memory, nodes, bandwidth, properties.name)
        return Devices(**{**vars(seen), "host_memory": host})
    count = processes or nodes
    share = -(-count // nodes)
    rate = cpu_matmul_rate() / share
    return Devices("cpu", "CPU", count, nodes, host / share, host, bandwidth or 5e9, rate, HOST_BANDWIDTH / share)


def available_memory() -> float:
    """Bytes this machine can still give, within the limit of its control group."""
    import psutil

    available = psutil.virtual_memory().available
    limit = Path("/sys/fs/cgroup/memory.max")
    used = Path("/sys/fs/cgroup/memory.current")
    try:
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no control group, or "max"
        pass
    return float(available)


def cpu_matmul_rate(size: int = 768, seconds: float = 0.1) -> float:
    """flop/s of fp32 products on all cores of this process, measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(available_cores())
    try:
        a, b = torch.ones(size, size), torch.ones(size, size)
        torch.mm(a, b)
        best, until = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / best
