"""`xstilts launch` on this machine, with the deepspeed launcher as it is."""

import signal
import subprocess
import sys
import time

import pytest

from tests.launch.conftest import STEPS, environment, same_run
from tests.launching import DEMO, ROOT, steps

pytestmark = pytest.mark.slow


def launch(log, *arguments: object) -> subprocess.Popen:
    words = [sys.executable, "-m", "trainer", "launch", DEMO, "--processes", "2", *arguments]
    output = {"stdout": open(log, "a"), "stderr": subprocess.STDOUT}
    return subprocess.Popen(list(map(str, words)), cwd=ROOT, env=environment(), start_new_session=True, **output)


def test_told_to_stop_and_started_again_it_is_the_same_run(overrides, one_host, tmp_path):
    log, run = tmp_path / "log", tmp_path / "demo"
    process = launch(log, *overrides)
    while not ((run / "events.jsonl").is_file() and steps(run)):
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 28, log.read_text()[-3000:]
    assert log.read_text().strip().splitlines()[-1].startswith("exit 28: rank 0 on ")
    assert max(steps(run)) < STEPS, "it was done before the signal"
    again = launch(log, *overrides)
    assert again.wait(200) == 0, log.read_text()[-3000:]
    same_run(steps(run), one_host(2))


def test_ctrl_c_ends_it_at_once(overrides, tmp_path):
    log, run = tmp_path / "log", tmp_path / "demo"
    process = launch(log, *overrides, "train.steps=400")
    while not ((run / "events.jsonl").is_file() and steps(run)):
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()[-3000:]
