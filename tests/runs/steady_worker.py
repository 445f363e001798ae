"""Started by test_steady.py: what 100 mixed steps after a warm-up wait for, and compile.

python -m tests.runs.steady_worker OUT OVERRIDE ...
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch

from tests.launching import DEMO
from trainer import loop
from trainer.config import load_recipe
from trainer.model.fused import compiled_graphs
from trainer.session import open_session

WARM_UP, STEPS = 10, 100
# What makes the host wait for a device: reading a value, and operations whose result's shape depends on values.
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique_consecutive", "aten::equal")


def main() -> None:
    out, *overrides = sys.argv[1:]
    config = load_recipe(DEMO, overrides)
    session = open_session(config, lambda total: [])
    engine, waits = session.engine, {"micro-steps": Counter(), "optimizer step": Counter()}

    def watched(part: str, work):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            result = work()
        names = (event.name() for event in profile.profiler.kineto_results.events())  # profile.events() takes minutes
        waits[part].update(name for name in names if name in WAITS)
        return result

    tasks, mixed = session.tasks, 0
    for step, data in zip(range(1, WARM_UP + STEPS + 1), session.loader(), strict=False):
        if step == WARM_UP + 1:
            graphs = compiled_graphs()
            for counted in waits.values():
                counted.clear()
        counts = data.plan.task_counts(len(tasks))
        mixed += step > WARM_UP and int((counts > 0).sum()) > 1
        factors = loop.loss_factors(config.train, tasks, int(counts.sum()))

        def micro_steps(batches=data.batches, factors=factors, step=step):
            for batch in batches:
                engine.micro_step(batch.to(session.world.device), factors, step)

        watched("micro-steps", micro_steps)
        watched("optimizer step", lambda: engine.step(1e-4))
    Path(out).write_text(
        json.dumps(
            {
                "steps": STEPS,
                "mixed_steps": mixed,
                "graphs_after_warm_up": graphs,
                "graphs_at_the_end": compiled_graphs(),
                "waits": waits,
            }
        )
    )


if __name__ == "__main__":
    main()
