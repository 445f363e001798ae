"""One run, one folder: a second run is refused, a killed one leaves nothing in the way."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.launching import DEMO, ROOT, start_ranks
from trainer import claim
from trainer.claim import claimed, launch_claimed
from trainer.errors import UserError
from trainer.exits import Exit, RunError
from trainer.watch.ranks import ATTEMPT

HOLDER = """
import sys, time
from pathlib import Path
from trainer.claim import claimed
with claimed(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which has the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "demo")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_and_told_who_has_the_folder(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(claim, "PATIENCE", 0.1)
    said = []
    with pytest.raises(UserError) as caught, claimed(tmp_path / "demo", said.append):
        pass
    assert f"in use by process {holder.pid} on {socket.gethostname()}" in str(caught.value)
    assert f"kill {holder.pid}" in caught.value.fix and len(said) == 1


def test_the_folder_of_a_killed_run_is_free_once_it_is_gone(holder, tmp_path):
    said = []
    threading.Timer(2.0, holder.kill).start()
    with claimed(tmp_path / "demo", said.append):
        assert len(said) == 1 and "waiting up to 30 s for its end" in said[0]


def test_only_one_process_starts_and_ends_the_processes_of_a_run(tmp_path, monkeypatch):
    """A run itself may go on meanwhile: its lock is another one."""
    monkeypatch.setattr(claim, "PATIENCE", 0.1)
    with launch_claimed(tmp_path, print), claimed(tmp_path, print):
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}") as caught:
            with launch_claimed(tmp_path, print):
                pass
        assert caught.value.exit_code == Exit.USER
        monkeypatch.setenv(ATTEMPT, "2-abcd")  # of a supervisor, which tries again
        with pytest.raises(RunError) as caught, claimed(tmp_path, print):
            pass
        assert caught.value.exit_code == Exit.PEER


def test_it_is_let_go_at_the_end_whatever_that_is(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), claimed(tmp_path, print):
            raise KeyError
    with claimed(tmp_path, print):
        assert (tmp_path / "lock").read_text().split()[:2] == [socket.gethostname(), str(os.getpid())]


def test_a_process_on_another_host_is_waited_for_longer(holder, tmp_path, monkeypatch):
    """Its host may be lost, and only the file server can tell."""
    monkeypatch.setattr(claim, "OTHER_HOST", 0.1)
    monkeypatch.setattr(claim.socket, "gethostname", lambda: "node7")
    here = (tmp_path / "demo/lock").read_text().split()[0]
    with pytest.raises(UserError, match=f"on {here}") as caught, claimed(tmp_path / "demo", print):
        pass
    assert f"ssh {here} kill {holder.pid}" in caught.value.fix


def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    with claimed(tmp_path, said.append):
        assert len(said) == 1 and said[0].startswith("warning: ") and "No locks available" in said[0]


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), claimed(tmp_path / "file" / "run", print):
        pass


@pytest.mark.slow
def test_every_rank_of_a_second_run_learns_of_it(holder, tmp_path):
    began = time.monotonic()
    output, _ = start_ranks(["train", str(DEMO), f"run.folder={tmp_path}"], 2).communicate(timeout=200)
    assert f"waiting up to {claim.PATIENCE:.0f} s" in output and time.monotonic() - began > claim.PATIENCE
    cause = f"run folder {tmp_path / 'demo'} is in use by process {holder.pid}"
    for where in ("", "[rank 1] "):
        assert f"\n{where}exit {Exit.USER:d}: {cause}" in output
    assert not (tmp_path / "demo" / "checkpoints").exists()
