"""A self-test: the recipe's ZeRO stage gives the gradients of plain data parallelism."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.doctor.checks.recipe import read
from trainer.doctor.cluster import Cluster
from trainer.doctor.processes import run_ranks
from trainer.doctor.registry import Finding, Skipped, check, failure, passed, question
from trainer.launchers import free_port

LIMIT = 1e-4  # of the largest gradient: fp32 sums in another order
TIMEOUT = 120.0
# Derived from the recipe (`engine.derive_config`), and not the test's own. Offloading is left out, too: it changes no
# sum, and may compile for minutes; ended in between, that would leave a lock behind.
DERIVED = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "bf16",
    "fp16", "data_types", "torch_autocast",
)  # fmt: skip


@check("gradients", needs_recipe=True)
def gradients(cluster: Cluster) -> Iterator[Finding]:
    """the recipe's ZeRO stage gives the gradients of stage 0"""
    devices = cluster.devices.get(cluster.first)
    if devices is None:
        raise Skipped(f"the devices of {cluster.first} are not known")
    cluster.check_gpus()
    count = min(cluster.local_processes or 2, len(devices["gpus"]) or cluster.local_processes or devices["cores"])
    answers = cluster.ask_recipe(compare_gradients, of=[cluster.first], processes=count, timeout=TIMEOUT + 30)
    for error in answers.errors.values():
        raise error
    found = answers[cluster.first]
    if found is None:
        raise Skipped("the recipe's stage is 0, with which the others are compared")
    on = f"a tiny model in {count} {'process' if count == 1 else 'processes'} on {cluster.first}, fp32"
    says = f"{found['config']} against stage 0, {on}: {found['difference']:.1e} of the largest gradient apart"
    difference = found["difference"] if math.isfinite(found["difference"]) else None  # JSON has no infinity
    figures = {"difference": difference, "worst": found["worst"]}
    if not found["difference"] <= LIMIT:
        fix = "set overlap_comm to false there, or engine.config=ds_configs/zero1.json; and check that file's buckets"
        yield failure(f"{says} ({found['worst']})", fix, **figures)
    else:
        yield passed(says, **figures)


@question
def compare_gradients(recipe: str, overrides: list[str], processes: int) -> dict[str, Any] | None:
    """How far the gradients of the recipe's engine.config are from stage 0's; None if it is stage 0."""
    from trainer import engine

    config = read(recipe, tuple(overrides))
    settings = engine.read_config(config.engine.config)
    if settings["zero_optimization"]["stage"] == 0:
        return None
    own = {key: value for key, value in settings.items() if key not in DERIVED}
    zero = settings["zero_optimization"]
    own["zero_optimization"] = {key: value for key, value in zero.items() if not key.startswith("offload_")}
    plain = {"zero_optimization": {"stage": 0}, "steps_per_print": 10**9}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("own", own), ("plain", plain)):
            (Path(folder) / f"{name}.json").write_text(json.dumps(text))
        run_ranks("trainer.doctor.gradients", [folder], range(processes), processes, "127.0.0.1", free_port(), TIMEOUT)
        found = json.loads((Path(folder) / "result.json").read_text())
    return {"config": config.engine.config, **found}
