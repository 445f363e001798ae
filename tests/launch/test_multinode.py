"""launch/multinode.sh on two virtual hosts: pdsh, ssh and the deepspeed launcher as they are."""

import contextlib
import json
import signal
import subprocess
import time

import psutil
import pytest

from tests.launch.conftest import LONG, NOT_FINITE, ON_CPUS, environment, same_run
from tests.launching import DEMO, steps
from trainer.checkpoint import checkpoint_folders
from trainer.launchers import open_launcher

# What shells, DeepSpeed and pdsh could each spoil.
HARD = {
    "HF_BLANKS": "  two  words ",
    "HF_QUOTES": """a "b" 'c' `d` $HOME \\ \\" \\$x""",
    "HF_PERCENT": "%h %n 100%",
    "HF_SHELL": "{a,b} [x] * ~ ; & | < > ( ) ! #",
    "HF_EMPTY": "",
    "OMP_NUM_THREADS": "1",
    "XSTILTS_ATTEMPT": "1",
}
WORDS = [
    "tasks=[mnli,qqp]",
    "mixture.weights={mnli: 1.5, qqp: 2}",
    "w={a:1,b:2}",
    """x=it's "q" $HOME `id` \\""",
    "y=5%n",
]


def multinode(hosts, *arguments: object, timeout: float = 200, **more: str) -> subprocess.CompletedProcess:
    words = ["launch/multinode.sh", DEMO, hosts.hostfile(), *arguments]
    return hosts.run("node1", words, timeout=timeout, **{**ON_CPUS, **more})


def start(hosts, log, *arguments: object) -> subprocess.Popen:
    """As `multinode`, in the background; its output goes to a file."""
    words = ["launch/multinode.sh", DEMO, hosts.hostfile(), *arguments]
    options = {"stdout": open(log, "w"), "stderr": subprocess.STDOUT, "env": environment()}
    return hosts.popen("node1", words, **options)


