"""Started by test_retrieval.py: all retrieval tasks of the built-in sample, on as many ranks as the launcher starts.

python -m tests.evaluation.retrieval_worker ENCODER STORE OUT
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from trainer import engine
from trainer.config import DataSection, EvaluationSection, RunConfig
from trainer.evaluation.retrieval import PROTOCOLS, evaluate_retrieval
from trainer.evaluation.vectors import open_encoder
from trainer.tasks.xtreme import TARGETS


def main() -> None:
    folder, store, out = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    small_packs = EvaluationSection(pack_tokens=200)  # so that each rank has many
    config = RunConfig(data=DataSection(source="sample", store=store), evaluation=small_packs)
    world = engine.start()
    encoder, tokenizer = open_encoder(folder, config, world)
    tasks = {name: TARGETS[name] for name in PROTOCOLS}
    results = evaluate_retrieval(encoder, tokenizer, config, world, tasks, ["de", "ru"])
    plain = {
        name: {code: dataclasses.asdict(found) for code, found in result.languages.items()}
        for name, result in results.items()
    }
    if world.first:
        Path(out).write_text(json.dumps(plain))
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
