"""The watchdog: its limits, whom it blames, and a process that it ends."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from trainer.distributed import World
from trainer.exits import Exit
from trainer.watch.ranks import ATTEMPT, RankFiles, clear, read_all, write_exit
from trainer.watch.watchdog import Watchdog, blame


def world(rank=0, size=1):
    return World(rank, size, rank, size, torch.device("cpu"))


def state(rank, step=7, phase="backward", pack=0, written=1.0):
    return {"rank": rank, "host": f"host{rank}", "step": step, "pack": pack, "phase": phase, "written": written}


def later(states):
    return [{**one, "written": one["written"] + 1} for one in states]


def test_before_the_first_step_the_limit_is_that_of_starting(tmp_path):
    dog = Watchdog(RankFiles(tmp_path, world(), 1), factor=20, least_seconds=30, start_seconds=3600)
    assert dog.limit() == 3600
    for seconds in (2.0, 2.0, 50.0):
        dog.stepped(seconds)
    assert dog.limit() == 40.0
    for _ in range(10):
        dog.stepped(0.1)
    assert dog.limit() == 30


def test_the_rank_that_is_behind_is_blamed():
    states = [state(0), state(1, phase="forward"), state(2)]
    assert blame(states, later(states), 3) == "held up by rank 1 on host1, in forward of step 7"
    states = [state(0, step=8, phase="data"), state(1), state(2, pack=1)]
    assert blame(states, later(states), 3) == "held up by rank 1 on host1, in backward of step 7"


def test_a_rank_without_a_sign_of_life_is_blamed_first():
    states = [state(0), state(1), state(2, step=3)]
    after = [*later(states)[:1], states[1], later(states)[2]]
    assert blame(states, after, 3) == "no sign of life from rank 1 on host1"
    assert blame(states[:2], later(states)[:2], 3) == "no sign of life from rank 2 (never heard of)"


def test_nobody_is_blamed_when_all_are_at_the_same_place():
    states = [state(0), state(1)]
    assert blame(states, later(states), 2).startswith("all ranks are in backward of step 7")


def test_files_of_an_earlier_start_are_not_read(tmp_path):
    RankFiles(tmp_path, world(1, 2), job=1).write_state(**state(1))
    mine = RankFiles(tmp_path, world(0, 2), job=2)
    mine.write_state(**{**state(0), "step": 4})
    assert [(one["rank"], one["step"]) for one in mine.read_states()] == [(0, 4)]
    write_exit(tmp_path, Exit.HANG, "it hung")
    assert read_all(tmp_path / "ranks", "exit")[0]["cause"] == "it hung"
    clear(tmp_path)
    assert read_all(tmp_path / "ranks", "exit") == []


def test_an_unwritable_folder_is_no_second_failure(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    write_exit(tmp_path / "run", 1, "first failure")


HANGS = """
import sys, time, torch
from pathlib import Path
from trainer.distributed import World
from trainer.watch.ranks import RankFiles
from trainer.watch import watchdog

def in_a_collective():
    time.sleep(60)

files = RankFiles(Path(sys.argv[1]), World(0, 1, 0, 1, torch.device("cpu")), 1)
if sys.argv[3] == "disk hangs":
    watchdog.FILES_SECONDS = 1.0
    files.write_state = lambda **state: time.sleep(60)
if sys.argv[3] == "folder lost":
    files.folder.rmdir()
dog = watchdog.Watchdog(files, 2.0, 0.4, 60.0)
dog.start()
for step in range(3):
    dog.beat("data", step)
    dog.stepped(0.01)
    time.sleep(float(sys.argv[2]))
dog.beat("update")
in_a_collective()
"""


def hangs(run, fault: str = "") -> tuple[str, str]:
    """The last line that such a process says, and what comes before."""
    began = time.monotonic()
    command = [sys.executable, "-c", HANGS, str(run), "0.01", fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env={**os.environ, ATTEMPT: "1-ab12"})
    assert done.returncode == Exit.HANG, done.stderr
    assert time.monotonic() - began < 40
    before, _, last = done.stderr.strip().rpartition("\n")
    assert last.startswith("exit 23 (hang): rank 0 has been in update of step 2 for ")
    return last, before


def test_a_process_that_hangs_is_ended_with_its_stacks(tmp_path):
    last, before = hangs(tmp_path)
    stacks = tmp_path / "ranks/stacks-0-1-ab12.txt"
    assert "in_a_collective" in stacks.read_text() and not before and last.endswith(str(stacks))
    left = json.loads((tmp_path / "ranks/exit-0.json").read_text())
    assert left["code"] == 23 and left["cause"] in last
    clear(tmp_path)
    assert list((tmp_path / "ranks").iterdir()) == [stacks], "kept when the run is started again"


@pytest.mark.parametrize("fault", ["disk hangs", "folder lost"])
def test_a_disk_that_hangs_or_is_lost_keeps_the_watchdog_from_nothing(tmp_path, fault):
    last, before = hangs(tmp_path, fault)
    assert "so it is not known by whom" in last and "in_a_collective" in before


@pytest.mark.parametrize("beats", [True, False])
def test_signs_of_life_keep_it_quiet(tmp_path, beats):
    dog = Watchdog(RankFiles(tmp_path, world(), 1), 2.0, 1.5, 60.0)
    ended = []
    dog._give_up = lambda: ended.append(dog._ended.set())
    dog.stepped(0.01)
    dog.start()
    for _ in range(40):
        time.sleep(0.1)
        if beats:
            dog.beat()
    dog.end()
    dog.join(5)
    assert bool(ended) is not beats
