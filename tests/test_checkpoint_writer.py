"""Checkpoints are written while the caller goes on; whatever fails, the one before is untouched."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from tests.launching import ROOT
from trainer import checkpoint
from trainer.checkpoint_writer import CheckpointWriter
from trainer.distributed import World
from trainer.events import Events
from trainer.exits import Exit, RunError

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture
def happened():
    return []


@pytest.fixture
def writer(tmp_path, happened):
    return CheckpointWriter(tmp_path, ALONE, Events([happened.append]), keep=2)


def save(writer: CheckpointWriter, step: int, *writes) -> None:
    """A checkpoint whose files are written by `writes`."""
    content = {f"part/{number}.pt": write for number, write in enumerate(writes)}
    writer.save(step, {"step": step}, lambda folder: (content, lambda: None))


def numbers(file) -> None:
    torch.save({"numbers": torch.arange(1000)}, file)


def left(folder) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_a_checkpoint_is_whole_and_latest_names_it(writer, tmp_path, happened):
    save(writer, 5, numbers, lambda file: file.write(b"abc"))
    writer.finish()
    folder = tmp_path / "checkpoints" / "step-5"
    checkpoint.verify(folder)
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "manifest.json", "state.json", "part/0.pt", "part/1.pt"
    }  # fmt: skip
    assert torch.equal(torch.load(folder / "part" / "0.pt")["numbers"], torch.arange(1000))
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-5\n"
    (event,) = happened
    assert event["step"] == 5 and event["folder"] == str(folder)
    assert event["bytes"] == sum((folder / name).stat().st_size for name in ("state.json", "part/0.pt", "part/1.pt"))
    assert 0 <= event["stalled_seconds"] <= event["seconds"] and "waited_seconds" not in event


def test_the_caller_goes_on_while_it_is_written(writer, tmp_path, happened):
    go_on = threading.Event()
    save(writer, 1, lambda file: go_on.wait(30) and numbers(file))
    writer.poll()
    assert not happened and not checkpoint.checkpoint_folders(tmp_path)
    time.sleep(0.2)
    go_on.set()
    writer.finish()
    assert happened[0]["stalled_seconds"] < 0.2 < happened[0]["seconds"]
    assert checkpoint.newest_good(tmp_path, pytest.fail) == tmp_path / "checkpoints" / "step-1"


def test_without_background_it_is_complete_at_once(tmp_path, happened):
    save(CheckpointWriter(tmp_path, ALONE, Events([happened.append]), keep=2, background=False), 1, numbers)
    assert happened[0]["stalled_seconds"] == happened[0]["seconds"]


def test_a_second_one_waits_for_the_first_and_says_so(writer, happened):
    save(writer, 1, lambda file: time.sleep(0.3) or numbers(file))
    save(writer, 2, numbers)
    writer.finish()
    assert [event["step"] for event in happened] == [1, 2]
    assert 0.2 < happened[1]["waited_seconds"] <= happened[1]["stalled_seconds"]


def test_what_is_written_is_what_was_taken(writer, tmp_path):
    """Hashes are of the bytes handed over, so a disk that changes them is found out."""
    save(writer, 1, numbers)
    writer.finish()
    file = tmp_path / "checkpoints" / "step-1" / "part" / "0.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(checkpoint.CorruptCheckpoint, match=r"0\.pt has changed"):
        checkpoint.verify(file.parents[1])


def test_a_failed_write_reaches_the_caller_and_leaves_the_one_before(writer, tmp_path):
    save(writer, 1, numbers)
    writer.finish()

    def fails(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    save(writer, 2, numbers, fails)
    with pytest.raises(RunError, match="step-2 could not be written") as error:
        writer.finish()
    assert error.value.exit_code == Exit.DISK and "No space left" in error.value.why
    assert left(tmp_path) == {"step-1", "latest"}
    checkpoint.verify(tmp_path / "checkpoints" / "step-1")
    save(writer, 3, numbers)
    writer.finish()
    assert left(tmp_path) == {"step-1", "step-3", "latest"}


def test_an_error_after_it_is_complete_is_a_warning(writer, tmp_path, happened, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("trainer.checkpoint_writer.prune", fails)
    save(writer, 1, numbers)
    writer.finish()
    assert [event["event"] for event in happened] == ["warning", "checkpoint"]
    assert "step-1 is complete, but" in happened[0]["message"] and "Stale file handle" in happened[0]["message"]
    assert checkpoint.newest_good(tmp_path, pytest.fail).name == "step-1"


def test_an_error_that_is_no_disk_is_no_disk(writer):
    save(writer, 1, lambda file: torch.save(lambda: None, file))
    with pytest.raises(RunError) as error:
        writer.finish()
    assert error.value.exit_code == Exit.BUG


def test_a_disk_that_fills_up(tmp_path, happened):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        writer = CheckpointWriter(small, ALONE, Events([happened.append]), keep=2)
        save(writer, 1, numbers)
        save(writer, 2, lambda file: torch.save({"large": torch.zeros(2**20)}, file))
        with pytest.raises(RunError, match="step-2 could not be written") as error:
            writer.finish()
        assert error.value.exit_code == Exit.DISK and "No space left" in error.value.why
        assert left(small) == {"step-1", "latest"}
        checkpoint.verify(small / "checkpoints" / "step-1")
    finally:
        subprocess.run(["umount", str(small)], check=True)


SLOW_WRITER = """
import sys, time, torch
from pathlib import Path
from tests.test_checkpoint_writer import ALONE, save
from trainer.checkpoint_writer import CheckpointWriter
from trainer.events import Events

def slowly(file):
    print("writing", flush=True)
    for _ in range(60):
        time.sleep(0.05)
        file.write(b"x" * 1000)

writer = CheckpointWriter(Path(sys.argv[1]), ALONE, Events([]), keep=2)
save(writer, 1, lambda file: file.write(b"good"))
writer.finish()
save(writer, 2, slowly)
while sys.argv[2] == "stay":
    time.sleep(0.1)
time.sleep(0.3)
raise SystemExit(7)
"""


def slow_writer(run, what: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW_WRITER, str(run), what]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    return process


def test_a_kill_while_it_is_written(tmp_path):
    process = slow_writer(tmp_path, "stay")
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert checkpoint.newest_good(tmp_path, pytest.fail) == tmp_path / "checkpoints" / "step-1"
    assert len(left(tmp_path)) == 3, "the partial one is still there"
    checkpoint.sweep(tmp_path)
    assert left(tmp_path) == {"step-1", "latest"}


def test_a_program_that_ends_meanwhile_keeps_its_exit_code_and_completes_nothing(tmp_path):
    assert slow_writer(tmp_path, "end").wait(30) == 7
    assert checkpoint.newest_good(tmp_path, pytest.fail) == tmp_path / "checkpoints" / "step-1"
