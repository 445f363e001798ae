"""xstilts against transformers' Trainer on DeepSpeed: useful tokens per second on the same data, model and machine.

    python -m benchmarks.versus_hf [RECIPE] [key=value ...] [--model mini] [--dtype fp32] [--examples-per-step 32]

Before any timing the two models must give one loss and one gradient. Then the baseline's settings are swept (how it
samples, how many examples a micro-batch has, whether it is compiled), and its fastest ones, as one turn may be lucky,
run turn about with the default setting (dynamic padding, micro-batches of --micro-batch) and with ours. Without a
recipe the data is synthetic, in the shapes of the nine tasks. Every optimizer step has --examples-per-step examples on
average, in every arm.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import arms, results, workload
from benchmarks.command import no_traceback, take_recipe
from benchmarks.data_throughput import lengths
from benchmarks.hf_data import tokens_per_example
from benchmarks.hf_rounds import OURS, Comparison, measure
from benchmarks.hf_settings import MICRO_BATCHES, candidates, check_examples, default_setting, packs_for
from trainer.config import RunConfig
from trainer.data.packing import FULL
from trainer.data.prepare import Prepared
from trainer.engine import read_config
from trainer.session import resolve_mixture


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The result as a person reads it."""
    setting = result["setting"]
    title = f"{setting['workload']['model']}, {setting['dtype']}, {setting['examples_per_step']} examples a step"
    table = Table("arm", "useful tokens/s", "fill", "tokens/step", "step", "peak", "ours over it", title=title)
    for name, row in result["arms"].items():
        rate, ratio = row["useful_tokens_per_second"], row.get("ours_over_it")
        marks = [word for word in ("default", "best") if result[word] == name]
        table.add_row(
            ", ".join([name, *marks]),
            f"{rate['median']:,.0f} ({rate['lowest']:,.0f}-{rate['highest']:,.0f})",
            f"{row['fill']:.1%}",
            f"{row['useful_tokens_per_step']:,.0f}",
            f"{row['step_seconds']['median']:.3g} s",
            f"{row['peak_bytes'] / 1e9:.2f} GB",
            f"{ratio['median']:.2f} ({ratio['lowest']:.2f}-{ratio['highest']:.2f})" if ratio else "",
        )
    return [table]


def describe(
    options: argparse.Namespace, comparison: Comparison, config: RunConfig, prepared: Mapping[str, Prepared], rates
) -> dict[str, Any]:
    """The setting of a result file."""
    return {
        "workload": comparison.work.says,
        "dtype": options.dtype,
        "device": "gpu" if torch.cuda.is_available() else "cpu",
        "processes": options.processes,
        "examples_per_step": options.examples_per_step,
        "expected_useful_tokens_per_step": {
            "hf": comparison.tokens,
            OURS: comparison.packs[0] * comparison.packs[1] * FULL,
        },
        "packs_per_step": comparison.packs[0],
        "pack_tokens": comparison.packs[1],
        "rates": dict(rates),
        "lengths": lengths(prepared),
        "deepspeed": read_config(config.engine.config),
        "optimizer": {"class": "torch AdamW, fused", "learning_rate": config.train.learning_rate},
        "clip": config.train.clip,
        "rounds": options.rounds,
        "turn": {"steps": comparison.steps, "seconds": comparison.seconds, "settle_steps": arms.SETTLE},
        "warmup_steps": comparison.warmup,
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what depends on the machine is filled in."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versus_hf", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="RECIPE | key=value", help="default: synthetic data")
    parser.add_argument("--model", choices=list(workload.MODELS), default="xlm-roberta-large" if on_gpu else "mini")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16" if on_gpu else "fp32")
    parser.add_argument("--examples-per-step", type=int, default=32, help="global batch of every arm")
    parser.add_argument(
        "--micro-batch", type=int, default=32, help="of the default setting: less where memory is short"
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20 if on_gpu else 8, help="least steps of a turn")
    parser.add_argument("--seconds", type=float, default=12.0 if on_gpu else 60.0, help="least seconds of a turn")
    parser.add_argument("--warmup", type=int, default=20 if on_gpu else 3, help="steps before an arm's first turn")
    parser.add_argument("--finalists", type=int, default=2, help="settings of the sweep that are timed with ours")
    parser.add_argument("--no-compile", action="store_true", help="do not try the finalists compiled")
    parser.add_argument("--micro-batches", type=_sizes, default=MICRO_BATCHES, metavar="N,N,...", help="of the sweep")
    parser.add_argument("--at-once", type=int, default=1, help="arms in memory at a time, besides the rounds")
    parser.add_argument("--units", type=int, default=2000, help="units a task of synthetic data")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/versus_hf_{cpu,gpu}.json")
    parser.add_argument("--dry", action="store_true", help="say what would run")
    options = parser.parse_intermixed_args(arguments)
    options.recipe = take_recipe(options.words)
    options.name = "versus_hf_gpu" if on_gpu else "versus_hf_cpu"
    return options


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def run(options: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any] | None:
    """The comparison; None with --dry."""
    check_examples(options.examples_per_step, options.processes, options.micro_batch)
    work = workload.choose(folder, options.model, options.recipe, tuple(options.words), options.units)
    overrides = ("engine.config=ds_configs/zero2.json", f"engine.dtype={options.dtype}")
    config, _, prepared = workload.open_workload(work.spec(*overrides))
    rates, _ = resolve_mixture(config, prepared)
    tokens = tokens_per_example(prepared, rates) * options.examples_per_step
    largest = max(int(item.train.tokens.max()) for item in prepared.values())
    packs = packs_for(tokens, largest, options.processes)
    comparison = Comparison(
        work, overrides, options.processes, tokens, packs, options.warmup, options.steps, options.seconds
    )
    default = default_setting(options.examples_per_step, options.processes, options.micro_batch)
    settings = candidates(options.examples_per_step, options.processes, options.micro_batches)
    console.print(
        f"a step: {options.examples_per_step} examples, {tokens:,.0f} useful tokens on average; "
        f"ours: {packs[0]} x {packs[1]:,} tokens"
    )
    console.print(f"sweep: {', '.join(setting.name for setting in settings)}")
    if options.dry:
        return None
    setting = describe(options, comparison, config, prepared, rates)
    found = measure(
        comparison, settings, default, options.rounds, options.finalists, not options.no_compile, options.at_once,
        lambda line: console.print(escape(line)),
        lambda so_far: results.write(options.name, {"setting": setting, **so_far}, options.out),
    )  # fmt: skip
    return {"setting": setting, **found}


def main(arguments: list[str] | None = None) -> None:
    """The command; prints the tables and writes the result and its plot."""
    options, console = parse(arguments), Console()
    with no_traceback(console, arms.ArmDied):
        with tempfile.TemporaryDirectory() as folder:
            result = run(options, Path(folder), console)
        if result is None:
            return
        console.print(*tables(result))
        path = results.write(options.name, result, options.out)
        bars = {name: row["useful_tokens_per_second"] for name, row in result["arms"].items()}
        results.plot_bars(path, tables(result)[0].title, "useful tokens/s", bars)


if __name__ == "__main__":
    main()
