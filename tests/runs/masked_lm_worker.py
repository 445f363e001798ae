"""Started by test_masked_lm.py: a few steps with masked language modelling at some stages.

python -m tests.runs.masked_lm_worker OUT STEPS OVERRIDE ...
"""

import os
import sys
from pathlib import Path

import torch

from tests.launching import DEMO
from tests.runs.layouts_worker import run
from trainer.config import load_recipe

STAGES = ("zero0", "zero2", "zero3")


def main() -> None:
    out, steps, *overrides = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    results = {}
    for stage in STAGES:
        own = [f"engine.config=ds_configs/{stage}.json", f"run.name={Path(out).stem}-{stage}"]
        results[stage] = run(load_recipe(DEMO, [*overrides, *own]), int(steps))
    if int(os.environ["RANK"]) == 0:
        torch.save(results, out)
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
