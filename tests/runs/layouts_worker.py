"""Started by test_layouts.py: a few steps of the demo recipe at every stage, with what each step gave.

python -m tests.runs.layouts_worker OUT STEPS OVERRIDE ...
"""

import os
import sys
from pathlib import Path

import torch

from tests.launching import DEMO
from trainer import loop
from trainer.config import load_recipe
from trainer.session import open_session

STAGES = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
RUNS = [*((stage, "null") for stage in STAGES), ("zero2", "0.0"), ("zero3", "0.0")]  # engine.config, model.dropout


def run(config, steps: int) -> dict:
    session = open_session(config, lambda total: [])
    assert all(module.training for module in session.engine.model.modules()), "part of the model is without dropout"
    tasks = {name: item.task for name, item in session.prepared.items()}
    result = {"hashes": [], "losses": [], "fill": []}
    for step, data in zip(range(1, steps + 1), session.loader(), strict=False):
        units = int(data.plan.task_counts(len(tasks)).sum())
        factors = loop.loss_factors(config.train, tasks, units)
        sums = sum(session.engine.micro_step(batch, factors, step).double() for batch in data.batches)
        if step == 1:
            result["gradients"] = session.engine.full_gradients()
        session.engine.step(loop.learning_rate(step, steps, config.train))
        torch.distributed.all_reduce(sums)
        result["hashes"].append(data.plan.example_ids_hash())
        result["losses"].append(sum(f * s for f, s in zip(factors.values(), sums.tolist(), strict=True)))
    return result


def main() -> None:
    out, steps, *overrides = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    results = {}
    for stage, dropout in RUNS:
        own = [
            f"engine.config=ds_configs/{stage}.json",
            f"model.dropout={dropout}",
            f"run.name={Path(out).stem}-{stage}-{dropout}",
        ]
        results[f"{stage} dropout {dropout}"] = run(load_recipe(DEMO, [*overrides, *own]), int(steps))
    if int(os.environ["RANK"]) == 0:
        torch.save(results, out)
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
