"""Result files: what was measured, in which setting, with what; and their plots.

`benchmarks/results/NAME.json` has `benchmark`, `setting`, `arms` {name: figures and settings}, `ratios` and
`provenance`; single benchmarks add keys of their own. Nothing in them is typed by hand.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import RESULTS, provenance
from trainer.errors import UserError

VERSIONS = ("deepspeed", "transformers", "accelerate", "tokenizers", "pyarrow")


def write(name: str, result: Mapping[str, Any], out: Path | None = None) -> Path:
    """Write a result with its provenance, replacing an older one only when it is whole; the file's path.

    Args:
        out: file, or folder (where the file is called NAME.json); default: benchmarks/results/.

    Raises:
        ValueError: a figure is not finite.
    """
    out = out or RESULTS
    path = out if out.suffix == ".json" else out / f"{name}.json"
    measured_with = {**provenance(), **hardware(), **versions()}
    text = json.dumps({"benchmark": name, **result, "provenance": measured_with}, indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text + "\n")
    temporary.replace(path)
    return path


def read(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        UserError: it is not one.
    """
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the result {path}", why=str(error), fix=f"rm {path}, and measure again") from None
    return result


def hardware() -> dict[str, Any]:
    """The GPUs, their driver and CUDA, when there are any; and the memory of the machine in bytes."""
    import torch

    found: dict[str, Any] = {}
    if hasattr(os, "sysconf"):
        found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": device.name,
            "gpus": torch.cuda.device_count(),
            "gpu_memory_bytes": device.total_memory,
            "gpu_capability": f"{device.major}.{device.minor}",
            "cuda": torch.version.cuda,
            "driver": _driver(),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        }
    return found


def versions() -> dict[str, str | None]:
    """Of the packages a figure may depend on, besides torch and numpy; None for those not installed."""
    found: dict[str, str | None] = {}
    for package in VERSIONS:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip() or None


def plot_bars(path: Path, title: str, unit: str, bars: Mapping[str, Mapping[str, float]]) -> Path:
    """A horizontal bar an arm: the median, with lowest to highest as whiskers.

    Args:
        bars: arm -> {"median", "lowest", "highest"}.
    """
    figure, axes = _figure(1.2 + 0.45 * len(bars))
    names = list(bars)[::-1]
    medians = [bars[name]["median"] for name in names]
    below = [bars[name]["median"] - bars[name]["lowest"] for name in names]
    above = [bars[name]["highest"] - bars[name]["median"] for name in names]
    axes.barh(names, medians, xerr=[below, above], color="#4878a8", ecolor="#333333", capsize=3, height=0.65)
    for row, value in enumerate(medians):
        axes.annotate(f"{value:,.{_digits(value)}f} ", (value / 2, row), va="center", ha="center", color="white")
    axes.set_xlabel(unit)
    return _save(figure, axes, path, title)


def plot_lines(
    path: Path,
    title: str,
    labels: tuple[str, str],
    lines: Mapping[str, Sequence[tuple[float, float]]],
    logarithmic: bool = True,
) -> Path:
    """A line a series of (x, y); a series whose name ends in "(predicted)" is dashed.

    Args:
        labels: of the two axes.
        logarithmic: x on an axis of base 2, with a tick and a marker a point.
    """
    figure, axes = _figure(3.6)
    for name, points in lines.items():
        style = "--" if name.endswith("(predicted)") else "-"
        marker = "o" if logarithmic else None
        axes.plot([x for x, _ in points], [y for _, y in points], style, marker=marker, markersize=3.5, label=name)
    if logarithmic:
        axes.set_xscale("log", base=2)
        places = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.legend(frameon=False)
    return _save(figure, axes, path, title)


def _digits(value: float) -> int:
    return max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0


def _figure(height: float):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib", fix="pip install -c constraints.txt -e '.[bench]'") from None
    figure = Figure(figsize=(7.5, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure, axes, path: Path, title: str) -> Path:
    axes.set_title(title, loc="left", fontsize=11)
    path = path.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path
