"""Command lines of launchers, and what they are started in."""

import os
import sys

import pytest

from trainer import launchers, slurm
from trainer.errors import UserError
from trainer.hosts import Host
from trainer.launchers import Launcher, open_launcher, srun


@pytest.fixture
def hostfile(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("node1 slots=2\nnode2 slots=2\n")
    return path


def test_the_hosts_of_a_hostfile_are_reached_by_deepspeed(hostfile, tmp_path):
    launcher = open_launcher("deepspeed --log_level error", hostfile)
    assert launcher.processes == 4
    environ = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501", "HF_HOME": "/my hf"}
    words = launcher.command(["train", "x.yaml", "tasks=[mnli]"], environ)
    assert words[1:3] == ["--log_level", "error"]
    assert words[words.index("--hostfile") + 1] == str(hostfile) and "--force_multi" in words
    assert words[words.index("--include") + 1] == "node1:0,1@node2:0,1"
    assert words[words.index("--master_addr") + 1] == "10.0.0.1"
    assert words[words.index("--master_port") + 1 :] == [
        "29501",
        "--module",
        "trainer",
        "train",
        "x.yaml",
        "'tasks=[mnli]'",
    ]
    found = launcher.environment(tmp_path / "run", environ)
    assert found["DS_ENV_FILE"] == str(tmp_path / "run" / "deepspeed_env")
    assert "ServerAliveInterval=5" in found["PDSH_SSH_ARGS_APPEND"]
    assert "HF_HOME=/my hf\n" in (tmp_path / "run" / "deepspeed_env").read_text()


@pytest.mark.parametrize(
    "environ, what",
    [
        ({"MASTER_ADDR": "127.0.0.1"}, "MASTER_ADDR=127.0.0.1 is no address of one host for another"),
        ({"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}, "MASTER_ADDR=localhost is no address"),
        ({"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "0"}, "MASTER_PORT=0 is no port"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http is no port"),
    ],
)
def test_hosts_are_not_sent_where_they_cannot_meet(environ, what, hostfile):
    with pytest.raises(UserError, match=what):
        open_launcher("deepspeed", hostfile).command(["train"], environ)


def test_a_single_host_may_meet_itself(hostfile):
    launcher = open_launcher("deepspeed", hostfile).on({"node1": 2})
    words = launcher.command(["train"], {"MASTER_ADDR": "127.0.0.1"})
    assert words[words.index("--master_addr") + 1] == "127.0.0.1"


def test_a_launcher_goes_on_with_fewer_hosts(hostfile):
    launcher = open_launcher("deepspeed", hostfile).on({"node2": 1})
    assert launcher.processes == 1 and launcher.hosts == (Host("node2", 1),)
    words = launcher.command(["train"], {"MASTER_ADDR": "a", "MASTER_PORT": "1"})
    assert words[words.index("--include") + 1] == "node2:0"


def test_a_hostfile_in_the_launchers_words_is_one(hostfile):
    launcher = open_launcher(f"deepspeed --hostfile {hostfile} --log_level error")
    assert launcher.words[1:] == ("--log_level", "error") and len(launcher.hosts) == 2


def test_only_deepspeed_takes_a_hostfile(hostfile):
    with pytest.raises(UserError, match="only deepspeed reads a hostfile"):
        open_launcher(f"{sys.executable} -X dev", hostfile)


def test_an_address_that_only_this_machine_knows_is_not_given_to_others():
    assert launchers.hosts.default_address(Host("localhost", 1)) is None
    assert launchers.hosts.default_address(Host("no-such-host.invalid", 1)) is None
    assert launchers.hosts.default_address(Host("me@192.0.2.7", 1)) == "192.0.2.7"


def test_srun_starts_one_task_a_node(monkeypatch):
    for name in ("SLURM_STEP_ID", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NNODES", "4")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "32")
    launcher = srun(8)
    assert launcher.processes == 32
    words = launcher.command(["train", "x.yaml"])
    assert words[:4] == ["srun", "--nodes=4", "--ntasks=4", "--ntasks-per-node=1"]
    assert words[4:6] == ["--kill-on-bad-exit=1", "--cpus-per-task=32"]
    assert words[-5:] == ["-m", "trainer.node", "8", "train", "x.yaml"]
    environ = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert launcher.environment(None, environ) == environ


def test_sallocs_shell_is_no_task_on_the_only_node():
    shell = {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_NUM_NODES": "4"}
    assert slurm.nodes(shell) == 4
    assert slurm.nodes({**shell, "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_NODES": "2"}) == 2


def test_srun_is_not_sent_where_nodes_cannot_meet(monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "2")
    with pytest.raises(UserError, match="MASTER_ADDR=localhost is no address of one host for another"):
        srun(1).environment(None, {**os.environ, "MASTER_ADDR": "localhost"})


def test_a_hostfile_with_users_names_is_refused(hostfile):
    hostfile.write_text("me@node1 slots=1\n")
    with pytest.raises(UserError, match="deepspeed cannot start processes on 'me@node1'") as error:
        open_launcher("deepspeed", hostfile).command(["train"], {})
    assert "its User in ~/.ssh/config" in str(error.value)


def test_srun_outside_of_a_job(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="nodes of this Slurm job are not known"):
        srun(1).environment(tmp_path, {})


@pytest.mark.parametrize(
    "words, processes",
    [
        (("torchrun", "--nproc-per-node=4"), 4),
        (("torchrun", "--nnodes", "3", "--nproc_per_node", "4"), 12),
        (("torchrun", "--nproc_per_node", "gpu"), None),
        (("deepspeed",), None),
        (("deepspeed", "--num_gpus", "2"), 2),
        (("python",), 1),
    ],
)
def test_processes_of_a_command_line(words, processes):
    assert Launcher(words).processes == processes
    assert Launcher(words).is_on_every_node == (processes == 12)


def test_a_working_folder_that_cannot_be_handed_over(hostfile, tmp_path, monkeypatch):
    (tmp_path / "my runs").mkdir()
    monkeypatch.chdir(tmp_path / "my runs")
    with pytest.raises(UserError, match="the working folder .*my runs' has characters"):
        open_launcher("deepspeed", hostfile).command(["train"])


@pytest.mark.parametrize("words", ["--num_gpus 2 --log_level error", "--num_gpus=2 --log_level error"])
def test_deepspeed_takes_the_gpus_that_are_visible(words, monkeypatch):
    """Its own --num_gpus would take the first two."""
    monkeypatch.setattr(launchers, "gpus_of_node", lambda: 3)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    launcher = open_launcher(f"deepspeed {words}")
    assert launcher.words[1:] == ("--include", "localhost:2,5", "--log_level", "error") and launcher.processes == 2
    for visible in ("3", "GPU-8932f937,MIG-12"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with pytest.raises(UserError, match=f"on the GPUs of CUDA_VISIBLE_DEVICES={visible}") as error:
            open_launcher(f"deepspeed {words}")
        assert "torchrun --standalone --nproc_per_node" in error.value.fix
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert open_launcher(f"deepspeed {words}").processes == 2
