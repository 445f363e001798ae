"""Starting real runs: the deepspeed launcher, real processes, real kills."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from trainer.events import read_events
from trainer.launchers import free_port

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "launch" / "recipes" / "demo.yaml"


def deepspeed(arguments: list[str], processes: int, env: dict[str, str] | None = None) -> subprocess.Popen:
    """Start the command through the deepspeed launcher, in a process group of its own.

    Args:
        env: variables besides this process's.
    """
    launcher = Path(sys.executable).with_name("deepspeed")
    words = ["--num_gpus", str(processes), "--master_port", str(free_port()), "--module", "trainer"]
    return _start([str(launcher), *words, *arguments], env or {})


def start_ranks(
    arguments: list[str], processes: int, module: str = "trainer", env: dict[str, str] | None = None
) -> subprocess.Popen:
    """The same for tests of what the ranks do, in half the time: without a launcher that imports deepspeed twice."""
    command = [sys.executable, str(ROOT / "tests" / "ranks.py"), str(processes), module, *arguments]
    return _start(command, {"MASTER_PORT": str(free_port()), **(env or {})})


def _start(command: list[str], env: dict[str, str]) -> subprocess.Popen:
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **env}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def finish(process: subprocess.Popen, timeout: float = 240) -> str:
    """Wait for success; the output."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"no end after {timeout} s:\n{output[-3000:]}") from None
    assert process.returncode == 0, output[-4000:]
    return output


def xstilts(*arguments: object, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess:
    """One plain process of the command."""
    return subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def steps(run: Path) -> dict[int, dict]:
    """The step events of a run by step; of a step that was redone, the last."""
    return {event["step"]: event for event in read_events(run / "events.jsonl") if event["event"] == "step"}


def kill_all(process: subprocess.Popen) -> None:
    """Kill -9 a command and all that it has started, in whatever process groups."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(60)


def kill_at_step(process: subprocess.Popen, run: Path, step: int, rank: int, timeout: float = 240) -> None:
    """Kill -9 the process of `rank` as soon as `step` is written, after a random fraction of a step."""
    wait_for_step(process, run, step, timeout)
    time.sleep(random.random() * steps(run)[step]["step_seconds"])
    os.kill(process_of_rank(process, rank), signal.SIGKILL)
    process.communicate(timeout=60)


def wait_for_step(process: subprocess.Popen, run: Path, step: int, timeout: float = 240) -> None:
    """Until `step` is written."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "events.jsonl").is_file() and step in steps(run):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached")


def process_of_rank(process: subprocess.Popen, rank: int) -> int:
    for child in psutil.Process(process.pid).children(recursive=True):
        if f"--local_rank={rank}" in child.cmdline():
            return child.pid
    raise AssertionError(f"no process of rank {rank}")
