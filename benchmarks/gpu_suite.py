"""Suites: several benchmarks in a row, each a subprocess with a hard limit, whose results are kept as they come.

A part that fails or is cut off costs nothing but itself: result files are written while it measures.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import results

ROOT = Path(__file__).resolve().parents[1]
GRACE = 20.0  # seconds that an interrupted part has to stop its arms
TAIL = 60  # lines of a part's output that are shown
NO_TESTS = 5  # pytest's exit code when none was selected


@dataclass(frozen=True)
class Part:
    """One benchmark of a suite.

    Attributes:
        seconds: its share of the time; what earlier parts leave over comes on top.
        fine: exit codes that are no failure.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    fine: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Done:
    """How a part went: `outcome` is ok, failed, or cut (by its limit)."""

    name: str
    outcome: str
    seconds: float
    exit_code: int | None


def module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"benchmarks.{name}", *arguments)


def gpu(out: Path, dry: bool) -> list[Part]:
    """Under nine minutes on one GPU of 80 GB; with `dry` on a CPU, tiny."""
    to = ("--out", str(out))
    # Tests write nothing to `out`; by their own configuration they are left out unless asked for.
    tests = Part("tests", (sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")), 40, (0, NO_TESTS))
    if dry:  # about two minutes on two quiet cores; limits for busy ones
        return [
            tests,
            Part("throughput", module("throughput", "--dry", "--stages", "2,3", "--together", "2", *to), 300),
            Part("versus_hf", module("versus_hf", *TINY_VERSUS, *to), 300),
            Part("memory", module("memory", "--only", "stage 2", "--pack-tokens", "1536", *to), 300),
        ]
    large = ("--model", "xlm-roberta-large", "--dtype", "bf16")
    matrix = ("--packs", "4096,8192,16384,32768", "--stages", "2,3", "--tokens-per-step", "65536", "--units", "500")
    # Arms are built at the same time, as building is most of the wall time.
    turns = ("--warmup", "20", "--rounds", "5", "--steps", "4", "--seconds", "2")
    fleet = ("--at-once", "7", "--together", "7", "--budget", "150")
    short = ("--rounds", "5", "--steps", "10", "--seconds", "2", "--warmup", "10", "--units", "500")
    sweep = ("--examples-per-step", "128", "--micro-batches", "32,128", "--finalists", "1", "--at-once", "3")
    return [
        tests,
        Part("throughput", module("throughput", *large, *matrix, *turns, *fleet, *to), 250),
        Part("versus_hf", module("versus_hf", *large, *short, *sweep, *to), 195),
        Part("memory", module("memory", "--only", "stage 2", "stage 3", *to), 45),
    ]


def cpu(out: Path, dry: bool) -> list[Part]:
    """Everything that a machine without a GPU can measure: about an hour and a half on two quiet cores."""
    to = ("--out", str(out))
    extra = ("--dry",) if dry else ()
    return [
        Part("mixing", module("mixing", *extra, *to), 300),
        Part("data_throughput", module("data_throughput", "--out", str(out / "data_throughput.json")), 300),
        Part("throughput", module("throughput", *extra, *to), 2400),
        Part("scaling", module("scaling", *extra, *to), 1200),
        Part("versus_hf", module("versus_hf", *(TINY_VERSUS if dry else ("--micro-batch", "16")), *to), 3600),
        Part("memory", module("memory", *(("--only", "stage 2") if dry else ()), *to), 900),
    ]


def quick(out: Path, dry: bool) -> list[Part]:
    """Minutes, on any machine: whether the benchmarks work and what the features are about worth."""
    to = ("--out", str(out))
    turns = ("--warmup", "2", "--rounds", "2", "--steps", "2", "--seconds", "2", "--units", "100")
    small = ("--packs", "2048", "--tokens-per-step", "4096")
    return [
        Part("mixing", module("mixing", "--dry", *to), 60),
        Part("throughput", module("throughput", *(("--dry",) if dry else (*small, *turns)), *to), 420),
    ]


TINY_VERSUS = (
    "--model", "tiny", "--dtype", "fp32", "--examples-per-step", "8", "--micro-batches", "8", "--finalists", "1",
    "--no-compile", "--rounds", "1", "--steps", "1", "--seconds", "0", "--warmup", "1", "--units", "40",
)  # fmt: skip
SUITES = {"gpu": gpu, "cpu": cpu, "quick": quick}


def run(suite: str, out: Path, dry: bool, console: Console) -> list[Done]:
    """Run a suite's parts and write `suite_NAME.json`; how each went."""
    return run_parts(SUITES[suite](out, dry), out, f"suite_{suite}", {"suite": suite, "dry": dry}, console)


def run_parts(parts: Sequence[Part], out: Path, name: str, setting: dict, console: Console) -> list[Done]:
    """One part after the other. Their output goes to OUT/logs/PART.txt, its end to the console."""
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    spare = 0.0
    for part in parts:
        console.print(f"{part.name}: at most {part.seconds + spare:.0f} s", markup=False)
        log = logs / f"{part.name}.txt"
        done.append(run_part(part, part.seconds + spare, log))
        spare += part.seconds - done[-1].seconds
        lines = log.read_text(errors="replace").rstrip().splitlines()
        console.print("\n".join(lines[-TAIL:]), markup=False, highlight=False, soft_wrap=True)
        results.write(name, {"setting": setting, "parts": [asdict(each) for each in done]}, out)
    console.print(table(done))
    return done


def run_part(part: Part, limit: float, log: Path) -> Done:
    """Run a part for at most `limit` seconds: then it is interrupted, so that it can stop its arms, then killed."""
    began, exit_code = time.monotonic(), None
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "120"}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    with open(log, "wb") as file:
        output = {"stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(part.command, **output, env=environment, start_new_session=True, preexec_fn=heard)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                exit_code = process.wait(max(1.0, limit))
        finally:  # also when the suite itself is interrupted
            _end(process)
    outcome = "cut" if exit_code is None else "ok" if exit_code in part.fine else "failed"
    return Done(part.name, outcome, time.monotonic() - began, exit_code)


def _end(process: subprocess.Popen) -> None:
    """Interrupt a process, if it still runs, and after GRACE seconds kill it with its group, which is its own."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def table(done: Sequence[Done]) -> Table:
    """What ran, what failed, what was cut."""
    shown = Table("part", "outcome", "seconds", "exit code", title="Suite")
    for each in done:
        code = "" if each.exit_code is None else str(each.exit_code)
        shown.add_row(each.name, each.outcome, f"{each.seconds:.0f}", code)
    return shown
