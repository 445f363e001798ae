"""What a study's training will take: steps, tokens, seconds, as the planner of single runs sees them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.study.plan import Cell


@dataclass(frozen=True)
class Cost:
    """Of one cell's training, without evaluation; None: unknown, for the reason `why`."""

    steps: int | None
    tokens: float | None
    seconds: float | None
    why: str = ""


def estimate(cells: Sequence[Cell], processes: int | None) -> dict[str, Cost]:
    """Cell name -> cost, for the cells that train.

    The planner looks at GPUs and measures cores; it does so in a process of its own, so that nothing of it stays in
    memory while the cells run.

    Args:
        processes: of one run; None: one for each GPU.
    """
    configs: dict[str, RunConfig] = {cell.name: cell.config for cell in cells if cell.config is not None}
    if not configs:
        return {}
    distinct = list({repr(config): config for config in configs.values()}.values())
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(costs_of, distinct, processes).result()
    return {name: found[distinct.index(config)] for name, config in configs.items()}


def costs_of(configs: Sequence[RunConfig], processes: int | None) -> list[Cost]:
    """The cost of each recipe, in this process."""
    from trainer.plan import seen_devices

    devices = seen_devices(processes)
    return [_cost(config, devices) for config in configs]


def total(costs: Mapping[str, Cost]) -> tuple[float, float, int]:
    """Tokens and seconds of all cells whose time is known, and the number of the others."""
    known = [cost for cost in costs.values() if cost.seconds is not None]
    return sum(cost.tokens for cost in known), sum(cost.seconds for cost in known), len(costs) - len(known)


def _cost(config: RunConfig, devices) -> Cost:
    from trainer.data.packing import FULL
    from trainer.plan import make_plan

    train = config.train
    batch = train.packs_per_step * train.pack_tokens * FULL
    try:
        plan = make_plan(config, devices)
    except UserError as error:
        return Cost(train.steps, train.steps and train.steps * batch, None, error.what)
    if plan.steps is None:
        return Cost(None, None, None, "the recipe counts epochs, and its data is not prepared")
    return Cost(plan.steps, plan.steps * batch, plan.seconds)