def wait_for_step(run, step: int, process, log, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ((run / "events.jsonl").is_file() and step in steps(run)):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


@pytest.fixture
def debian(hosts, tmp_path):
    """The hosts, each of which takes its own name for an address that only itself can reach, as Debian has it."""
    for host in hosts.names:
        own = tmp_path / f"hosts-{host}"
        own.write_text((hosts.folder / "hosts").read_text().replace(hosts.address(host), "127.0.1.1"))
        hosts.run(host, ["mount", "--bind", own, "/etc/hosts"])
    yield hosts
    for host in hosts.names:
        hosts.run(host, ["umount", "/etc/hosts"])


def ranks(hosts, host: str) -> list:
    found = []
    for process in hosts.processes(host):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RANK" in process.environ():
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_hosts_train_what_one_host_trains(debian, overrides, one_host, tmp_path, stage):
    done = multinode(debian, *overrides, f"engine.config=ds_configs/zero{stage}.json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "because the hostfile names node1 and node2" in done.stdout
    same_run(steps(tmp_path / "demo"), one_host(stage))
    states = [json.loads(path.read_text()) for path in sorted((tmp_path / "demo" / "ranks").glob("rank-*.json"))]
    assert [(state["rank"], state["host"]) for state in states] == [(0, "node1"), (1, "node2")]
    assert (tmp_path / "demo" / "export" / "config.json").is_file()


@pytest.mark.slow
def test_environment_and_arguments_arrive_as_they_are(hosts, tmp_path):
    launcher = open_launcher("deepspeed --log_level warning", hosts.hostfile())
    environ = environment(**HARD, MASTER_ADDR=hosts.address("node1"), HF_TOKEN="secret", LOST="1")
    command = launcher.command([str(tmp_path), *WORDS], environ)
    command[command.index("trainer")] = "tests.launch.show_worker"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = hosts.popen("node1", command, env=launcher.environment(tmp_path, environ), **pipes)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-3000:]
    for rank, host in enumerate(hosts.names):
        seen = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert seen["host"] == host
        assert seen["arguments"] == [str(tmp_path), *WORDS]
        assert {name: seen["environment"].get(name) for name in HARD} == HARD
        assert seen["environment"]["PATH"] == environ["PATH"]
        assert "LOST" not in seen["environment"]  # this and PATH: the shells of the hosts are other ones
        assert "HF_TOKEN" not in seen["environment"]


@pytest.mark.slow
def test_the_exit_code_of_a_rank_is_the_commands(hosts, overrides):
    done = multinode(hosts, *overrides, *NOT_FINITE)
    assert done.returncode == 22, done.stdout[-3000:] + done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("exit 22: rank ") and "finite" in last


@pytest.mark.slow
def test_a_rank_that_is_killed_on_the_other_host(hosts, overrides, tmp_path):
    log = tmp_path / "log"
    process = start(hosts, log, *overrides, f"train.steps={LONG}")
    wait_for_step(tmp_path / "demo", 2, process, log)
    [rank] = ranks(hosts, "node2")
    rank.kill()
    assert process.wait(90) == 24, log.read_text()[-3000:]
    # Whichever is known by then: that rank 0 lost its connection, or that rank 1 said nothing at its end.
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith(("exit 24: rank 0 on node1: ", "exit 24: rank 1 on node2 ended without a word")), last
    assert not ranks(hosts, "node1") and not ranks(hosts, "node2")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_stops_all_hosts_after_saving(number, hosts, overrides, tmp_path):
    """Also this one, which is where pdsh and ssh run, with the words of deepspeed's launcher behind their own."""
    log = tmp_path / "log"
    process = start(hosts, log, *overrides, f"train.steps={LONG}")
    wait_for_step(tmp_path / "demo", 2, process, log)
    hosts.signal(process, number)
    assert process.wait(90) == 28, log.read_text()[-3000:]
    assert "exit 28: " in log.read_text().strip().splitlines()[-1]
    [folder] = checkpoint_folders(tmp_path / "demo")
    assert int(folder.name.removeprefix("step-")) == max(steps(tmp_path / "demo"))
    assert not ranks(hosts, "node1") and not ranks(hosts, "node2")


ODD = """
import importlib.metadata as metadata, socket
if socket.gethostname() == "node2":
    real = metadata.version
    metadata.version = lambda name: "4.0.0" if name == "transformers" else real(name)
"""


@pytest.mark.slow
def test_a_host_with_another_version_is_refused(hosts, overrides, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(ODD)
    done = multinode(hosts, *overrides, PYTHONPATH=str(tmp_path))
    assert done.returncode == 26, done.stdout[-3000:] + done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("exit 26: ") and "do not have the same devices, code and packages: transformers" in last
    assert "node2" in done.stdout + done.stderr and not (tmp_path / "demo" / "checkpoints").exists()


@pytest.mark.slow
def test_a_run_folder_that_the_hosts_do_not_share_is_refused(hosts, overrides, tmp_path):
    run = tmp_path / "demo"
    run.mkdir()
    hosts.run("node2", ["mount", "-t", "tmpfs", "tmpfs", run])
    try:
        done = multinode(hosts, *overrides)
    finally:
        hosts.run("node2", ["umount", run])
    assert done.returncode == 2, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"run folder {run} of node1 is not seen on node2" in done.stderr.strip().splitlines()[-1]
    assert "file system that all hosts share" in done.stderr and not (run / "checkpoints").exists()


@pytest.mark.slow
def test_a_host_that_does_not_answer_is_named_before_anything_starts(hosts, overrides, tmp_path):
    hosts.cut("node2")
    try:
        began = time.monotonic()
        done = multinode(hosts, *overrides)
    finally:
        hosts.mend("node2")
    assert done.returncode == 2 and time.monotonic() - began < 40
    assert "host node2 does not answer" in done.stderr and "next: ssh node2 true" in done.stderr
    assert not (tmp_path / "demo").exists()
