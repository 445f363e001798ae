"""Ranks: who this process is, and the few collectives used outside the engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

on_waiting: list[Callable[[], None]] = []  # called now and then where a rank waits long for another's work


@dataclass(frozen=True)
class World:
    """This process among all: rank, world size, rank on its node, processes on its node, and its device."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> World:
        """As a launcher (deepspeed, torchrun) says; a process started without one is a world of its own."""
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        size = int(os.environ.get("WORLD_SIZE", 1))
        device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
        local_size = int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or size)
        return cls(int(os.environ.get("RANK", 0)), size, local_rank, local_size, device)


def complete_environment() -> None:
    """Set what torch.distributed needs when no launcher did."""
    if "RANK" in os.environ:
        return
    # Port 0: the store takes a free one itself, so that none can be taken by another process in between.
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")


def while_waiting() -> None:
    """A sign of life of a rank that waits; see `on_waiting`."""
    for call in on_waiting:
        call()


def barrier() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def from_first(value: Any) -> Any:
    """Rank 0's plain-Python value, on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """In place: the sum over all ranks."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def on_first(work: Callable[[], Any], poll_seconds: float = 2.0) -> Any:
    """Run `work` on rank 0 while the others wait, however long; its value, or its error, reaches every rank.

    The wait is a series of short collectives, so that hours of tokenising do not run into the group's timeout.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return work()
    result: dict[str, Any] = {}

    def run():
        try:
            result["value"] = work()
        except Exception as error:  # re-raised below, on every rank
            result["error"] = error

    worker = threading.Thread(target=run, daemon=True) if dist.get_rank() == 0 else None
    if worker:
        worker.start()
    while True:
        if worker:
            worker.join(poll_seconds)
        while_waiting()
        if from_first(bool(worker and not worker.is_alive())):
            break
    result = from_first(result)
    if "error" in result:
        raise result["error"]
    return result["value"]
