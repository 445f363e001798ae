"""Useful tokens a second, model FLOPs utilisation and phases of the real training loop, and what each feature gives.

    python -m benchmarks.throughput [RECIPE] [key=value ...] [--model mini] [--packs 2048,8192] [--stages 2,3] ...

Two questions, each a set of arms that take turns: which pack size; and, at the best one, everything on against one
feature off or another ZeRO stage. Without a recipe the data is synthetic. The result is written after every set.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import arms, parity, rates, results, workload
from benchmarks.command import no_traceback, take_recipe
from trainer import engine
from trainer.config import load_recipe
from trainer.distributed import World

FEATURES = {  # what is left out -> overrides
    "fused layers": ("kernels.layers=plain",),
    "packed attention kernel": ("kernels.attention=packed_sdpa",),
    "trimmed vocabulary": ("model.vocabulary=full",),
    "compiled parts": ("kernels.compile=off",),
    "all of them": parity.PLAIN,
}
ON = "everything on"
GPU_ONLY = ("compiled parts",)
PROFILED_STEPS = 3
# Arms compile one small kernel each; torch would start a process a core for it, in every arm.
ENVIRONMENT = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}


@dataclass
class Measuring:
    """How long and how arms are measured.

    Attributes:
        budget: seconds after which no further set of arms is begun.
        at_once: most arms that live at one time (memory); together: arms built at a time.
    """

    warmup: int = 20
    rounds: int = 5
    steps: int = 4
    seconds: float = 12.0
    at_once: int = 4
    together: int = 1
    budget: float = float("inf")
    began: float = field(default_factory=time.monotonic)

    def measure(self, chosen: Sequence[arms.Arm]) -> Figures:
        """The arms' figures; arms that died are in `failed`."""
        with arms.start(chosen, self.together, tolerate=True) as running:
            facts = {name: process.facts for name, process in running.items()}
            turns = arms.interleave(running, self.warmup, self.rounds, self.steps, self.seconds, tolerate=True)
            phases = {}
            for name in turns:
                try:
                    phases[name] = running[name].turn(PROFILED_STEPS, profile=True)
                except arms.ArmDied as error:
                    running.lose(name, error, tolerate=True)
            return Figures(turns, facts, phases, dict(running.failed))

    def time_is_up(self) -> bool:
        return time.monotonic() - self.began > self.budget


@dataclass(frozen=True)
class Figures:
    """By arm: timed turns, facts, one profiled turn; and why others failed."""

    turns: dict[str, list[arms.Turn]]
    facts: dict[str, dict[str, Any]]
    profiled: dict[str, arms.Turn]
    failed: dict[str, str]

    def rows(self, ceilings: Mapping[str, Any], settings: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Any]]:
        """What a result file keeps of each arm."""
        rows = {}
        for name, turns in self.turns.items():
            row = {"overrides": list(settings[name]), **arms.summary(turns)}
            row |= utilisation(row["useful_tokens_per_second"]["median"], self.facts[name], ceilings)
            if name in self.profiled:
                row["phases"] = phases(self.profiled[name])
            kept = ("parameters", "packs_per_step", "pack_tokens", "stage", "dtype", "world_size", "notes")
            rows[name] = row | {key: self.facts[name][key] for key in kept}
            rows[name]["baseline_bytes"] = self.facts[name]["baseline_bytes"]
        return rows


def utilisation(tokens_per_second: float, facts: Mapping[str, Any], ceilings: Mapping[str, Any]) -> dict[str, Any]:
    """FLOPs a token, FLOP/s of the model, and their share of the matrix product rate measured here (MFU)."""
    shape = ("encoder_parameters", "layers", "hidden", "effective_length")
    flops = rates.flops_per_token(*(facts[key] for key in shape))
    achieved = tokens_per_second * flops / facts["world_size"]
    sheet = ceilings["data_sheet_flops_per_second"]
    return {
        "effective_length": facts["effective_length"],
        "flops_per_token": flops,
        "flops_per_second_per_process": achieved,
        "mfu": achieved / ceilings["matmul_flops_per_second"],
        "share_of_data_sheet": achieved / sheet if sheet else None,
    }


