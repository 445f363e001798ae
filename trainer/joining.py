"""The ranks of a run come together: within a time, alike, and alone in the run folder."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer import distributed, engine
from trainer.claim import claimed
from trainer.config import RunConfig
from trainer.distributed import World
from trainer.exits import Exit
from trainer.watch import alike
from trainer.watch.ranks import write_exit


@contextlib.contextmanager
def joined(config: RunConfig, say: Callable[[str], None]) -> Iterator[None]:
    """Form the process group of a run, whose folder is then its own while the context lasts; all ranks must enter it.

    Args:
        say: takes a line for the user, on rank 0.

    Raises:
        RunError: the ranks have other devices, code or packages.
        UserError: another run has the folder, or not every host sees it.
    """
    distributed.complete_environment()
    world = World.from_environment()
    with _limited(config.run_folder, world, config.watch.meet_seconds):
        store = distributed.open_store(world)  # until there is a group: of gloo here and NCCL there none comes about
        own = {"device": world.device.type, **alike.versions()}
        gather = functools.partial(distributed.gather_by_store, store, world)
        alike.check_alike(own, "the same devices, code and packages", gather)
        engine.start()
        distributed.barrier()
    with claimed(config.run_folder, say):
        yield


@contextlib.contextmanager
def _limited(run: Path, world: World, seconds: float) -> Iterator[None]:
    """End the process if it is in here for longer.

    Where a rank never comes up, the others wait in torch's own calls, which nothing else can end before half an hour.
    """
    timer = threading.Timer(seconds, _give_up, (run, world, seconds))
    timer.daemon = True
    if world.size > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _give_up(run: Path, world: World, seconds: float) -> None:
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    cause = (
        f"rank {world.rank} of {world.size} has not met all others at {place} within {seconds:.0f} s "
        "(watch.meet_seconds): is every host up with all of its processes, and do they reach that address and port? "
        "xstilts doctor --hostfile H finds out"
    )
    write_exit(run, Exit.PEER, cause)
    sys.stderr.write(f"{f'[rank {world.rank}] ' if world.rank else ''}exit {Exit.PEER:d}: {cause}\n")
    sys.stderr.flush()
    os._exit(Exit.PEER)
