"""Hostfiles, hosts that do not answer, and the environment that goes to the others."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from trainer import hosts
from trainer.errors import UserError
from trainer.hosts import Host, read_hostfile

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def hostfile(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "hosts").write_text(text)
        return tmp_path / "hosts"

    return write


def test_a_hostfile_is_read_in_order(hostfile):
    path = hostfile("# two hosts\n\nnode2 slots=4\n  me@node1   slots=2  # the old one\n")
    assert read_hostfile(path) == (Host("node2", 4), Host("me@node1", 2))
    assert read_hostfile(ROOT / "launch" / "hostfile.example") == (Host("node1", 8), Host("node2", 8))


@pytest.mark.parametrize(
    "text, said",
    [
        ("node1 slots=1\nnode2\n", "line 2 of hostfile .* is 'node2'"),
        ("node1 slots=two\n", "line 1 of hostfile .* is 'node1 slots=two'"),
        ("node1 slots=0\n", "line 1 of hostfile .* is 'node1 slots=0'"),
        ("node1 slots=1 gpus=4\n", "line 1 of hostfile"),
        ("node1 slots=1\n# x\nnode1 slots=2\n", "line 3 of hostfile .* names node1 again"),
        ("# nothing\n", "names no host"),
    ],
)
def test_a_wrong_line_is_named(hostfile, text, said):
    with pytest.raises(UserError, match=said) as error:
        read_hostfile(hostfile(text))
    assert error.value.fix


def test_a_missing_hostfile(tmp_path):
    with pytest.raises(UserError, match="no-such-file cannot be read") as error:
        read_hostfile(tmp_path / "no-such-file")
    assert "hostfile.example" in error.value.fix


def test_what_is_handed_over():
    environ = {
        "HF_HOME": "/hf", "NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "1", "TORCH_LOGS": "x", "TORCHINDUCTOR_FX": "1",
        "PATH": "/bin", "DS_ACCELERATOR": "cpu", "XSTILTS_ATTEMPT": "3", "https_proxy": "http://proxy:3128",
        "HOME": "/root", "HOSTNAME": "here", "SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "1", "DS_ENV_FILE": "x",
        "HF_TOKEN": "hf_1", "WANDB_API_KEY": "2", "http_proxy": "http://me:word@proxy:3128",
    }  # fmt: skip
    given, secret = hosts.handed_over(environ)
    assert set(given) == {"HF_HOME", "NCCL_DEBUG", "OMP_NUM_THREADS", "TORCH_LOGS", "TORCHINDUCTOR_FX", "PATH",
                          "DS_ACCELERATOR", "XSTILTS_ATTEMPT", "https_proxy"}  # fmt: skip
    assert secret == ["HF_TOKEN", "WANDB_API_KEY", "http_proxy"]


def test_a_line_break_cannot_be_handed_over():
    with pytest.raises(UserError, match="HF_X has a line break"):
        hosts.environment_file({"HF_X": "a\nb"})


def test_the_users_own_file_is_added(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert hosts.users_environment_file({}) == ""
    (tmp_path / ".deepspeed_env").write_text("HF_TOKEN=1")
    assert hosts.users_environment_file({}) == "HF_TOKEN=1\n"
    (tmp_path / "mine").write_text("A=1\n\nB=2\n")
    with pytest.raises(UserError, match="line 2 of mine is ''"):
        hosts.users_environment_file({"DS_ENV_FILE": "mine"})


@pytest.mark.parametrize("word", ["tasks=[mnli,qqp]", "w={a:1,b:2}", "it's", "$HOME", "a;b", "50%", "*", "a=`id`", '"'])
def test_words_without_blanks_survive_a_shell(word):
    quoted = hosts.remote_word(word).replace("%%", "%")  # as pdsh does
    done = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, text=True, check=True)
    assert done.stdout == word


def test_a_path_that_a_shell_would_split_is_refused():
    assert hosts.check_remote_path("/data/run-1", "the working folder") == "/data/run-1"
    with pytest.raises(UserError, match="the working folder '/my data' has characters"):
        hosts.check_remote_path("/my data", "the working folder")


def test_the_environment_file_is_its_owners(tmp_path):
    path = tmp_path / "run" / "env"
    path.parent.mkdir()
    path.write_text("old")
    assert hosts.private_file(path, "A=1\n").read_text() == "A=1\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_hosts_that_do_not_answer(tmp_path, monkeypatch):
    """With a stand-in for ssh: real hosts are cut off in tests/launch/test_multinode.py."""
    script = 'case "$*" in *silent*) sleep 60;; *closed*) echo "ssh: Connection refused" >&2; exit 255;; esac'
    (tmp_path / "ssh").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = hosts.not_answering([Host("good", 1), Host("silent", 1), Host("closed", 1)], seconds=1)
    assert found == {"silent": "no answer within 1 s", "closed": "ssh: Connection refused"}


def test_ssh_never_waits_for_a_person_or_a_host_that_is_gone():
    words = hosts.ssh_command("node1", ["echo", "two words"])
    assert words[0] == "ssh" and words[-2:] == ["node1", "echo 'two words'"]
    assert {"BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5"} <= set(words)
    assert shlex.split(hosts.SSH_OPTIONS) == words[1:-2]
