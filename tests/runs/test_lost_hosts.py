"""Two virtual hosts of which one is lost in mid-run: cut off or killed, back after a while or gone for good."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.hosts import virtual_hosts
from tests.launching import DEMO, finish, start_ranks, steps
from trainer.events import read_events

pytestmark = pytest.mark.slow

STEPS = 16
AWAY = 25.0  # seconds that a host is away, and longer than it takes to notice


def settings(store, tmp_path, name):
    return [str(DEMO), store, f"run.folder={tmp_path}", f"run.name={name}", f"train.steps={STEPS}",
            "checkpoint.every_steps=3", "evaluation.end_limit=1",
            "watch.hang_seconds=8", "watch.hang_factor=3"]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    finish(start_ranks(["train", *settings(store, folder, "unbroken")], 2))
    return steps(folder / "unbroken")


@pytest.mark.parametrize(
    "loss, back",
    [
        ("cut", True),
        ("kill", False),
        pytest.param("kill", True, marks=pytest.mark.long),
        pytest.param("cut", False, marks=pytest.mark.long),
    ],
)
def test_a_lost_host_ends_no_run(loss, back, unbroken, store, tmp_path):
    with virtual_hosts(tmp_path / "hosts") as hosts:
        run = tmp_path / "run"
        command = [sys.executable, "-m", "trainer", "train", *settings(store, tmp_path, "run"), "--supervise",
                   "--hostfile", hosts.hostfile(), "--wait-for-hosts", "120" if back else "10"]  # fmt: skip
        log = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        supervisor = hosts.popen("node1", command, **log)
        deadline = time.monotonic() + 120
        while not ((run / "events.jsonl").is_file() and 7 in steps(run)):
            assert time.monotonic() < deadline and supervisor.poll() is None, supervisor.communicate(timeout=20)[0][
                -4000:
            ]
            time.sleep(0.05)
        hosts.cut("node2")
        if loss == "kill":
            hosts.kill("node2")
        if back:
            time.sleep(AWAY)
            if loss == "kill":
                hosts.start("node2")
            else:
                hosts.mend("node2")
        output, _ = supervisor.communicate(timeout=300)
        assert supervisor.returncode == 0, output[-4000:]
    found = steps(run)
    assert list(found) == list(range(1, STEPS + 1))
    assert [found[step]["example_ids_hash"] for step in found] == [unbroken[step]["example_ids_hash"] for step in found]
    sizes = [event["world_size"] for event in read_events(run / "events.jsonl") if event["event"] == "start"]
    assert sizes == ([2, 2] if back else [2, 1]), sizes
    for step, expected in unbroken.items():
        assert found[step]["loss"] == pytest.approx(expected["loss"], rel=1e-6 if back else 1e-4), step
