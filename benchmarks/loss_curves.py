"""Loss curves of one recipe with fused, compiled and plain kernels: the same run, or a kernel is wrong.

    python -m benchmarks.loss_curves [RECIPE] [key=value ...] [--steps 200] [--out FILE]

Without dropout the curves must coincide up to rounding. With dropout the kernels draw other masks for the same
examples: the curves must overlap, and their means be near each other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.command import take_recipe
from trainer.events import read_events

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "launch/recipes/demo.yaml"
ARMS = {
    "plain": ["kernels.layers=plain", "kernels.attention=packed_sdpa", "model.vocabulary=full"],
    "fused": ["kernels.compile=off"],
    "fused, compiled": ["kernels.compile=on"],
}
DROPOUTS = {"with dropout": "null", "without dropout": "0.0"}
WINDOW = 10  # steps a point of the plot is the mean of


def train(recipe: Path, overrides: Sequence[str], steps: int, folder: Path, name: str) -> list[float]:
    """The loss of every step of a run.

    Raises:
        RuntimeError: the run failed; the text has the end of its output.
    """
    own = [f"train.steps={steps}", f"run.folder={folder}", f"run.name={name}", "evaluation.end_limit=1"]
    own += [f"checkpoint.every_steps={steps}", "checkpoint.keep=1"]
    command = [sys.executable, "-m", "trainer", "train", str(recipe), *overrides, *own]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"run {name} ended with exit code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return [event["loss"] for event in read_events(folder / name / "events.jsonl") if event["event"] == "step"]


def compare(plain: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """How far a curve is from another: the largest relative difference of a step, and the difference of their means
    over the plain one's. No significance: steps of a run are not independent, two runs with other masks drift apart."""
    differences = [b - a for a, b in zip(plain, other, strict=True)]
    return {
        "largest_relative": max(abs(d) / abs(a) for d, a in zip(differences, plain, strict=True)),
        "mean_relative": statistics.fmean(differences) / statistics.fmean(plain),
    }


def run(recipe: Path, overrides: Sequence[str], steps: int) -> dict[str, Any]:
    """All arms with and without dropout, one run after another."""
    curves: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, dropout in DROPOUTS.items():
            for arm, settings in ARMS.items():
                words = [*overrides, *settings, f"model.dropout={dropout}"]
                name = f"{arm} {title}".replace(" ", "-").replace(",", "")
                curves.setdefault(title, {})[arm] = train(recipe, words, steps, Path(folder), name)
    differences = {
        title: {arm: compare(losses["plain"], losses[arm]) for arm in losses if arm != "plain"}
        for title, losses in curves.items()
    }
    setting = {"recipe": recipe.name, "overrides": list(overrides), "steps": steps, "arms": ARMS}
    return {"setting": setting, "curves": curves, "differences": differences}


def table(result: Mapping[str, Any]) -> Table:
    """Differences as a person reads them."""
    found = Table("against plain", "largest, relative", "mean, relative", title="Loss curves")
    for title, arms in result["differences"].items():
        for arm, figures in arms.items():
            found.add_row(f"{arm}, {title}", f"{figures['largest_relative']:.2g}", f"{figures['mean_relative']:+.2g}")
    return found


def plot(path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Path:
    """The curves, each point the mean of WINDOW steps."""
    lines = {
        f"{arm}, {title}": [
            (step, statistics.fmean(losses[step - WINDOW : step])) for step in range(WINDOW, len(losses) + 1, WINDOW)
        ]
        for title, arms in curves.items()
        for arm, losses in arms.items()
    }
    title = "The same losses with fused and plain kernels"
    return results.plot_lines(path, title, ("step", f"loss (mean of {WINDOW} steps)"), lines, logarithmic=False)


def main(arguments: list[str] | None = None) -> None:
    """The command; prints the table and writes the result and its plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_curves", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="RECIPE | key=value", help="default: the demo recipe")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=results.RESULTS / "loss_curves.json")
    options = parser.parse_args(arguments)
    recipe = Path(take_recipe(options.words) or RECIPE)
    result = run(recipe, options.words, options.steps)
    Console().print(table(result))
    path = results.write("loss_curves", result, options.out)
    plot(path, result["curves"])


if __name__ == "__main__":
    main()
