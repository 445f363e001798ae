"""Tokens per second that planning and collating deliver on one core, from the store, without model and thread.

    python -m benchmarks.data_throughput [RECIPE] [key=value ...] [--out FILE]

Every rank plans the whole step, but collates only its own packs, so both parts are told apart. Packs are padded to
`train.pack_tokens`, as for a GPU; only useful tokens count. The store is in the page cache after the first repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.command import no_traceback, take_recipe
from benchmarks.provenance import RESULTS, provenance
from trainer.config import RunConfig, load_recipe
from trainer.data.loader import Collator
from trainer.data.masking import masking_of
from trainer.data.packing import Planner, StepPlan, packs_of_rank
from trainer.data.prepare import Prepared, open_prepared, prepare
from trainer.model.encoder import load_tokenizer
from trainer.session import make_planner, resolve_mixture
from trainer.tasks import load_tasks

RECIPE = Path(__file__).resolve().parents[1] / "launch/recipes/demo.yaml"
GOAL = 1_000_000  # tokens/s


@dataclass(frozen=True)
class Rate:
    """Tokens per second over the repeats."""

    median: float
    lowest: float
    highest: float


def measure(new_planner: Callable[[], Planner], collator: Collator, tokens: int, repeats: int) -> dict[str, Any]:
    """Rates of planning, of collating and of both, and what the plans were like.

    Args:
        new_planner: a planner at the start of its stream; every repeat does the same work.
        tokens: how many to plan at least, in whole windows, as a window is planned at once.
    """
    plan_rates, collate_rates, rates = [], [], []
    for _ in range(repeats):
        planner = new_planner()
        steps_a_window = planner.window_packs // planner.packs_per_step
        steps = steps_a_window * -(-tokens // (planner.window_packs * planner.pack_tokens))
        began = time.perf_counter()
        plans = [planner.next_step() for _ in range(steps)]
        planned = time.perf_counter()
        for step, plan in enumerate(plans, 1):
            for number, pack in enumerate(plan.packs):
                collator(pack.tasks, pack.units, number, step)
        collated = time.perf_counter()
        useful = sum(plan.tokens for plan in plans)
        plan_rates.append(useful / (planned - began))
        collate_rates.append(useful / (collated - planned))
        rates.append(useful / (collated - began))
    return {
        "tokens_per_second": asdict(_rate(rates)),
        "plan_tokens_per_second": asdict(_rate(plan_rates)),
        "collate_tokens_per_second": asdict(_rate(collate_rates)),
        "repeats": repeats,
        **describe_plans(plans),
    }


def _rate(values: list[float]) -> Rate:
    return Rate(statistics.median(values), min(values), max(values))


def describe_plans(plans: list[StepPlan]) -> dict[str, Any]:
    """Steps, packs, units and tokens; fill of the packs; imbalance of the ranks, by world size.

    Imbalance is how far the fullest rank of a step is above the mean, the share of the step the others may wait;
    mean and worst over the steps.
    """
    packs_per_step = len(plans[0].packs)
    imbalance = {}
    for size in (n for n in range(2, packs_per_step + 1) if packs_per_step % n == 0):
        shares = [rank_imbalance(plan, size) for plan in plans]
        imbalance[str(size)] = {"mean": statistics.fmean(shares), "worst": max(shares)}
    return {
        "steps": len(plans),
        "packs": len(plans) * packs_per_step,
        "units": sum(len(pack.units) for plan in plans for pack in plan.packs),
        "tokens": sum(plan.tokens for plan in plans),
        "fill": {"mean": statistics.fmean(plan.fill for plan in plans), "worst_step": min(plan.fill for plan in plans)},
        "imbalance_by_world_size": imbalance,
    }


def rank_imbalance(plan: StepPlan, world_size: int) -> float:
    """Tokens of the fullest rank over the mean, less 1."""
    tokens = [
        sum(plan.packs[number].tokens for number in packs_of_rank(len(plan.packs), rank, world_size))
        for rank in range(world_size)
    ]
    return max(tokens) / statistics.fmean(tokens) - 1


def lengths(prepared: Mapping[str, Prepared]) -> dict[str, dict[str, int]]:
    """Of each task's training split: examples, units, and percentiles of its sequences' lengths in tokens."""
    table = {}
    for name, item in prepared.items():
        sequences = item.train.sequence_lengths
        p50, p90, p99 = np.percentile(sequences, [50, 90, 99], method="higher").tolist()
        counts = {"examples": item.train.manifest["examples"], "units": len(item.train)}
        table[name] = {**counts, "p50": p50, "p90": p90, "p99": p99, "max": int(sequences.max())}
    return table


def use_one_core() -> None:
    """Pin this process to the first core it may use, torch to one thread."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def run(config: RunConfig, tokens: int, repeats: int) -> dict[str, Any]:
    """The benchmark on a recipe's data, as plain JSON without paths."""
    tasks, tokenizer = load_tasks(config), load_tokenizer(config)
    if config.data.prepare == "auto":
        prepare(config, tasks, tokenizer)
    prepared = open_prepared(config, tasks, tokenizer)
    rates, _ = resolve_mixture(config, prepared)
    stores = {name: item.train for name, item in prepared.items()}
    resolved = {name: item.task for name, item in prepared.items()}
    masking = masking_of(resolved.values(), tokenizer, config.seed)
    collator = Collator(resolved, stores, tokenizer.pad_token_id, config.train.pack_tokens, masking)
    use_one_core()
    figures = measure(lambda: make_planner(config, prepared, rates), collator, tokens, repeats)
    setting = {
        "seed": config.seed,
        "source": config.data.source,
        "vocabulary": len(tokenizer),
        "pack_tokens": config.train.pack_tokens,
        "packs_per_step": config.train.packs_per_step,
        "mixture": asdict(config.mixture),
        "rates": rates,
        "lengths": lengths(prepared),
    }
    return {**figures, "setting": setting, "provenance": provenance()}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result as a person reads it."""
    speed = Table("one core", "tokens/s (median)", "lowest", "highest", title="Data throughput")
    for title, prefix in (("plan", "plan_"), ("collate", "collate_"), ("both", "")):
        rate = result[f"{prefix}tokens_per_second"]
        speed.add_row(title, *(f"{rate[which]:,.0f}" for which in ("median", "lowest", "highest")))
    size = f"{result['steps']} steps, {result['tokens']:,} tokens, {result['units']:,} units"
    packs = Table("packs", "mean", "worst step", title=size)
    packs.add_row("fill", f"{result['fill']['mean']:.2%}", f"{result['fill']['worst_step']:.2%}")
    for size, figures in result["imbalance_by_world_size"].items():
        packs.add_row(f"imbalance of {size} ranks", f"{figures['mean']:.2%}", f"{figures['worst']:.2%}")
    return [speed, packs]


def main(arguments: list[str] | None = None) -> None:
    """The command; prints the tables and writes the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_throughput", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="RECIPE | key=value", help="default: the demo recipe")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="tokens a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "data_throughput.json")
    options = parser.parse_args(arguments)
    recipe = Path(take_recipe(options.words) or RECIPE)
    console = Console()
    with no_traceback(console):
        result = run(load_recipe(recipe, options.words), options.tokens, options.repeats)
    result = {"recipe": recipe.name, **result}
    console.print(*tables(result))
    verdict = "reached" if result["tokens_per_second"]["median"] >= GOAL else "MISSED"
    console.print(f"goal of {GOAL:,} tokens/s: {verdict}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
