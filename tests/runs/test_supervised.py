"""Supervised runs, killed again and again: complete in the end, and the same run as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.launching import DEMO, ROOT, finish, start_ranks, steps, xstilts
from trainer.checkpoint import CorruptCheckpoint, checkpoint_folders, verify
from trainer.events import read_events

KILLS = int(os.environ.get("TEST_KILLS", 50))
STEPS = 3 * KILLS
START_SECONDS = 8.0  # about what a process needs to begin


def settings(store, tmp_path, name):
    return [str(DEMO), store, f"run.folder={tmp_path}", f"run.name={name}", f"train.steps={STEPS}",
            "train.pack_tokens=512", "checkpoint.every_steps=2", "evaluation.end_limit=1"]  # fmt: skip


def supervised(arguments, launcher, log):
    """Its output goes to a file: a pipe that nobody reads is full after 40 kills, and stops the run."""
    command = [sys.executable, "-m", "trainer", "train", *arguments, "--supervise", "--launcher", launcher]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    with open(log, "w") as file:
        output = {"stdout": file, "stderr": subprocess.STDOUT}
        return subprocess.Popen([*command, "--pause", "0.1"], cwd=ROOT, env=environment, **output)


def ranks_of(supervisor):
    """The processes of the run that are there now."""
    found = []
    for child in psutil.Process(supervisor.pid).children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if "trainer" in words and "train" in words and not any("launch" in Path(word).name for word in words[:4]):
            found.append(child)
    return found


def kill_one(supervisor, run, draw) -> int | None:
    """Kill -9 one process of the run at a random instant of an attempt; the last step by then, None at the end."""
    while not (ranks := ranks_of(supervisor)):
        if supervisor.poll() is not None:
            return None
        time.sleep(0.02)
    before = len(read_events(run / "events.jsonl")) if (run / "events.jsonl").is_file() else 0
    if draw.random() < 0.2:
        time.sleep(draw.random() * START_SECONDS)
    else:
        while supervisor.poll() is None and ranks_of(supervisor):
            if (run / "events.jsonl").is_file():
                if any(event["event"] == "step" for event in read_events(run / "events.jsonl")[before:]):
                    break
            time.sleep(0.01)
        time.sleep(draw.random() * 1.0)
    for process in draw.sample(ranks, len(ranks)):
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
        gone = time.monotonic() + 60  # the others must notice, and a new attempt begin
        while set(ranks_of(supervisor)) & set(ranks) and time.monotonic() < gone:
            time.sleep(0.05)
        return max(steps(run), default=0) if (run / "events.jsonl").is_file() else 0
    return -1  # it had just ended


def kill_fifty_times(supervisor, run, seed):
    draw, killed_at = random.Random(seed), []
    while len(killed_at) < KILLS:
        step = kill_one(supervisor, run, draw)
        if step is None:
            break
        if step >= 0:
            killed_at.append(step)
        for folder in checkpoint_folders(run):
            if folder.is_dir():  # retention may delete it meanwhile
                verify_unless_deleted(folder)
    return killed_at


def verify_unless_deleted(folder):
    try:
        verify(folder)
    except CorruptCheckpoint:
        if folder.is_dir() and (folder / "manifest.json").is_file():
            raise


def same_run(unbroken, killed):
    assert list(unbroken) == list(range(1, STEPS + 1))
    for step, expected in unbroken.items():
        for field in ("example_ids_hash", "loss", "task_loss", "grad_norm", "learning_rate"):
            assert killed[step][field] == expected[field], (step, field)


@pytest.mark.parametrize(
    "launcher, processes",
    [
        pytest.param(sys.executable, 1, marks=pytest.mark.slow),
        pytest.param("deepspeed --num_gpus 2", 2, marks=pytest.mark.long),
    ],
)
def test_fifty_kills_change_nothing(launcher, processes, store, tmp_path):
    unbroken = ["train", *settings(store, tmp_path, "unbroken")]
    if processes == 1:
        done = xstilts(*unbroken)
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        finish(start_ranks(unbroken, processes))
    run, seed = tmp_path / "killed", random.randrange(10**6)
    log = tmp_path / "supervisor.log"
    supervisor = supervised(settings(store, tmp_path, "killed"), launcher, log)
    killed_at = kill_fifty_times(supervisor, run, seed)
    assert supervisor.wait(timeout=600) == 0, (seed, log.read_text()[-4000:])
    assert len(killed_at) == KILLS, (seed, killed_at)
    print(f"kills survived: {len(killed_at)}, at steps {killed_at}")
    same_run(steps(tmp_path / "unbroken"), steps(run))
    assert not [e for e in read_events(run / "events.jsonl") if e["event"] == "warning" and "damaged" in e["message"]]
