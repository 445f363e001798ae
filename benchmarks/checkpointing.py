"""What saving costs: training without checkpoints, with background ones and with blocking ones, side by side.

    python -m benchmarks.checkpointing [RECIPE] [key=value ...] [--model mini] [--every 20] [--processes 1] ...

The arms take turns; each turn of the saving ones has the same number of checkpoints, and steps after the last in which
its writing can end. What is lost is the share of a turn that the arm without checkpoints did not need.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import arms, results, workload
from benchmarks.command import no_traceback, take_recipe
from trainer.distributed import World
from trainer.events import read_events

NONE, BACKGROUND, BLOCKING = "no checkpoints", "background", "blocking"
COLUMNS = (("checkpoint_seconds", 1), ("checkpoint_stalled_seconds", 1), ("checkpoint_bytes", 1e6))


def settings(every: int) -> dict[str, tuple[str, ...]]:
    """Arm -> overrides, with a checkpoint every so many steps."""
    saving = f"checkpoint.every_steps={every}"
    return {
        NONE: (),
        BACKGROUND: (saving, "checkpoint.background=true"),
        BLOCKING: (saving, "checkpoint.background=false"),
    }


def measure(base: workload.Workload, options: argparse.Namespace) -> dict[str, Any]:
    """`arms`, and `lost`: of each saving arm the share of time lost to saving, by round.

    Raises:
        ArmDied: an arm ended on the way.
    """
    chosen = settings(options.every)
    made = [arms.Arm(name, "benchmarks.ours", base.spec(*own), options.processes) for name, own in chosen.items()]
    # Turns begin half-way between two checkpoints.
    warmup = options.every * max(1, round(options.warmup / options.every)) + options.every // 2
    steps = options.every * options.saves - arms.SETTLE
    with arms.start(made) as running:
        turns = arms.interleave(running, warmup, options.rounds, steps, 0.0)
        saved = {name: checkpoints(running[name].log.parent / "run" / "events.jsonl") for name in chosen}
        facts = {name: running[name].facts for name in chosen}
    rows = {}
    for name, own in chosen.items():
        kept = ("parameters", "packs_per_step", "pack_tokens", "stage", "dtype", "world_size")
        rows[name] = {"overrides": list(own), **arms.summary(turns[name]), **saved[name]}
        rows[name] |= {key: facts[name][key] for key in kept}
    return {"arms": rows, "lost": {name: lost(turns[NONE], turns[name]) for name in (BACKGROUND, BLOCKING)}}


def lost(without: Sequence[arms.Turn], saving: Sequence[arms.Turn]) -> dict[str, float]:
    """Share of a saving arm's time, round by round, that its neighbour without checkpoints did not need."""
    rates = [[turn["useful_tokens"] / turn["seconds"] for turn in turns] for turns in (without, saving)]
    return arms.spread([1 - own / other for other, own in zip(*rates, strict=True)])


def checkpoints(events: Path) -> dict[str, Any]:
    """Of an arm's checkpoints after the first, which also makes its memory: seconds of writing and stalling, bytes."""
    found = [event for event in read_events(events) if event["event"] == "checkpoint"][1:]
    if not found:
        return {"checkpoints": 0}
    medians = {key: statistics.median(event[key] for event in found) for key in ("seconds", "stalled_seconds", "bytes")}
    return {"checkpoints": len(found), **{f"checkpoint_{key}": value for key, value in medians.items()}}


def table(result: Mapping[str, Any]) -> Table:
    """The arms as a person reads them."""
    heads = ("useful tokens/s", "step s", "lost", "lowest", "highest", "writing s", "stalled s", "MB")
    shown = Table("checkpoints", *heads, title="What saving costs")
    for name, row in result["arms"].items():
        share = result["lost"].get(name)
        shown.add_row(
            name.removeprefix("no "),
            f"{row['useful_tokens_per_second']['median']:,.0f}",
            f"{row['step_seconds']['median']:.3g}",
            *(f"{share[key]:.1%}" if share else "" for key in ("median", "lowest", "highest")),
            *(f"{row[key] / unit:.3g}" if key in row else "" for key, unit in COLUMNS),
        )
    return shown


def main(arguments: list[str] | None = None) -> None:
    """The command; exit code 1 when an arm died."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpointing", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="RECIPE | key=value")
    parser.add_argument("--model", default="mini", choices=workload.MODELS)
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--saves", type=int, default=2, help="checkpoints of a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=20, help="steps")
    parser.add_argument("--processes", type=int, default=1, help="of each arm")
    parser.add_argument("--units", type=int, default=500, help="of a task, of synthetic data")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    parser.add_argument("--dry", action="store_true", help="tiny model, seconds-long: shows that it works")
    options = parser.parse_intermixed_args(arguments)
    packs: tuple[str, ...] = ()
    if options.dry:
        options.model, options.every, options.saves, options.rounds, options.units = "tiny", 6, 1, 1, 40
        packs = ("train.pack_tokens=1536", "train.packs_per_step=1")
    recipe = take_recipe(options.words)
    console, kind = Console(), "gpu" if World.from_environment().device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder, no_traceback(console, arms.ArmDied):
        overrides = (*packs, *options.words)
        base = workload.choose(Path(folder), options.model, recipe, overrides, options.units)
        keys = ("every", "saves", "rounds", "processes")
        setting = {**base.says, **{key: getattr(options, key) for key in keys}, "overrides": list(overrides)}
        result = {"setting": setting, **measure(base, options)}
    results.write(f"checkpointing_{kind}", result, options.out)
    console.print(table(result))


if __name__ == "__main__":
    main()
