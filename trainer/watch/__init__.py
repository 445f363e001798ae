"""Watching a run: is it alive, are its losses sane, who holds it up, has it been told to stop."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from trainer import distributed
from trainer.config import RunConfig
from trainer.data.loader import PackedBatch, Step
from trainer.data.packing import StepPlan
from trainer.data.prepare import Prepared
from trainer.distributed import World
from trainer.errors import UserError
from trainer.events import Events
from trainer.exits import Exit, RunError
from trainer.watch.losses import SkipWatch, SpikeWatch
from trainer.watch.ranks import RankFiles
from trainer.watch.signals import StopSignals
from trainer.watch.stragglers import Stragglers
from trainer.watch.watchdog import Watchdog

IDS = 8  # examples that a warning names, of each task of a pack


class Watch:
    """What watches one run on one rank; all ranks have one.

    A rank's own news (it was told to stop, how long its own work took) go over all ranks in the vector of a step's
    losses, which is summed anyway: `extras` are its further elements, `read` takes their sums.

    Attributes:
        stopping: the signal that the run was told to stop by, the same on every rank at the same step; else None.
    """

    def __init__(self, config: RunConfig, world: World, events: Events, prepared: Mapping[str, Prepared], dtype: str):
        section = config.watch
        self.world, self.events, self.prepared = world, events, prepared
        self.files = RankFiles(config.run_folder, world, distributed.from_first(time.time_ns()))
        self.watchdog = Watchdog(self.files, section.hang_factor, section.hang_seconds, section.start_seconds)
        self.signals = StopSignals()
        self.skips, self.spikes = SkipWatch(section.nonfinite_steps, dtype), SpikeWatch(section.spike)
        self.stragglers = Stragglers(distributed.gather_objects(self.files.host), section.straggler)
        self.beat = self.watchdog.beat
        self.stopping: str | None = None
        self._own_seconds = 0.0

    def start(self) -> None:
        """From now on: the watchdog's limit holds, and a signal to stop is obeyed."""
        self.signals.install()
        self.watchdog.start()
        distributed.on_waiting.append(self.beat)

    def timed(self, steps: Iterable[int], loader: Iterable[Step]) -> Iterator[tuple[int, Step]]:
        """The steps with their data; what each rank waited for it counts as its own work."""
        each = iter(loader)
        for step in steps:
            self.beat("data", step)
            began = time.monotonic()
            data = next(each)
            self._own_seconds = time.monotonic() - began
            yield step, data

    def extras(self, forward_seconds: float) -> torch.Tensor:
        """float64 (1 + world size,): whether this rank was told to stop, and its own seconds in its own place."""
        values = torch.zeros(1 + self.world.size, dtype=torch.float64)
        values[0] = self.signals.received or 0
        values[1 + self.world.rank] = self._own_seconds + forward_seconds
        return values

    def read(self, step: int, extras: Sequence[float], seconds: float, loss: float) -> None:
        """Take a step's sums of `extras`, its duration and its loss; on all ranks."""
        self.watchdog.stepped(seconds)
        if extras[0] and self.stopping is None:
            self.stopping = self.signals.name_of(int(extras[0]))
        for text in (self.stragglers.add(extras[1:], seconds), self.spikes.add(step, loss)):
            if text:
                self.events.emit("warning", message=text)

    def skipped(
        self, step: int, plan: StepPlan, batches: Sequence[PackedBatch], losses: Sequence[torch.Tensor]
    ) -> None:
        """Count a step whose update was skipped; on all ranks.

        Raises:
            RunError: too many in a row; names the tasks and examples whose loss was not finite.
        """
        mine = [self._not_finite(plan, batch, sums) for batch, sums in zip(batches, losses, strict=True)]
        found = [text for texts in distributed.gather_objects(mine) for text in texts if text]
        said = f"the loss is not finite: {'; '.join(found)}" if found else "the gradients are not finite, the loss is"
        self.events.emit("warning", message=f"step {step}: {said}; no update", skipped_steps=self.skips.total + 1)
        self.skips.add(step, bool(found), said)

    def _not_finite(self, plan: StepPlan, batch: PackedBatch, sums: torch.Tensor) -> str:
        bad = [i for i, value in enumerate(sums.tolist()) if value != value or abs(value) == float("inf")]
        pack, texts, tasks = plan.packs[batch.number], [], list(self.prepared.items())
        for i in bad:
            name, units = tasks[i][0], pack.units[pack.tasks == i]
            examples = list(dict.fromkeys(tasks[i][1].train.example[units].tolist()))  # long ones are several units
            more = f" and {len(examples) - IDS} more" if len(examples) > IDS else ""
            texts.append(f"{name} in pack {batch.number} (examples {', '.join(map(str, examples[:IDS]))}{more})")
        return ", ".join(texts)

    def end(self) -> None:
        self.watchdog.end()
        distributed.on_waiting.remove(self.beat)


def told_to_stop(signal: str, folder) -> UserError:
    return RunError(
        Exit.STOPPED,
        f"stopped by {signal}, after saving {folder}",
        fix="the same command again: it continues from there",
    )
