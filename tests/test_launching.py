"""`xstilts launch`: what it chooses, what it says, what it refuses before anything is started."""

import sys
from pathlib import Path

import pytest

from tests.launching import DEMO
from trainer import launchers, launching, slurm
from trainer.cli import run_command
from trainer.errors import UserError
from trainer.exits import Exit
from trainer.launching import Options, choose
from trainer.watch.ranks import why_it_ended, write_json

HOSTFILE = "node1 slots=1\nnode2 slots=1\n"


@pytest.fixture
def gpus(monkeypatch):
    """Sets how many GPUs this machine seems to have."""

    def see(count: int) -> None:
        for module in (launching, launchers):
            monkeypatch.setattr(module, "gpus_of_node", lambda: count)

    see(0)
    return see


@pytest.fixture
def hostfile(tmp_path) -> Path:
    (tmp_path / "hosts").write_text(HOSTFILE)
    return tmp_path / "hosts"


@pytest.fixture
def run(tmp_path, capfd):
    """Runs the command; its exit code, output and error text."""

    def run(*arguments: object):
        capfd.readouterr()
        code = run_command(["launch", str(DEMO), f"run.folder={tmp_path / 'runs'}", *map(str, arguments)])
        return code, *capfd.readouterr()

    return run


def test_what_is_chosen(gpus, hostfile, monkeypatch):
    monkeypatch.setattr(launching.shutil, "which", lambda name: f"/bin/{name}")
    in_job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}

    def name(environ=None, **options):
        launcher, why = choose(Options(**options), environ or {})
        assert why
        return launcher.name.partition("3")[0], launcher.words[-1]

    assert name()[0] == "python"
    assert name(processes=2) == ("deepspeed", "2")
    assert name(hostfile=hostfile)[0] == "deepspeed"
    assert name(in_job) == ("srun", "1")
    assert name({**in_job, "SLURM_GPUS_ON_NODE": "8"}) == ("srun", "8")
    assert name({**in_job, "SLURM_GPUS_PER_NODE": "a100:4,h100:2"}) == ("srun", "6")
    assert name({**in_job, "SLURM_GPUS": "a100:16"}) == ("srun", "8")  # of both nodes
    assert name({**in_job, "SLURM_GPUS_ON_NODE": "8", "DS_ACCELERATOR": "cpu"}) == ("srun", "1")
    assert name({**in_job, "SLURM_STEP_ID": "0"})[0] == "python"
    shell = {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_NUM_NODES": "2"}  # salloc's own
    assert name({**in_job, **shell})[0] == "srun" and slurm.nodes(shell) == 2
    assert name(in_job, hostfile=hostfile)[0] == "deepspeed"
    assert name(launcher="torchrun", processes=3) == ("torchrun", "3")
    assert name(launcher="srun --partition=x", processes=3) == ("srun", "3")
    with pytest.raises(UserError, match="says itself how many processes"):
        name(launcher="torchrun --nproc_per_node 2", processes=3)
    gpus(4)
    assert name() == ("deepspeed", "4")
    with pytest.raises(UserError, match="5 processes are asked for, but there are 4 GPUs"):
        name(processes=5)
    gpus(2)
    assert name({"CUDA_VISIBLE_DEVICES": "2,3"}) == ("deepspeed", "localhost:2,3")
    assert name({"CUDA_VISIBLE_DEVICES": "2,3"}, processes=1) == ("deepspeed", "localhost:2")
    assert name({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,MIG-12"}, processes=2) == ("torchrun", "2")
    with pytest.raises(UserError, match="deepspeed cannot start 2 processes"):
        name({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,MIG-12"}, launcher="deepspeed")
    assert name(launcher="python")[0] == "python"


def test_a_dry_run_says_what_would_be_run_and_why(run, hostfile, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", "/hf")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, out, _ = run("--hostfile", hostfile, "--dry-run", "train.steps=3")
    assert code == 0
    assert "launcher: deepspeed, over ssh, because the hostfile names node1 and node2" in out
    assert "processes: 2; each takes 2 of the 4 packs of a step" in out
    assert "HF_HOME" in out and "command lines are public: HF_TOKEN" in out and "hf_secret" not in out
    assert "--force_multi" in out and "--module trainer train" in out and "train.steps=3" in out
    assert not (tmp_path / "runs").exists()
    code, out, _ = run("--dry-run", "--launcher", "python")
    assert code == 0 and f"command: {sys.executable} -m trainer train {DEMO}" in out


def test_processes_that_cannot_share_the_packs(run, hostfile):
    hostfile.write_text("node1 slots=2\nnode2 slots=1\n")
    code, _, error = run("--hostfile", hostfile)
    assert code == 2
    assert "train.packs_per_step is 4, which 3 processes cannot share evenly" in error and "next: " in error
    code, _, error = run("--processes", 3)
    assert code == 2 and "3 processes cannot share evenly" in error


def test_bad_input_is_one_error(run, hostfile, tmp_path):
    assert "cannot be read" in run("--hostfile", tmp_path / "none")[2]
    assert "contradict" in run("--hostfile", hostfile, "--processes", 2)[2]
    assert "launcher 'deepsped' does not exist" in run("--launcher", "deepsped --num_gpus 2")[2]
    assert "did you mean 'train.steps'" in run("train.step=3")[2]
    hostfile.write_text("node1 slots=1\nnode2 4\n")
    code, _, error = run("--hostfile", hostfile)
    assert code == 2 and "line 2 of hostfile" in error and "Traceback" not in error


def test_without_pdsh(run, hostfile, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, error = run("--hostfile", hostfile)
    assert code == 2 and "there is no pdsh here" in error and "torchrun.sh" in error


def test_a_host_that_does_not_answer(run, hostfile, monkeypatch, tmp_path):
    for name, script in (("pdsh", "exit 0"), ("ssh", 'case "$*" in *node2*) echo "No route" >&2; exit 255;; esac')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    code, _, error = run("--hostfile", hostfile)
    assert code == 2 and "host node2 does not answer" in error and "No route" in error and "leave it out" in error


def test_started_by_a_launcher_it_starts_no_other(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, error = run()
    assert code == 2 and "one of several processes" in error


def test_the_cause_is_that_of_the_rank_that_says_most(tmp_path):
    (tmp_path / "ranks").mkdir()

    def leave(rank: int, code: int, text: str) -> None:
        write_json(tmp_path / "ranks" / f"exit-{rank}.json", {"rank": rank, "host": "n", "code": code, "cause": text})

    assert why_it_ended(tmp_path, 247)[0] == 247
    leave(0, Exit.PEER, "the connection broke")
    leave(1, Exit.STOPPED, "stopped")
    assert why_it_ended(tmp_path, 24) == (Exit.STOPPED, "rank 1 on n: stopped")
    leave(2, Exit.NOT_FINITE, "no number")
    assert why_it_ended(tmp_path, 24) == (Exit.NOT_FINITE, "rank 2 on n: no number")
