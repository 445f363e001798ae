"""The process on each host: what it answers, and what is said of one that does not."""

import time

import pytest

from tests.doctor.pretend import PretendedHosts
from trainer.doctor.checks.collectives import collectives
from trainer.doctor.checks.machine import hello
from trainer.doctor.checks.network import listen, reach, stop_listening
from trainer.doctor.checks.parity import gradients
from trainer.doctor.checks.programs import programs
from trainer.doctor.checks.storage import await_files, write_file
from trainer.doctor.cluster import Cluster, master_port, nodes_of, this_machine
from trainer.doctor.probe import answer
from trainer.doctor.registry import Skipped
from trainer.errors import UserError


def cluster_of(nodes) -> Cluster:
    return Cluster(nodes, {}, recipe=None, config=None, port=29500)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    hosts = PretendedHosts(tmp_path / "hosts", "127.0.0.1", "127.0.0.2")
    for name, value in hosts.environment.items():
        monkeypatch.setenv(name, value)
    return hosts


def test_a_value_a_users_error_and_a_bug(tmp_path):
    path = str(tmp_path / "file")
    assert answer({"number": 3, "question": "write_file", "arguments": {"path": path, "text": "x"}}) == {
        "number": 3,
        "value": None,
    }
    refused = answer({"number": 4, "question": "read_nothing", "arguments": {}})
    assert refused["number"] == 4 and "KeyError" in refused["error"]["what"]
    bad = answer({"number": 5, "question": "write_file", "arguments": {"path": str(tmp_path / "no" / "x"), "text": ""}})
    assert "FileNotFoundError" in bad["error"]["what"] and "storage.py" in bad["error"]["why"]


def test_this_machine_answers_several_questions(tmp_path):
    with cluster_of([this_machine()]) as cluster:
        name = cluster.first
        assert cluster.ask(hello) == {name: name}
        assert cluster.ask(write_file, path=str(tmp_path / "a"), text="seen").errors == {}
        assert cluster.ask(await_files, texts={str(tmp_path / "a"): "seen"})[name][str(tmp_path / "a")] < 1


def test_hosts_are_asked_at_once_and_greetings_are_not_answers(pair, tmp_path):
    with cluster_of(nodes_of(pair.hostfile)) as cluster:
        each = {host: {"path": str(tmp_path / host), "text": host} for host in cluster.names}
        assert set(cluster.ask(write_file, each=each)) == {"127.0.0.1", "127.0.0.2"}
        assert (tmp_path / "127.0.0.2").read_text() == "127.0.0.2"


def test_a_host_that_cannot_be_reached(pair):
    pair.on("127.0.0.2", "echo 'ssh: connect to host port 22: No route to host' >&2\nexit 255\n")
    with cluster_of(nodes_of(pair.hostfile)) as cluster:
        answers = cluster.ask(hello)
        assert set(answers) == {"127.0.0.1"}
        (finding,) = answers.failures()
        assert "127.0.0.2" in finding.says and "No route to host" in finding.says
        assert finding.fix == "ssh -o BatchMode=yes 127.0.0.2 true"
        assert set(cluster.ask(hello).errors) == {"127.0.0.2"}  # and again, without waiting


def test_a_host_that_says_nothing_costs_no_more_than_its_time(pair):
    pair.on("127.0.0.2", "exec sleep 600\n")
    began = time.monotonic()
    with cluster_of(nodes_of(pair.hostfile)) as cluster:
        answers = cluster.ask(hello, timeout=4)
        assert set(answers) == {"127.0.0.1"} and "did not answer within 4 s" in answers.errors["127.0.0.2"].what
    assert time.monotonic() - began < 12


def test_hosts_that_lack_programs_are_named(pair, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("sh", "env", "pkill"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
    pair.on("127.0.0.2", f"PATH={tmp_path / 'bin'}\n")
    with cluster_of(nodes_of(pair.hostfile)) as cluster:
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        here, there = programs(cluster)
        monkeypatch.undo()
    assert here.status == "fail" and "no pdsh" in here.says and there.status == "warn"
    assert there.says.startswith("127.0.0.2 has no pgrep, ") and "apt-get install procps" in there.fix


@pytest.mark.parametrize("check", [collectives, gradients])
def test_no_process_is_started_where_torch_cannot_use_the_gpus(check):
    with cluster_of([this_machine()]) as cluster:
        cluster.devices = {cluster.first: {"gpus": [], "cores": 2, "hidden": {"what": "it has 2 GPUs"}}}
        with pytest.raises(Skipped, match=f"no run starts on {cluster.first}: torch cannot use"):
            list(check(cluster))


def test_the_port_is_the_runs_or_another_each_time():
    assert master_port(2, {"MASTER_PORT": "29501"}) == 29501
    assert len({master_port(2, {}) for _ in range(5)}) > 1
    with pytest.raises(UserError, match="MASTER_PORT=http is no port"):
        master_port(1, {"MASTER_PORT": "http"})


def test_a_late_answer_is_not_taken_for_the_next_one(tmp_path):
    with cluster_of([this_machine()]) as cluster:
        cluster.ask(hello)
        late = cluster.ask(await_files, timeout=0.3, texts={str(tmp_path / "never"): "x"})
        assert late.errors
        (tmp_path / "never").write_text("x")
        assert cluster.ask(hello)[cluster.first] == cluster.first


def test_ports_by_what_answers_there():
    try:
        (port,) = listen([0], "ours")
        assert reach([("127.0.0.1", port)], "ours") == [None]
        assert reach([("127.0.0.1", port)], "theirs") == ["something else listens there"]
        with pytest.raises(Exception, match=f"port {port} cannot be opened"):
            listen([port], "ours")
    finally:
        stop_listening()
    unresolved, refused = reach([("no.such.host.invalid", port), ("127.0.0.1", port)], "ours")
    assert "does not resolve" in unresolved and "refused" in refused
