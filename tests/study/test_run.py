"""Running: what is done is skipped, what failed is apart, what was killed goes on."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.launching import ROOT, kill_all
from tests.study.conftest import LAUNCHER, LAUNCHER_TEXT
from trainer import launchers, launching
from trainer.errors import UserError
from trainer.launchers import Launcher
from trainer.study import record
from trainer.study.launch import Stopped, last_lines, open_launcher
from trainer.study.run import check_starts, failures, is_done, refuse_changed, run_cells


def run(cells, said=None):
    said = [] if said is None else said
    return {name: outcome.state for name, outcome in run_cells(list(cells.values()), LAUNCHER, said.append).items()}


def test_every_cell_runs_once_and_is_skipped_afterwards(cells_of, calls):
    _, cells = cells_of()
    assert set(run(cells).values()) == {"done"}
    expected = [f"{step.name}:{cell.name}" for cell in cells.values() for step in cell.steps]
    assert calls() == expected
    assert set(run(cells).values()) == {"done before"}
    assert calls() == expected
    cell = cells["tiny-mnli-xnli-seed1"]
    done = json.loads((cell.folder / "done.json").read_text())
    assert done["identity"] == json.loads(json.dumps(dict(cell.identity))) and len(done["hash"]) == 32
    assert set(done["seconds"]) == {"train", "evaluate"}
    assert not (cell.folder / "begun.json").exists()
    assert "train:tiny-mnli-xnli-seed1 is done" in (cell.folder / "train.log").read_text()


def test_a_failed_cell_holds_up_only_what_needs_it(cells_of, calls, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "train:tiny-mnli-seed1 evaluate:tiny-none-panx-seed2")
    _, cells = cells_of()
    said = []
    outcomes = run_cells(list(cells.values()), LAUNCHER, said.append)
    states = {name: outcome.state for name, outcome in outcomes.items()}
    bad = {"tiny-mnli-seed1": "failed", "tiny-none-panx-seed2": "failed"}
    bad |= {f"tiny-mnli-{target}-seed1": "blocked" for target in ("xnli", "panx", "tatoeba")}
    assert {name: state for name, state in states.items() if state != "done"} == bad
    text = "\n".join(said)
    assert "failed: train ended with exit code 3" in text
    assert "| error: train:tiny-mnli-seed1 does not want to" in text
    assert not any(call.startswith("train:tiny-mnli-xnli-seed1") for call in calls())
    lines = failures(outcomes)
    assert len(lines) == 5
    assert lines[0].startswith("tiny-mnli-seed1 failed:") and "train.log" in lines[0]
    assert "tiny-mnli-xnli-seed1 blocked: needs tiny-mnli-seed1" in lines[1]

    monkeypatch.delenv("FAKE_FAIL")
    before = len(calls())
    states = run(cells)
    assert {name for name, state in states.items() if state == "done"} == set(bad)
    again = calls()[before:]
    assert "evaluate:tiny-none-panx-seed2" in again and "train:tiny-none-panx-seed2" not in again


def test_a_command_that_leaves_nothing_behind_has_failed(cells_of, calls, monkeypatch):
    monkeypatch.setenv("FAKE_EMPTY", "train:tiny-mnli-seed1 evaluate:tiny-none-tatoeba")
    _, cells = cells_of()
    outcomes = run_cells(list(cells.values()), LAUNCHER, lambda line: None)
    assert "train ended well, but left no" in outcomes["tiny-mnli-seed1"].reason
    assert "scores.json" in outcomes["tiny-none-tatoeba"].reason


def test_changed_settings_are_refused_by_key_or_run_anew(cells_of, calls):
    _, cells = cells_of()
    run(cells)
    _, changed = cells_of(intermediate__mnli__overrides={"tasks": ["mnli"], "train": {"steps": 7}})
    assert record.state_of(changed["tiny-mnli-seed2"]) == "changed"
    with pytest.raises(UserError) as error:
        refuse_changed(list(changed.values()), False, print)
    assert error.value.what == "tiny-mnli-seed1 (and 7 more) was run with other settings: train.steps changed"
    assert "train.steps: 300 -> 7" in error.value.why and "--redo" in error.value.fix
    said = []
    refuse_changed(list(changed.values()), True, said.append)
    assert len(said) == 8
    before = len(calls())
    states = run(changed)
    assert sum(state == "done" for state in states.values()) == 8
    assert len(calls()) - before == 2 + 2 * 5
    aside = changed["tiny-mnli-seed1"].folder.with_name("tiny-mnli-seed1.before-1")
    assert json.loads((aside / "done.json").read_text())["identity"]["train.steps"] == 300


def test_a_key_that_is_newer_than_a_record_had_its_default(cells_of, calls):
    _, cells = cells_of()
    run(cells)
    path = cells["tiny-mnli-panx-seed1"].folder / "done.json"
    written = json.loads(path.read_text())
    for key in ("train.clip", "intermediate.train.clip"):
        del written["identity"][key]
    path.write_text(json.dumps(written))
    _, same = cells_of()
    assert is_done(same["tiny-mnli-panx-seed1"])
    _, other = cells_of(overrides={"data": {"source": "sample"}, "train.clip": 2.0})
    assert "train.clip: 1.0 -> 2.0" in record.changes(other["tiny-mnli-panx-seed1"])


def test_a_missing_export_is_refused_before_anything_runs(cells_of, calls):
    _, cells = cells_of()
    everything = list(cells.values())
    with pytest.raises(UserError, match="tiny-mnli-seed1, which is not done") as error:
        check_starts([cells["tiny-mnli-xnli-seed1"]], everything)
    assert "--cell tiny-mnli-seed1" in error.value.fix
    check_starts(everything, everything)
    run(cells)
    (cells["tiny-mnli-seed1"].export / "config.json").unlink()
    check_starts(everything, everything)  # all that started from it is done
    (cells["tiny-mnli-xnli-seed1"].folder / "done.json").unlink()
    with pytest.raises(UserError, match="there is no export") as error:
        check_starts(everything, everything)
    assert f"delete {cells['tiny-mnli-seed1'].folder}" in error.value.fix


def test_a_record_that_is_damaged_is_named(cells_of, calls):
    _, cells = cells_of()
    cell = cells["tiny-none-tatoeba"]
    cell.folder.mkdir(parents=True)
    (cell.folder / "done.json").write_text("{}")
    with pytest.raises(UserError, match="done.json is not a record of a cell"):
        record.state_of(cell)


DRIVER = """
import sys
from trainer.study.launch import open_launcher
from trainer.study.plan import make_cells
from trainer.study.run import run_cells
from trainer.study.spec import load_study

