"""What each mixture strategy gives: rates asked and reached, fill, imbalance of ranks. Planning only, no model.

    python -m benchmarks.mixing [--steps 200] [--packs-per-step 64] [--pack-tokens 16384] [--out FOLDER]

Tasks have the sizes of the published data sets, and units the lengths of `benchmarks/lengths/nine_tasks.json`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import lengths, results
from benchmarks.data_throughput import describe_plans
from trainer.config import MixtureSection, RunConfig, TrainSection
from trainer.data.packing import StepPlan
from trainer.session import make_planner, resolve_mixture
from trainer.tasks.intermediate import TASKS
from trainer.tasks.spec import Task

CAP = 1 << 17
STRATEGIES = {
    "proportional": MixtureSection(strategy="proportional"),
    "temperature 1, cap 2^17": MixtureSection(strategy="temperature", temperature=1.0, cap=CAP),
    "temperature 2, no cap": MixtureSection(strategy="temperature", temperature=2.0, cap=None),
    "temperature 5, no cap": MixtureSection(strategy="temperature", temperature=5.0, cap=None),
    "uniform": MixtureSection(strategy="uniform"),
    "unimax, 1 epoch": MixtureSection(strategy="unimax", unimax_epochs=1.0),
    "weights (square roots)": MixtureSection(
        strategy="weights", weights={name: math.sqrt(n) for name, n in lengths.PUBLISHED.items()}
    ),
}


class Split:
    """As much of a store as planning looks at: the tokens of each unit."""

    def __init__(self, tokens: np.ndarray):
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)


class Sized:
    """As much of `Prepared` as planning looks at."""

    def __init__(self, task: Task, tokens: np.ndarray):
        self.task, self.train = task, Split(tokens)


def published_tasks(statistics_: Mapping[str, Any], seed: int = 0, share: float = 1.0) -> dict[str, Sized]:
    """Tasks of the published sizes (times `share`), their units' tokens drawn from the recorded shapes."""
    tasks = {}
    for number, (name, entry) in enumerate(statistics_["tasks"].items()):
        units = max(1, round(share * entry["published_examples"] * entry["units"] / entry["examples"]))
        sizes = np.array([sum(shape[: max(1, entry["choices"])]) for shape in entry["shapes"]])
        tasks[name] = Sized(TASKS[name], np.random.default_rng([seed, number]).choice(sizes, units))
    return tasks


def measure(tasks: Mapping[str, Sized], mixture: MixtureSection, train: TrainSection, seed: int = 0) -> dict[str, Any]:
    """Plan `train.steps` steps of a mixture.

    Returns:
        `tasks`: by task the rate asked (of units), the rates reached in units and in tokens, and passes over its data;
        `worst_rate_error`: largest difference of units asked and reached, as a share of all units; fill, imbalance and
        counts as in `data_throughput.describe_plans`; `cv`: of the tokens of packs; seconds of planning.
    """
    config = RunConfig(seed=seed, tasks=tuple(tasks), mixture=mixture, train=train)
    asked, _ = resolve_mixture(config, tasks)
    planner = make_planner(config, tasks, asked)
    began = time.perf_counter()
    plans = [planner.next_step() for _ in range(train.steps)]
    seconds = time.perf_counter() - began
    units, tokens = reached(plans, tasks)
    table = {
        name: {
            "asked": asked[name],
            "units": units[i] / units.sum(),
            "tokens": tokens[i] / tokens.sum(),
            "passes": units[i] / len(item.train),
        }
        for i, (name, item) in enumerate(tasks.items())
    }
    sizes = [pack.tokens for plan in plans for pack in plan.packs]
    return {
        "tasks": table,
        "worst_rate_error": max(abs(row["asked"] - row["units"]) for row in table.values()),
        "plans": describe_plans(plans),
        "cv": statistics.pstdev(sizes) / statistics.fmean(sizes),
        "planning_tokens_per_second": sum(sizes) / seconds,
    }


def reached(plans: list[StepPlan], tasks: Mapping[str, Sized]) -> tuple[np.ndarray, np.ndarray]:
    """float64 (tasks,) twice: units, and tokens, of each task in the plans."""
    units = np.zeros(len(tasks))
    tokens = np.zeros(len(tasks))
    for plan in plans:
        for pack in plan.packs:
            for i, item in enumerate(tasks.values()):
                mine = pack.units[pack.tasks == i]
                units[i] += len(mine)
                tokens[i] += item.train.tokens[mine].sum()
    return units, tokens


def table(result: Mapping[str, Any]) -> list[Table]:
    """The result as a person reads it."""
    sizes = list(next(iter(result["arms"].values()))["plans"]["imbalance_by_world_size"])
    shown = Table("strategy", "worst rate error", "fill", *(f"{n} ranks" for n in sizes), title="Mixing and balance")
    shares = Table("share of tokens", *result["setting"]["tasks"], title="Shares of the tokens, in per cent")
    for name, row in result["arms"].items():
        imbalance = row["plans"]["imbalance_by_world_size"]
        means = (f"{imbalance[n]['mean']:.2%}" for n in sizes)
        shown.add_row(name, f"{row['worst_rate_error']:.3%}", f"{row['plans']['fill']['mean']:.2%}", *means)
        shares.add_row(name, *(f"{100 * task['tokens']:.1f}" for task in row["tasks"].values()))
    return [shown, shares]


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixing", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--packs-per-step", type=int, default=64)
    parser.add_argument("--pack-tokens", type=int, default=16384)
    parser.add_argument("--share", type=float, default=1.0, help="of the published sizes")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    parser.add_argument("--dry", action="store_true", help="a few small steps: shows that it works")
    options = parser.parse_args(arguments)
    if options.dry:
        options.steps, options.pack_tokens, options.share = 4, 2048, 0.01
    train = TrainSection(steps=options.steps, packs_per_step=options.packs_per_step, pack_tokens=options.pack_tokens)
    tasks = published_tasks(lengths.load(), share=options.share)
    figures = {name: measure(tasks, mixture, train) for name, mixture in STRATEGIES.items()}
    setting = {
        "tasks": {name: len(item.train) for name, item in tasks.items()},
        "steps": options.steps,
        "packs_per_step": options.packs_per_step,
        "pack_tokens": options.pack_tokens,
    }
    result = {"setting": setting, "arms": figures, "ratios": {}}
    Console().print(*table(result))
    path = results.write("mixing", result, options.out)
    lines = {
        name: [(int(n), 100 * each["mean"]) for n, each in row["plans"]["imbalance_by_world_size"].items()]
        for name, row in figures.items()
    }
    results.plot_lines(path, "Tokens of the fullest rank above the mean", ("ranks", "per cent"), lines)


if __name__ == "__main__":
    main()
