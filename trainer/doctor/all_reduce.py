"""One process of the test of collectives, started by a probe.

    python -m trainer.doctor.all_reduce OUT LEADERS

OUT is a JSON file that rank 0 writes; LEADERS is the JSON list of each host's first rank.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from trainer import distributed
from trainer.distributed import World

LARGE = {"cpu": 16 << 20, "cuda": 256 << 20}  # bytes, of a message that a fast network takes
LARGE_SECONDS = 0.5  # at most: the message of a slow network is smaller
SMALL, MIDDLE = 8, 1 << 20  # bytes
REPEATS, MIDDLE_REPEATS, LARGE_REPEATS = 30, 2, 5
TIMEOUT = timedelta(seconds=40)


def main() -> None:
    out, leaders = Path(sys.argv[1]), json.loads(sys.argv[2])
    world = World.from_environment()
    distributed.bind_gloo(world)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    else:
        torch.set_num_threads(1)
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    own = {"all": measure(None, world.device), "pairs": []}
    for pairs in rounds(leaders):
        mine = next((pair for pair in pairs if world.rank in pair), None)
        if mine:
            group = dist.new_group(mine, use_local_synchronization=True)
            own["pairs"].append([*mine, measure(group, world.device)])
            dist.destroy_process_group(group)
        dist.barrier()
    everyone = [None] * world.size
    dist.all_gather_object(everyone, own)
    if world.first:
        right = all(one["all"]["right"] for one in everyone)
        pairs = {}
        for a, b, figures in (pair for one in everyone for pair in one["pairs"]):
            earlier = pairs.setdefault((a, b), figures)
            pairs[a, b] = {**earlier, "right": earlier["right"] and figures["right"]}
        result = {"all": {**own["all"], "right": right}, "pairs": [[*pair, figures] for pair, figures in pairs.items()]}
        about = {"processes": world.size, "backend": backend}
        out.write_text(json.dumps({**result, **about}))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)


def rounds(members: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """All pairs of members, in rounds in which no member occurs twice (the circle method of tournaments)."""
    circle: list[int | None] = list(members) + [None] * (len(members) % 2)
    for _ in range(len(circle) - 1):
        pairs = zip(circle[: len(circle) // 2], reversed(circle[len(circle) // 2 :]), strict=True)
        yield [(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None]
        circle.insert(1, circle.pop())


def measure(group, device: torch.device) -> dict[str, float | bool]:
    """All-reduce among a group: whether its sums are right, seconds for a small message, bytes/s for a large one of so
    many bytes.

    The rate is the bus bandwidth, bytes x 2(n-1)/n / seconds, which does not depend on the number of processes n
    (nccl-tests, PERFORMANCE.md).
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    nbytes = large_message(_median_seconds(torch.ones(MIDDLE // 4, device=device), group, MIDDLE_REPEATS), device)
    agreed = torch.tensor([nbytes], device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MIN, group=group)
    large = torch.arange(int(agreed) // 4, device=device).remainder_(251).float()
    summed = large * (rank + 1)
    dist.all_reduce(summed, group=group)
    right = torch.equal(summed, large * (size * (size + 1) // 2))  # whole numbers far below 2^24: exact in fp32
    small = torch.ones(SMALL // 4, device=device)
    seconds = _median_seconds(small, group, REPEATS)
    rate = large.nbytes * 2 * (size - 1) / size / _median_seconds(large.zero_(), group, LARGE_REPEATS)
    return {"right": right, "seconds": seconds, "bytes_per_second": rate, "bytes": large.nbytes}


def large_message(seconds: float, device: torch.device) -> int:
    """Bytes, whole MiB, that take `LARGE_SECONDS` where MIDDLE bytes take `seconds`."""
    return min(LARGE[device.type], MIDDLE * max(1, int(LARGE_SECONDS / seconds)))


def _median_seconds(tensor: torch.Tensor, group, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        dist.barrier(group)
        _wait(tensor.device)
        began = time.perf_counter()
        dist.all_reduce(tensor, group=group)
        _wait(tensor.device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