cells = make_cells(load_study(sys.argv[1]))
run_cells(cells, open_launcher(sys.argv[2]), lambda line: print(line, flush=True))
"""


def drive(path, tmp_path, **environment):
    """The study in a process group of its own; its output goes to a file."""
    out = open(tmp_path / "out.txt", "a")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", DRIVER, str(path), LAUNCHER_TEXT]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("held", ["train:tiny-mnli-panx-seed1", "evaluate:tiny-mnli-panx-seed1"])
def test_killed_in_the_middle_no_finished_cell_is_redone(write, cells_of, calls, tmp_path, held):
    path, (_, cells) = write(), cells_of()
    killed = drive(path, tmp_path, FAKE_HOLD=held)
    wait_for((tmp_path / "calls.held").exists)
    kill_all(killed)
    finished = [name for name, cell in cells.items() if is_done(cell)]
    assert len(finished) == 5  # three of the baseline, the intermediate run, its first cell
    assert record.state_of(cells["tiny-mnli-panx-seed1"]) == "begun"
    before = len(calls())
    again = drive(path, tmp_path)
    assert again.wait(120) == 0
    assert all(map(is_done, cells.values()))
    redone = {call.split(":")[1] for call in calls()[before:]}
    assert not redone & set(finished)
    assert ("train:tiny-mnli-panx-seed1" in calls()[before:]) == held.startswith("train")


def test_what_a_killed_study_left_running_is_waited_for(write, cells_of, calls, tmp_path):
    path, (_, cells) = write(), cells_of()
    held = "train:tiny-none-panx-seed1"
    killed = drive(path, tmp_path, FAKE_HOLD=held)
    wait_for((tmp_path / "calls.held").exists)
    os.kill(killed.pid, signal.SIGKILL)  # not the command it had started
    killed.wait(60)
    again = drive(path, tmp_path)
    wait_for(lambda: "waiting for its end" in (tmp_path / "out.txt").read_text())
    assert calls().count(held) == 1
    (tmp_path / "calls.release").write_text("")
    assert again.wait(120) == 0
    assert all(map(is_done, cells.values()))


@pytest.mark.parametrize(
    ("step", "number", "code"),
    [("train", signal.SIGTERM, 28), ("train", signal.SIGINT, 130), ("evaluate", signal.SIGUSR1, 28)],
)
def test_a_signal_reaches_the_cell_and_ends_the_study(cells_of, calls, tmp_path, monkeypatch, step, number, code):
    """Its launcher ends with 0, and yet the cell is not done; nor has it failed."""
    _, cells = cells_of()
    cell = cells["tiny-none-panx-seed1"]
    monkeypatch.setenv("FAKE_HOLD", f"{step}:{cell.name}")

    def tell():
        wait_for((tmp_path / "calls.held").exists)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=tell)
    thread.start()
    said = []
    with pytest.raises(Stopped, match=f"{cell.name}: stopped by {number.name}") as error:
        run_cells(list(cells.values()), LAUNCHER, said.append)
    thread.join()
    assert error.value.exit_code == code and "failed" not in " ".join(said)
    if number == signal.SIGTERM:
        assert "saved at step 7" in error.value.why
    assert record.state_of(cell) == "begun" and is_done(cells["tiny-none-xnli-seed1"])
    monkeypatch.delenv("FAKE_HOLD")
    before = len(calls())
    run(cells)
    assert calls()[before] == f"{step}:{cell.name}" and all(map(is_done, cells.values()))


def test_a_run_that_somebody_else_stops_ends_the_study(cells_of, calls, tmp_path, monkeypatch):
    _, cells = cells_of()
    cell = cells["tiny-none-xnli-seed1"]
    monkeypatch.setenv("FAKE_HOLD", f"train:{cell.name}")

    def tell():
        wait_for((tmp_path / "calls.held").exists)
        os.kill(json.loads((cell.run / "ranks" / "rank-0.json").read_text())["pid"], signal.SIGUSR1)

    thread = threading.Thread(target=tell)
    thread.start()
    with pytest.raises(Stopped, match="its run was stopped") as error:
        run(cells)
    thread.join()
    assert error.value.exit_code == 28 and record.state_of(cell) == "begun"


def test_a_file_system_without_locks_is_told(cells_of, calls, monkeypatch):
    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    _, cells = cells_of()
    said = []
    assert run({"one": cells["tiny-none-tatoeba"]}, said) == {"tiny-none-tatoeba": "done"}
    assert "warning: nothing keeps a second study out of" in " ".join(said)


def test_launchers_take_the_trainer_as_a_module(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    python = open_launcher(f"{sys.executable} -X dev")
    assert python.command(["train", "x"]) == [sys.executable, "-X", "dev", "-m", "trainer", "train", "x"]
    assert python.processes == 1
    deepspeed = open_launcher("deepspeed --num_gpus 2")
    words = deepspeed.command(["train", "x"])
    assert words[1:4] == ["--num_gpus", "2", "--master_port"] and words[5:] == ["--module", "trainer", "train", "x"]
    assert deepspeed.processes == 2
    assert Launcher(("/bin/deepspeed", "--master_port=7")).command([])[1:] == ["--master_port=7", "--module", "trainer"]
    assert Launcher(("torchrun", "--nproc-per-node=4")).processes == 4
    assert Launcher(("deepspeed",)).processes is None


def test_the_default_launcher_takes_the_gpus_that_are_visible(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # each cell has the job's node for itself
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    for module in (launching, launchers):
        monkeypatch.setattr(module, "gpus_of_node", lambda: 2)
    launcher = open_launcher(None)
    assert launcher.is_deepspeed and launcher.words[-2:] == ("--include", "localhost:2,3")
    monkeypatch.setattr(launching, "gpus_of_node", lambda: 0)
    assert open_launcher(None).is_python


def test_a_launcher_that_does_not_exist(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="launcher 'deepsped' does not exist"):
        open_launcher("deepsped --num_gpus 2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started by a launcher"):
        open_launcher(None)


def test_the_last_lines_are_those_of_the_last_command(tmp_path):
    log = tmp_path / "log"
    log.write_text("old\n")
    start = log.stat().st_size
    log.write_text("old\n" + "".join(f"line {i}\r" for i in range(30)) + "\n\nend\n")
    assert last_lines(log, start) == [*(f"line {i}" for i in range(16, 30)), "end"]
    assert last_lines(log)[0] == "line 16"