def phases(turn: arms.Turn) -> dict[str, float]:
    """Seconds a step of each phase in a profiled turn, and of what is in none. Synchronising makes them add up to more
    than a timed step."""
    whole = turn["seconds"] / turn["steps"]
    return {**turn["phases"], "other": max(0.0, whole - sum(turn["phases"].values())), "step": whole}


def waves(variants: Sequence[arms.Arm], at_once: int) -> list[list[arms.Arm]]:
    """Variants in groups small enough that a baseline beside each makes at most `at_once` arms."""
    size = max(1, at_once - 1)
    return [list(variants[at : at + size]) for at in range(0, len(variants), size)]


@dataclass
class Study:
    """The measurements, and the result as it grows."""

    base: workload.Workload
    measuring: Measuring
    ceilings: dict[str, Any]
    tokens_per_step: int
    out: Path
    name: str
    setting: dict[str, Any]
    gate: dict[str, Any]
    console: Console
    found: dict[str, Any] = field(default_factory=dict)
    ratios: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)

    def packing(self, pack_tokens: int) -> tuple[str, ...]:
        packs = max(1, self.tokens_per_step // pack_tokens)
        return f"train.pack_tokens={pack_tokens}", f"train.packs_per_step={packs}"

    def compare(self, sets: Mapping[str, Sequence[str]], against: str | None = None) -> dict[str, float]:
        """Measure arms, beside the arm `against` where one is named; median useful tokens/s of those that ran.

        Args:
            sets: arm -> overrides; `against` is one of them.
        """
        made = {
            name: arms.Arm(name, "benchmarks.ours", self.base.spec(*own), 1, ENVIRONMENT) for name, own in sets.items()
        }
        others = [arm for name, arm in made.items() if name != against]
        medians: dict[str, float] = {}
        for group in waves(others, self.measuring.at_once + (against is None)):
            if self.measuring.time_is_up():
                self.cut += [arm.name for arm in group]
                continue
            figures = self.measuring.measure([made[against], *group] if against else group)
            self.failed |= figures.failed
            for name, row in figures.rows(self.ceilings, sets).items():
                medians[name] = row["useful_tokens_per_second"]["median"]
                self.found[name] = row
                if against in figures.turns and name != against:
                    pair = figures.turns[against], figures.turns[name]
                    self.ratios[f"{against} over {name}"] = arms.ratio_of_rounds(*pair)
            self.write()
            self.console.print(table(self.result()))
        return medians

    def result(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "ceilings": self.ceilings,
            "parity": self.gate,
            "arms": self.found,
            "ratios": self.ratios,
            "failed": self.failed,
            "cut": self.cut,
        }

    def write(self) -> Path:
        return results.write(self.name, self.result(), self.out)


def run(options: argparse.Namespace, recipe: str | None, overrides: tuple[str, ...], folder: Path) -> Study:
    """Gate, ceilings, then the two questions.

    Raises:
        ParityFailed: nothing is timed then.
        UserError: as `workload.choose`.
    """
    console, device = Console(), World.from_environment().device
    overrides = (*overrides, f"engine.dtype={options.dtype}")
    base = workload.choose(folder, options.model, recipe, overrides, options.units)
    gate = parity.gate(base, dtype=options.dtype)
    console.print(parity.table(gate))
    ceilings = rates.measure(device, engine.DTYPES[gate["dtype"]], 0.05 if options.dry else 0.5)
    packs, stages = _numbers(options.packs), _numbers(options.stages)
    dropout = load_recipe(*parity.recipe_of(base)).model.dropout
    setting = {
        **base.says,
        "tokens_per_step": options.tokens_per_step,
        "dropout": "the encoder's" if dropout is None else dropout,
        "warmup_steps": options.warmup,
        "rounds": options.rounds,
        "steps_per_turn": options.steps,
        "seconds_per_turn": options.seconds,
    }
    kind = "gpu" if device.type == "cuda" else "cpu"
    keys = ("warmup", "rounds", "steps", "seconds", "at_once", "together", "budget")
    measuring = Measuring(**{key: getattr(options, key) for key in keys})
    name = f"throughput_{kind}"
    study = Study(base, measuring, ceilings, options.tokens_per_step, options.out, name, setting, gate, console)

    stage = (f"engine.config=ds_configs/zero{stages[0]}.json",)
    by_pack = study.compare({f"packs of {n:,}": (*study.packing(n), *stage) for n in packs})
    best = max(packs, key=lambda n: by_pack.get(f"packs of {n:,}", 0.0))
    study.setting["best_pack_tokens"] = best
    if not by_pack:
        return study
    at_best = (*study.packing(best), *stage)
    variants = {ON: at_best}
    if options.features:
        off = FEATURES if device.type == "cuda" else {k: v for k, v in FEATURES.items() if k not in GPU_ONLY}
        off = dict(list(off.items())[-1:]) if options.dry else off
        variants |= {f"without {name}": (*at_best, *own) for name, own in off.items()}
    for n in stages[1:]:
        variants[f"ZeRO stage {n}"] = (*study.packing(best), f"engine.config=ds_configs/zero{n}.json")
    if len(variants) > 1:
        study.compare(variants, ON)
    return study


def plot(study: Study) -> Path:
    bars = {name: row["useful_tokens_per_second"] for name, row in study.found.items()}
    file = study.out if study.out.suffix == ".json" else study.out / f"{study.name}.json"
    return results.plot_bars(file, "Training throughput", "useful tokens/s", bars)


def table(result: Mapping[str, Any]) -> Table:
    """The arms as a person reads them."""
    ceilings = result["ceilings"]
    title = f"Throughput; products {ceilings['matmul_flops_per_second'] / 1e12:.3g} TFLOP/s"
    shown = Table("arm", "useful tokens/s", "lowest", "highest", "MFU", "fill", "step s", "peak GB", title=title)
    for name, row in result["arms"].items():
        rate = row["useful_tokens_per_second"]
        shown.add_row(
            name,
            *(f"{rate[which]:,.0f}" for which in ("median", "lowest", "highest")),
            f"{row['mfu']:.1%}",
            f"{row['fill']:.1%}",
            f"{row['step_seconds']['median']:.3g}",
            f"{row['peak_bytes'] / 1e9:.1f}",
        )
    for name, ratio in result["ratios"].items():
        shown.add_row(name, f"{ratio['median']:.2f} x", f"{ratio['lowest']:.2f}", f"{ratio['highest']:.2f}")
    return shown


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: list[str] | None = None) -> None:
    """The command; exit code 1 when the gate failed or no arm ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="RECIPE | key=value")
    parser.add_argument("--model", default="mini", choices=workload.MODELS)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--packs", default="2048,4096,8192", help="tokens of a pack, the sizes to try")
    parser.add_argument("--stages", default="2", help="ZeRO stages; the first is used for all else")
    parser.add_argument("--tokens-per-step", type=int, default=16384, help="of the global batch")
    parser.add_argument("--features", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--units", type=int, default=2000, help="of a task, of synthetic data")
    parser.add_argument("--warmup", type=int, default=Measuring.warmup, help="steps")
    parser.add_argument("--rounds", type=int, default=Measuring.rounds)
    parser.add_argument("--steps", type=int, default=Measuring.steps, help="of a turn, at least")
    parser.add_argument("--seconds", type=float, default=Measuring.seconds, help="of a turn, at least")
    parser.add_argument("--at-once", type=int, default=Measuring.at_once, help="arms alive at a time")
    parser.add_argument("--together", type=int, default=Measuring.together, help="arms built at a time")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds; no set of arms begins after it")
    parser.add_argument("--out", type=Path, default=results.RESULTS)
    parser.add_argument("--dry", action="store_true", help="tiny model, seconds-long: shows that it works")
    options = parser.parse_intermixed_args(arguments)
    if options.dry:
        options.model, options.packs, options.tokens_per_step = "tiny", "1536", 3072
        options.warmup, options.rounds, options.steps, options.seconds, options.units = 1, 1, 1, 0.0, 40
    recipe = take_recipe(options.words)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        with no_traceback(console, parity.ParityFailed):
            study = run(options, recipe, tuple(options.words), Path(folder))
        study.write()
    for name, why in study.failed.items():
        console.print(f"{name} failed: {why}", markup=False)
    if not study.found:
        raise SystemExit(1)
    plot(study)


if __name__ == "__main__":
    main()
