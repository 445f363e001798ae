"""The Slurm script, run with a stand-in for sbatch: every cell is submitted once, behind the run it needs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from trainer.errors import UserError
from trainer.study.slurm import slurm_script

SBATCH = f"""#!{sys.executable}
import json, os, sys
path = os.environ["SUBMITTED"]
number = sum(1 for _ in open(path)) if os.path.exists(path) else 0
script = "" if "--wrap" in sys.argv else sys.stdin.read()
with open(path, "a") as file:
    file.write(json.dumps([sys.argv[1:], script]) + "\\n")
print(f"{{100 + number}};cluster")
"""


@pytest.fixture
def submit(tmp_path):
    """Runs a script; what was submitted: (words of sbatch, script of the job)."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)

    def run(script, *options):
        path = tmp_path / "submit.sh"
        path.write_text(script.replace("export PATH=", f"export PATH={tmp_path / 'bin'}:"))
        environment = {**os.environ, "SUBMITTED": str(tmp_path / "submitted")}
        done = subprocess.run(["bash", str(path), *options], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in (tmp_path / "submitted").read_text().splitlines()]

    return run


def tasks_of(script, count):
    """What each task of an array would run, with the command replaced by echo."""
    said = []
    for index in range(count):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index)}
        done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip())
    return said


def test_every_cell_is_submitted_once_behind_its_run(cells_of, submit):
    study, cells = cells_of()
    command = ["echo", "study.yaml", "--launcher", "deepspeed --num_gpus 2", "overrides.data.folder=my data"]
    jobs = submit(slurm_script(study, list(cells.values()), command), "--gres=gpu:1", "--time=1:00:00")
    arrays, (tables, _) = jobs[:-1], jobs[-1]
    ran = {}
    for number, (words, script) in enumerate(arrays):
        assert {"--gres=gpu:1", "--time=1:00:00"} <= set(words)
        dependent = any(word.startswith("--dependency=") for word in words)
        assert ("--kill-on-invalid-dep=yes" in words) == dependent  # else it would wait for ever after a failed run
        array = next(word for word in words if word.startswith("--array="))
        count = int(array.rpartition("-")[2]) + 1
        for index, said in enumerate(tasks_of(script, count)):
            start = "study.yaml --launcher deepspeed --num_gpus 2 overrides.data.folder=my data --cell "
            assert said.startswith(start)
            waits = [word.partition(":")[2] for word in words if word.startswith("--dependency=afterok:")]
            ran[said.removeprefix(start)] = (f"{100 + number}_{index}", waits)
    assert set(ran) == set(cells)
    for name, cell in cells.items():
        assert ran[name][1] == ([ran[cell.needs][0]] if cell.needs else []), name
    everything = ":".join(str(100 + number) for number in range(len(arrays)))
    assert f"--dependency=afterany:{everything}" in tables
    assert tables[-1] == "echo study.yaml --launcher 'deepspeed --num_gpus 2' 'overrides.data.folder=my data' --tables"


def test_cells_of_a_run_that_is_done_wait_for_nothing(cells_of, submit):
    study, cells = cells_of()
    left = [cells["tiny-mnli-xnli-seed1"], cells["tiny-none-tatoeba"]]
    [(words, script), _] = submit(slurm_script(study, left, ["echo"]))
    assert not any(word.startswith("--dependency") for word in words)
    assert tasks_of(script, 2) == ["--cell tiny-mnli-xnli-seed1", "--cell tiny-none-tatoeba"]


def test_a_job_passes_the_signal_on_and_goes_back_into_the_queue(cells_of, submit, tmp_path):
    study, cells = cells_of()
    wait = "import pathlib, signal, time; signal.signal(signal.SIGUSR1, lambda *_: exit(28)); "
    wait += f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    [(_, script), _] = submit(slurm_script(study, [cells["tiny-none-tatoeba"]], [sys.executable, "-c", wait]))
    head = script.split("commands=(")[0].splitlines()  # Slurm reads no option behind a command
    assert head[0] == "#!/usr/bin/env bash" and head[1:] == [
        "#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=B:USR1@300"
    ]  # fmt: skip
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "requeued"}\n')
    scontrol.chmod(0o755)
    array = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "77", "SLURM_JOB_ID": "77"}
    environment = {**os.environ, **array, "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    (tmp_path / "job.sh").write_text(script)
    job = subprocess.Popen(["bash", str(tmp_path / "job.sh")], env=environment)
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 28
    assert (tmp_path / "requeued").read_text() == "requeue 77_0\n"


def test_nothing_left_to_do_is_said(cells_of):
    study, _ = cells_of()
    with pytest.raises(UserError, match="every cell of small is done"):
        slurm_script(study, [], ["xstilts"])
