"""A launcher's command at work, with real processes: signals reach the ranks, and only them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trainer.running import Running, ranks_below, signals_taken

ROOT = Path(__file__).resolve().parents[1]
# Two ranks, each with a worker below it that has inherited RANK. A rank ends with 20 + the signal's number.
RANK = """
import pathlib, signal, subprocess, sys, time
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: sys.exit(20 + number))
worker = subprocess.Popen(["sleep", "60"])
pathlib.Path(f"{sys.argv[1]}/worker-{worker.pid}").touch()
time.sleep(60)
"""
LAUNCHER = """
import os, subprocess, sys
start = lambda rank: subprocess.Popen([sys.executable, *sys.argv[1:]], env={**os.environ, "RANK": str(rank)})
sys.exit(max([process.wait() for process in [start(0), start(1)]]))
"""
DRIVER = """
import os, sys
from trainer.running import Running
sys.exit(Running(sys.argv[1:], os.environ).wait_passing_signals())
"""


@pytest.fixture
def command(tmp_path):
    """The words of a launcher of two ranks; whatever is left of them ends with the test."""
    yield [sys.executable, "-c", LAUNCHER, "-c", RANK, str(tmp_path)]
    for worker in workers(tmp_path):
        worker.kill()


def workers(folder: Path) -> list[psutil.Process]:
    found = []
    for path in folder.glob("worker-*"):
        try:
            found.append(psutil.Process(int(path.name.removeprefix("worker-"))))
        except psutil.NoSuchProcess:
            continue
    return [worker for worker in found if worker.status() != psutil.STATUS_ZOMBIE]


def wait_for(condition, seconds: float = 30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RANK"}


def test_a_signal_reaches_the_ranks_and_nothing_else(command, tmp_path):
    running = Running(command, plain())
    wait_for(lambda: len(workers(tmp_path)) == 2)
    assert len(ranks_below(running.process.pid)) == 2
    running.signal(signal.SIGUSR1)
    assert running.wait(30) == 20 + signal.SIGUSR1  # the launcher has lived to see how its ranks ended
    assert len(workers(tmp_path)) == 2


def test_the_launcher_ignores_sigusr1(command, tmp_path):
    running = Running(command, plain())
    wait_for(lambda: len(workers(tmp_path)) == 2)
    running.process.send_signal(signal.SIGUSR1)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.3)
    running.kill()
    assert running.wait() == 128 + signal.SIGKILL
    assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_IGN


def test_kill_leaves_nothing(command, tmp_path):
    running = Running(command, plain())
    wait_for(lambda: len(workers(tmp_path)) == 2)
    running.kill()
    wait_for(lambda: not workers(tmp_path))


def test_a_process_without_a_launcher_gets_the_signal_itself(tmp_path):
    """Though below it are helpers that have RANK in their environment, as the trainer sets it."""
    running = Running([sys.executable, "-c", RANK, str(tmp_path)], {**plain(), "RANK": "0"}, alone=True)
    wait_for(lambda: len(workers(tmp_path)) == 1)
    running.signal(signal.SIGTERM)
    assert running.wait(30) == 20 + signal.SIGTERM
    workers(tmp_path)[0].kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_who_waits_passes_signals_on(command, tmp_path, number):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *command], cwd=ROOT, env=plain())
    wait_for(lambda: len(workers(tmp_path)) == 2)
    driver.send_signal(number)
    assert driver.wait(30) == 20 + number


def test_a_second_ctrl_c_ends_everything(tmp_path):
    deaf = RANK.replace("sys.exit(20 + number)", "None")
    command = [sys.executable, "-c", LAUNCHER, "-c", deaf, str(tmp_path)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, *command], cwd=ROOT, env=plain())
    wait_for(lambda: len(workers(tmp_path)) == 2)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        driver.send_signal(number)
        time.sleep(0.5)
        assert driver.poll() is None
    driver.send_signal(signal.SIGINT)
    assert driver.wait(30) == 128 + signal.SIGKILL
    wait_for(lambda: not workers(tmp_path))


def test_under_nohup_the_end_of_the_terminal_is_no_signal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_taken() as told:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert told == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGHUP, before)
