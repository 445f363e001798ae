"""One process of the test of collectives, started by a probe.

    python -m trainer.doctor.all_reduce OUT LEADERS SECONDS

OUT is a JSON file that rank 0 writes; LEADERS is the JSON list of each host's first rank; SECONDS are for all of it,
once the processes have met.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from trainer import distributed
from trainer.distributed import World

LARGE = {"cpu": 16 << 20, "cuda": 256 << 20}  # bytes, where the network is fast enough
SMALL, MEDIUM = 8, 1 << 20
REPEATS, LARGE_REPEATS = 30, 5
LARGE_SECONDS = 12.0  # for all large messages


def main() -> None:
    out, leaders, seconds = Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
    world = World.from_environment()
    distributed.bind_gloo(world)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    else:
        torch.set_num_threads(1)
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds + 5))  # it says less than we do
    limit = threading.Timer(seconds, _give_up, (seconds,))
    limit.daemon = True
    limit.start()
    share = LARGE_SECONDS / len(leaders)  # there are as many measurements, one after another
    own = {"all": measure(None, world.device, share), "pairs": []}
    for pairs in rounds(leaders):
        mine = next((pair for pair in pairs if world.rank in pair), None)
        if mine:
            group = dist.new_group(mine, use_local_synchronization=True)
            own["pairs"].append([*mine, measure(group, world.device, share)])
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


def measure(group, device: torch.device, seconds: float) -> dict[str, float | bool]:
    """All-reduce among a group: whether its sums are right, seconds for a small message, bytes/s for a large one, which
    is as large as all of these messages have `seconds` for.

    The rate is the bus bandwidth, bytes x 2(n-1)/n / seconds, which does not depend on the number of processes n
    (nccl-tests, PERFORMANCE.md).
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    latency = _median_seconds(torch.zeros(SMALL // 4, device=device), group, REPEATS)
    took = torch.tensor([_seconds(torch.zeros(MEDIUM // 4, device=device), group)], device=device)
    dist.all_reduce(took, op=dist.ReduceOp.MAX, group=group)  # all must take the same size
    count = affordable(float(took), seconds, LARGE[device.type]) // 4
    large = torch.arange(count, device=device).remainder_(251).float()
    summed = large * (rank + 1)
    _seconds(summed, group)
    right = torch.equal(summed, large * (size * (size + 1) // 2))  # whole numbers far below 2^24: exact in fp32
    rate = bus_bytes(large.nbytes, size) / _median_seconds(large.zero_(), group, LARGE_REPEATS)
    return {"right": right, "seconds": latency, "bytes_per_second": rate, "large_bytes": large.nbytes}


def affordable(took: float, seconds: float, most: int) -> int:
    """Bytes of the large message, a medium one having taken so long."""
    return max(MEDIUM, min(most, int(MEDIUM * seconds / (LARGE_REPEATS + 2) / took) // 4 * 4))


def bus_bytes(size: int, processes: int) -> float:
    """What each process sends and receives in an all-reduce of so many bytes."""
    return size * 2 * (processes - 1) / processes


def _median_seconds(tensor: torch.Tensor, group, repeats: int) -> float:
    return statistics.median([_seconds(tensor, group) for _ in range(repeats + 1)][1:])


_waits: list[tuple[float, float]] = []  # for an all-reduce: of so many bytes over the bus, since when


def _seconds(tensor: torch.Tensor, group) -> float:
    dist.barrier(group)
    _wait(tensor.device)
    began = time.perf_counter()
    _waits.append((bus_bytes(tensor.nbytes, dist.get_world_size(group)), began))
    dist.all_reduce(tensor, group=group)
    _wait(tensor.device)
    _waits.clear()
    return time.perf_counter() - began


def too_long(waits: Sequence[tuple[float, float]], now: float) -> str:
    """Why the time was not enough, as far as a process knows."""
    if not waits:
        return "too slow, or a process hangs"
    size, began = waits[0]
    return f"too slow: below {size / (now - began) / 1e6:.2g} MB/s (one all-reduce took more than {now - began:.0f} s)"


def _give_up(seconds: float) -> None:
    why = too_long(list(_waits), time.perf_counter())
    sys.stderr.write(f"{why}; all-reduce was not done after {seconds:.0f} s\n")
    sys.stderr.flush()
    os._exit(1)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
