"""launch/torchrun.sh as two nodes of this machine, and what the scripts say to wrong command lines."""

import subprocess

import pytest

from tests.launch.conftest import NOT_FINITE, ROUNDING, environment, same_run
from tests.launching import DEMO, ROOT, steps
from trainer.launchers import free_port


def torchrun(*arguments: object, log) -> subprocess.Popen:
    words = [ROOT / "launch" / "torchrun.sh", DEMO, *arguments]
    output = {"stdout": open(log, "w"), "stderr": subprocess.STDOUT}
    return subprocess.Popen(list(map(str, words)), cwd=ROOT, env=environment(), start_new_session=True, **output)


@pytest.mark.slow
def test_two_nodes_train_what_one_host_trains(overrides, one_host, tmp_path):
    meet = f"127.0.0.1:{free_port()}"
    nodes = ["--nodes", "2", "--meet", meet, "--processes", "1"]
    processes = [torchrun(*overrides, *nodes, log=tmp_path / f"log-{node}") for node in range(2)]
    for node, process in enumerate(processes):
        assert process.wait(200) == 0, (tmp_path / f"log-{node}").read_text()[-3000:]
    same_run(steps(tmp_path / "demo"), one_host(2), ROUNDING)


@pytest.mark.slow
def test_the_exit_code_is_the_runs_though_torchruns_is_1(overrides, tmp_path):
    process = torchrun(*overrides, *NOT_FINITE, "--processes", "2", log=tmp_path / "log")
    assert process.wait(200) == 22, (tmp_path / "log").read_text()[-3000:]
    assert (tmp_path / "log").read_text().strip().splitlines()[-1].startswith("exit 22: rank ")


@pytest.mark.parametrize(
    "words, said",
    [
        (["launch/multinode.sh"], "usage: launch/multinode.sh RECIPE HOSTFILE"),
        (["launch/multinode.sh", "launch/recipes/demo.yaml", "no-such-file"], "hostfile no-such-file cannot be read"),
        (["launch/torchrun.sh"], "usage: launch/torchrun.sh RECIPE"),
        (["launch/torchrun.sh", "x.yaml", "--nodes", "2"], "needs --meet HOST:PORT"),
        (["launch/torchrun.sh", "x.yaml", "--nodes=2"], "needs --meet HOST:PORT"),
        (["env", "SLURM_SUBMIT_DIR=/", "launch/slurm.sbatch", "x.yaml"], "error: / is not the clone of xstilts"),
        (["launch/torchrun.sh", "no.yaml"], "no.yaml does not exist"),
        (["launch/slurm.sbatch"], "usage: sbatch launch/slurm.sbatch RECIPE"),
    ],
)
def test_a_wrong_command_line(words, said):
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
