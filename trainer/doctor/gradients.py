"""One process of the parity test, started by a probe: one step of a tiny model under two configurations.

    python -m trainer.doctor.gradients FOLDER

FOLDER has own.json and plain.json, configurations of DeepSpeed; rank 0 writes result.json there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from trainer import distributed, engine
from trainer.config import DataSection, EngineSection, KernelsSection, ModelSection, RunConfig, TrainSection
from trainer.data.loader import Collator, TrainLoader
from trainer.data.prepare import open_prepared, prepare, tasks_of
from trainer.loop import loss_factors
from trainer.model.build import build_model
from trainer.model.encoder import load_tokenizer
from trainer.session import make_planner, resolve_mixture
from trainer.tasks import load_tasks

TASKS = ("commonsense_qa", "ccg")  # two formats, and the two smallest samples
MICRO_STEPS = 2
SECONDS = 100  # for a collective


def recipe(folder: Path, packs: int) -> RunConfig:
    """Of the test: the built-in sample and its encoder, dropout included, in fp32."""
    return RunConfig(
        model=ModelSection(encoder="sample", vocabulary="full"),
        data=DataSection(source="sample", store=str(folder / "store"), workers=1),
        tasks=TASKS,
        train=TrainSection(steps=1, packs_per_step=packs, pack_tokens=1024),
        engine=EngineSection(dtype="fp32"),
        kernels=KernelsSection(compile="off"),
    )


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float | str]:
    """The largest difference of a gradient, in parts of the largest gradient, and the parameter that has it.

    Raises:
        ValueError: they are of other parameters, or there is no gradient.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"gradients of other parameters: {sorted(found.keys() ^ expected.keys())[:3]}")
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    if not largest > 0:
        raise ValueError("every gradient of stage 0 is zero, or not a number")
    apart = {name: float((found[name] - expected[name]).abs().max()) / largest for name in expected}
    apart = {name: value if value == value else float("inf") for name, value in apart.items()}
    worst = max(apart, key=apart.get)
    return {"difference": apart[worst], "worst": worst}


def main() -> None:
    folder = Path(sys.argv[1])
    world = engine.start(seconds=SECONDS)
    config = recipe(folder, packs=MICRO_STEPS * world.size)
    tasks = load_tasks(config)
    distributed.on_first(lambda: load_tokenizer(config) and None)
    tokenizer = load_tokenizer(config)
    distributed.on_first(lambda: prepare(config, tasks, tokenizer) and None)
    prepared = open_prepared(config, tasks, tokenizer)
    planner = make_planner(config, prepared, resolve_mixture(config, prepared)[0])
    stores = {name: item.train for name, item in prepared.items()}
    collator = Collator(tasks_of(prepared), stores, tokenizer.pad_token_id, constant_tokens=None)
    data = next(iter(TrainLoader(planner, collator, world.rank, world.size, False, 1)))
    batches = [batch.to(world.device) for batch in data.batches]
    units = int(data.plan.task_counts(len(tasks)).sum())
    factors = loss_factors(config.train, tasks_of(prepared), units)

    def step(settings: Path) -> dict[str, torch.Tensor]:
        own = dataclasses.replace(config, engine=dataclasses.replace(config.engine, config=str(settings)))
        model, _, _ = build_model(own, prepared, tokenizer, world.device, "fp32")
        live = engine.Engine(model, own, world, "fp32")
        for batch in batches:
            live.micro_step(batch, factors, step=1)
        return live.full_gradients()

    result = compare(step(folder / "own.json"), step(folder / "plain.json"))
    if world.first:
        (folder / "result.json").write_text(json.dumps(result))
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
