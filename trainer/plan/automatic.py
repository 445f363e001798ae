"""`engine.plan: auto`: the plan for the devices a run has, put into its recipe.

The recipe of the run's folder then holds what was chosen, with `engine.plan: off`; a run that is continued takes its
choice from there, so that it stays the run it was, whatever memory is free today.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from trainer import afresh, checkpoint, distributed
from trainer.config import RunConfig, load_recipe
from trainer.distributed import World
from trainer.errors import UserError
from trainer.plan.choose import Plan, make_plan
from trainer.plan.devices import seen_devices

# What a plan decides, by section of the recipe.
CHOSEN = {
    "engine": ("config",),
    "model": ("gradient_checkpointing",),
    "train": ("pack_tokens", "packs_per_step"),
}


def apply(config: RunConfig, world: World) -> tuple[RunConfig, list[str]]:
    """The recipe with its plan put in, the same on every rank, and the reasons for the run's notes; as it is when
    `engine.plan` is off. Every rank must call it.

    Raises:
        UserError: nothing fits; see `make_plan`.
    """
    if config.engine.plan == "off":
        return config, []
    values, notes = distributed.on_first(lambda: _earlier(config) or _planned(config, world))
    for section, changes in values.items():
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})
    return dataclasses.replace(config, engine=dataclasses.replace(config.engine, plan="off")), notes


def values_of(plan: Plan) -> dict[str, dict[str, Any]]:
    """What a plan decides, as sections of a recipe."""
    chosen = plan.chosen
    return {
        "engine": {"config": chosen.config},
        "model": {"gradient_checkpointing": chosen.checkpointing},
        "train": {"pack_tokens": chosen.pack_tokens, "packs_per_step": chosen.packs_per_step},
    }


def _planned(config: RunConfig, world: World):
    nodes = max(1, world.size // max(1, world.local_size))
    plan = make_plan(config, seen_devices(world.size, nodes))
    return values_of(plan), [f"plan: {'; '.join(plan.reasons)}"]


def _earlier(config: RunConfig):
    """The choice of the run that this one continues; None for a new run, or one whose step was another."""
    run, recipe = config.run_folder, config.run_folder / "recipe.yaml"
    if not config.checkpoint.resume and afresh.is_due(run):
        return None
    if not recipe.is_file() or not checkpoint.checkpoint_folders(run):
        return None
    try:
        earlier = load_recipe(recipe)
    except UserError:  # another version's; its checkpoints will be refused by name
        return None
    steps = [c.train.packs_per_step * c.train.pack_tokens for c in (config, earlier)]
    if steps[0] != steps[1]:
        return None
    values = {name: {key: getattr(getattr(earlier, name), key) for key in keys} for name, keys in CHOSEN.items()}
    return values, [f"plan: as the run began ({recipe})"]
