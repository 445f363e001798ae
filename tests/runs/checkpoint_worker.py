"""Two ranks save; the second one's disk fills up at the second checkpoint. Each says when it learnt of that."""

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from trainer.checkpoint_writer import CheckpointWriter
from trainer.distributed import World
from trainer.events import Events
from trainer.exits import RunError


def main() -> None:
    run, world = Path(sys.argv[-1]), World.from_environment()
    dist.init_process_group("gloo")
    happened: list[dict] = []
    writer = CheckpointWriter(run, world, Events([happened.append]), keep=2)
    name, told = f"part-{world.rank}.pt", None

    def full(file) -> None:
        time.sleep(0.5)
        raise OSError(28, "No space left on device")

    def save(step: int, write) -> None:
        writer.save(step, {"step": step}, lambda folder: ({name: write}, lambda: None))

    save(1, lambda file: torch.save(torch.full((5,), world.rank), file))
    for _ in range(1000):
        writer.poll()
        if happened:
            break
        time.sleep(0.01)
    save(2, full if world.rank == 1 else lambda file: torch.save(torch.ones(5), file))
    polls = 0
    try:
        while polls < 1000:
            polls += 1
            time.sleep(0.01 * (1 + world.rank))
            writer.poll()
    except RunError as error:
        told = {"polls": polls, "code": int(error.exit_code), "why": error.why}
    (run / f"told-{world.rank}.json").write_text(json.dumps(told))
    dist.barrier()


if __name__ == "__main__":
    main()
