"""Ranks: who this process is, and the few collectives used outside the engine."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from trainer import gpus
from trainer.errors import UserError
from trainer.network import interface_towards

STORE_TIMEOUT = timedelta(minutes=30)  # a run's own limit, watch.meet_seconds, says more

ELSEWHERE = "192.0.2.1"  # for documentation (RFC 5737): on no network, so reached by the default route

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
        """As a launcher (deepspeed, torchrun) says; a process started without one is a world of its own.

        Raises:
            UserError: this machine has fewer GPUs than processes, or GPUs that torch does not see.
        """
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        size = int(os.environ.get("WORLD_SIZE", 1))
        seen = gpus.gpus_of_node()
        if not seen:
            gpus.check_seen()
        device = torch.device("cuda", local_rank) if seen else torch.device("cpu")
        local_size = int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or size)
        if seen and local_rank >= seen:
            host, visible = socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES")
            raise UserError(
                f"process {local_rank + 1} of {local_size} on {host} has no GPU: it sees {seen}",
                why=f"each process needs one of its own; CUDA_VISIBLE_DEVICES is {visible or 'not set'}",
                fix=f"slots={seen} for {host} in the hostfile, or --processes {seen} without one",
            )
        return cls(int(os.environ.get("RANK", 0)), size, local_rank, local_size, device)


def complete_environment() -> None:
    """Set what torch.distributed needs when no launcher did."""
    if "RANK" in os.environ:
        return
    # Port 0: the store takes a free one itself, so that none can be taken by another process in between.
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")


def bind_gloo(world: World) -> None:
    """Have gloo use the network on which the hosts meet, unless GLOO_SOCKET_IFNAME names one.

    By itself it takes the address of the machine's own name, which on Debian is 127.0.1.1: no other host reaches that.
    Where MASTER_ADDR is such a name (srun, torchrun), to the first host it is its loopback; there it is the network of
    the default route.
    """
    if world.size > world.local_size and "GLOO_SOCKET_IFNAME" not in os.environ:
        if name := interface_towards(os.environ["MASTER_ADDR"]) or interface_towards(ELSEWHERE):
            os.environ["GLOO_SOCKET_IFNAME"] = name


def open_store(world: World) -> dist.Store | None:
    """The key-value store in which the ranks will find each other; on rank 0 it serves them while it is referred to."""
    if world.size == 1:
        return None
    return next(dist.rendezvous("env://", timeout=STORE_TIMEOUT))[0]


def gather_by_store(store: dist.Store | None, world: World, value: Any) -> list[Any]:
    """As `gather_objects`, of plain JSON, where there is no process group yet."""
    if store is None:
        return [value]
    store.set(f"trainer/{world.rank}", json.dumps(value))
    found = [json.loads(text) for text in store.multi_get([f"trainer/{rank}" for rank in range(world.size)])]
    if store.add("trainer/readers", 1) == world.size:
        store.set("trainer/read", "")
    if world.first:  # with which the store ends, perhaps at once, if what was found is wrong
        store.wait(["trainer/read"])
    return found


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
