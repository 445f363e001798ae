"""One process against two, measured; and more of them, predicted.

    python -m benchmarks.scaling [RECIPE] [key=value ...] [--model mini] [--processes 2] [--out FOLDER]

Strong scaling keeps the global batch, weak scaling doubles it. On GPUs every process has one; on a CPU every process
gets one core, so one process is measured on one core. Figures beyond the measured ones are predictions of a formula
with assumed interconnects, and marked so.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import arms, parity, rates, results, workload
from benchmarks.command import no_traceback, take_recipe
from benchmarks.throughput import ENVIRONMENT, Measuring, utilisation
from trainer import engine
from trainer.distributed import World
from trainer.errors import UserError
from trainer.host import available_cores
from trainer.plan.speed import ADAM_BYTES, OVERLAP

RANKS = (8, 16, 32, 64, 128, 256)  # predicted
CV = 0.003  # of the tokens of a pack, unless the result of benchmarks.mixing says


@dataclass(frozen=True)
class Interconnect:
    """An assumed network: what each rank sends or receives, bytes/s."""

    name: str
    within_node: float  # NVLink
    between_nodes: float
    ranks_a_node: int = 8
    latency: float = 5e-4  # seconds a step and doubling of the ranks

    def bandwidth(self, ranks: int) -> float:
        return self.within_node if ranks <= self.ranks_a_node else self.between_nodes


INTERCONNECTS = (
    Interconnect("NVLink 450 GB/s, 400 Gbit/s a GPU between nodes", 450e9, 50e9),
    Interconnect("NVLink 450 GB/s, 100 Gbit/s a GPU between nodes", 450e9, 12.5e9),
)


def predicted_step_seconds(
    micro_seconds: float,
    backward_seconds: float,
    micro_steps: int,
    ranks: int,
    parameters: int,
    memory_bandwidth: float,
    interconnect: Interconnect,
    cv: float = CV,
) -> float:
    """Seconds of a step at stage 2:

        g t_c (1 + CV sqrt(2 ln N)) + g max(0, t_RS - a t_bwd) + t_AG + 46 P / (N BW) + latency

    Args:
        micro_seconds: t_c, forward and backward of a pack; backward_seconds: t_bwd, its backward.
        micro_steps: g, packs of a rank in a step.
        memory_bandwidth: BW, bytes/s.
        cv: of the tokens of a rank's step; the slowest of N is about sqrt(2 ln N) deviations above the mean.

    The gradients of a pack are reduced and scattered in 2 bytes a parameter behind the backward pass, the weights
    gathered after the optimizer: t_RS = t_AG = (N - 1) / N * 2 P / B.
    """
    wire = (ranks - 1) / ranks * 2 * parameters / interconnect.bandwidth(ranks)
    slowest = 1 + cv * math.sqrt(2 * math.log(ranks)) if ranks > 1 else 1.0
    exposed = max(0.0, wire - OVERLAP * backward_seconds)
    latency = interconnect.latency * math.log2(ranks) if ranks > 1 else 0.0
    optimizer = ADAM_BYTES * parameters / (ranks * memory_bandwidth)
    return micro_steps * (micro_seconds * slowest + exposed) + wire + optimizer + latency


def predict(
    facts: Mapping[str, Any], phases: Mapping[str, float], tokens_per_pack: float, bandwidth: float, cv: float
) -> list[dict[str, Any]]:
    """Weak scaling of a measured process: each rank keeps its packs a step.

    Returns:
        Rows of `predicted` true, ranks, interconnect, step seconds, tokens/s and efficiency against one rank.
    """
    packs = facts["packs_per_step"] // facts["world_size"]
    micro, backward = (phases["forward"] + phases["backward"]) / packs, phases["backward"] / packs
    rows = []
    for interconnect in INTERCONNECTS:
        rest = (facts["parameters"], bandwidth, interconnect, cv / math.sqrt(packs))
        alone = predicted_step_seconds(micro, backward, packs, 1, *rest)
        for ranks in RANKS:
            seconds = predicted_step_seconds(micro, backward, packs, ranks, *rest)
            rows.append(
                {
                    "predicted": True,
                    "interconnect": interconnect.name,
                    "ranks": ranks,
                    "step_seconds": seconds,
                    "useful_tokens_per_second": ranks * packs * tokens_per_pack / seconds,
                    "efficiency": alone / seconds,
                }
            )
    return rows


def run(options: argparse.Namespace, recipe: str | None, overrides: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """The measured arms and the predictions; plain JSON.

    Raises:
        UserError: fewer GPUs or cores than processes.
        ArmDied: an arm did not run.
        ParityFailed: the gate.
    """
    import torch

    device, many = World.from_environment().device, options.processes
    there = torch.cuda.device_count() if device.type == "cuda" else available_cores()
    if there < many:
        raise UserError(f"{many} processes need as many GPUs or cores; there are {there}", fix=f"--processes {there}")
    base = workload.choose(folder, options.model, recipe, (*overrides, f"engine.dtype={options.dtype}"), options.units)
    gate = parity.gate(base, dtype=options.dtype)
    ceilings = rates.measure(device, engine.DTYPES[gate["dtype"]], 0.05 if options.dry else 0.5)
    packs = options.packs_per_process
    packing = [f"train.pack_tokens={options.pack_tokens}"]

    def arm(name: str, processes: int, packs_per_step: int) -> arms.Arm:
        own = base.spec(*packing, f"train.packs_per_step={packs_per_step}")
        return arms.Arm(name, "benchmarks.ours", {**own, "cores": processes}, processes, ENVIRONMENT)

    batch = many * packs
    chosen = [arm(f"1 process, {packs} packs", 1, packs)]
    if many > 1:
        chosen += [arm(f"1 process, {batch} packs", 1, batch)]
        chosen += [arm(f"{many} processes, {n} packs", many, n) for n in (batch, many * batch)]
    measuring = Measuring(options.warmup, options.rounds, options.steps, options.seconds)
    figures = measuring.measure(chosen)
    if figures.failed:
        raise arms.ArmDied("\n".join(figures.failed.values()))
    rows = {}
    for name, turns in figures.turns.items():
        facts = figures.facts[name]
        row = {**arms.summary(turns), "packs_per_step": facts["packs_per_step"], "processes": facts["world_size"]}
        median = row["useful_tokens_per_second"]["median"]
        rows[name] = {**row, **utilisation(median, facts, ceilings), "phases": figures.profiled[name]["phases"]}
    alone, *several = figures.turns
    ratios = {}
    if several:
        alone_batch, strong, double = several
        pairs = {"strong": (strong, alone_batch), "weak": (strong, alone), "weak, double batch": (double, alone_batch)}
        for kind, (of, over) in pairs.items():
            spread = arms.ratio_of_rounds(figures.turns[of], figures.turns[over])
            ratios[f"{kind} scaling efficiency of {many} processes"] = {k: v / many for k, v in spread.items()}
    cv = _measured_cv(options.out)
    tokens_per_pack = rows[alone]["useful_tokens"] / (rows[alone]["steps"] * packs)
    predictions = (
        predict(figures.facts[alone], rows[alone]["phases"], tokens_per_pack, ceilings["copy_bytes_per_second"], cv)
        if device.type == "cuda" or options.dry
        else []
    )
    return {
        "setting": {
            **base.says,
            "device": device.type,
            "cores_per_process": 1 if device.type == "cpu" else None,
            "pack_tokens": options.pack_tokens,
            "packs_per_process": packs,
        },
        "ceilings": ceilings,
        "parity": gate,
        "arms": rows,
        "ratios": ratios,
        "assumed": {"overlap": OVERLAP, "cv": cv, "interconnects": [asdict(each) for each in INTERCONNECTS]},
        "predictions": predictions,
    }


def _measured_cv(out: Path) -> float:
    """The packs' coefficient of variation that benchmarks.mixing found for the paper's mixture."""
    folder = out.parent if out.suffix == ".json" else out
    for place in (folder, results.RESULTS):
        if (place / "mixing.json").is_file():
            return results.read(place / "mixing.json")["arms"]["temperature 1, cap 2^17"]["cv"]
    return CV


def table(result: Mapping[str, Any]) -> Table:
    """The result as a person reads it."""
    shown = Table("arm", "useful tokens/s", "step s", "efficiency", title="Scaling")
    for name, row in result["arms"].items():
        rate = row["useful_tokens_per_second"]["median"]
        shown.add_row(name, f"{rate:,.0f}", f"{row['step_seconds']['median']:.3g}", "")
    for name, ratio in result["ratios"].items():
        shown.add_row(name, "", "", f"{ratio['median']:.1%}")
    for row in result["predictions"]:
        name = f"PREDICTED: {row['ranks']} ranks, {row['interconnect']}"
        seconds, efficiency = f"{row['step_seconds']:.3g}", f"{row['efficiency']:.1%}"
        shown.add_row(name, f"{row['useful_tokens_per_second']:,.0f}", seconds, efficiency)
    return shown


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="RECIPE | key=value")
    parser.add_argument("--model", default="mini", choices=workload.MODELS)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--pack-tokens", type=int, default=4096)
    parser.add_argument("--packs-per-process", type=int, default=2)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--warmup", type=int, default=Measuring.warmup)
    parser.add_argument("--rounds", type=int, default=Measuring.rounds)
    parser.add_argument("--steps", type=int, default=Measuring.steps)
    parser.add_argument("--seconds", type=float, default=Measuring.seconds)
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    parser.add_argument("--dry", action="store_true", help="tiny model, seconds-long: shows that it works")
    options = parser.parse_intermixed_args(arguments)
    if options.dry:
        options.model, options.pack_tokens, options.packs_per_process, options.units = "tiny", 1536, 1, 40
        options.warmup, options.rounds, options.steps, options.seconds = 1, 1, 1, 0.0
    recipe = take_recipe(options.words)
    console = Console()
    died = (arms.ArmDied, parity.ParityFailed)
    with tempfile.TemporaryDirectory() as folder, no_traceback(console, *died):
        result = run(options, recipe, tuple(options.words), Path(folder))
    console.print(table(result))
    path = results.write(f"scaling_{result['setting']['device']}", result, options.out)
    if result["predictions"]:
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in result["predictions"]:
            line = lines.setdefault(f"{row['interconnect']} (predicted)", [(1, 1.0)])
            line.append((row["ranks"], row["efficiency"]))
        results.plot_lines(path, "Weak scaling, predicted from one process", ("ranks", "efficiency"), lines)


if __name__ == "__main__":
    main()
