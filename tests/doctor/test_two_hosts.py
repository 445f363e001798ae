"""Two virtual hosts, with their own addresses, mounts and sshd: the doctor passes a healthy pair, and finds each
planted problem, with the host that has it and a next command."""

import json
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from tests.hosts import virtual_hosts
from tests.launching import DEMO

pytestmark = pytest.mark.slow
PORT = 29511
CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "GOMP_SPINCOUNT": "30000"}
QUICK = "versions,devices,clocks,ports,disk,shared files,recipe,data"
SITE = Path(metadata.distribution("transformers").locate_file(""))
CLOCK = "import time; time.real = getattr(time, 'real', time.time); time.time = lambda t=time: t.real() - 25\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def doctor(hosts, store, runs, tmp_path):
    """Run it on node1 for both hosts; its exit code, findings by check, and output."""

    def run(*overrides: str, only: str = QUICK, **variables: str):
        out = tmp_path / "out.json"
        options = ["--hostfile", hosts.hostfile(), "--master-port", PORT, "--json", out]
        options += ["--only", only] if only else []
        command = [sys.executable, "-m", "trainer", "doctor", DEMO, *options, store, f"run.folder={runs}", *overrides]
        done = hosts.run("node1", command, timeout=300, **CPU, **variables)
        assert out.is_file(), done.stdout + done.stderr
        checks = json.loads(out.read_text())["checks"]
        return done.returncode, {check["check"]: check["findings"] for check in checks}, done.stdout + done.stderr

    return run


@pytest.fixture
def plant(hosts):
    """Change something on node2, by a shell command, until the test's end."""
    undone = []

    def change(command: str, undo: str) -> None:
        done = hosts.run("node2", ["sh", "-c", command])
        assert done.returncode == 0, done.stderr
        undone.append(undo)

    yield change
    for undo in undone:
        assert hosts.run("node2", ["sh", "-c", undo]).returncode == 0


def failed(findings) -> dict[str, list[dict]]:
    found = {check: [f for f in each if f["status"] == "fail"] for check, each in findings.items()}
    return {check: each for check, each in found.items() if each}


def only_failure(result, check: str) -> dict:
    code, findings, output = result
    assert code == 2, output
    assert list(failed(findings)) == [check], output
    assert f"failed: {check}" in output
    assert all(finding["fix"] for finding in failed(findings)[check])
    return failed(findings)[check][0]


def test_a_healthy_pair_passes_every_check(doctor):
    code, findings, output = doctor(only="")
    assert code == 0, output
    passed = {check for check, each in findings.items() if any(finding["status"] == "pass" for finding in each)}
    # The demo compiles nothing; a busy machine's disk may be slow enough for a warning.
    assert passed | {"disk"} == findings.keys() - {"compiled code"}, output
    (collectives,) = (finding for finding in findings["collectives"] if finding["status"] == "pass")
    assert list(collectives["figures"]["pairs"]) == ["node1 - node2"]
    assert collectives["figures"]["all"]["right"] and collectives["figures"]["all"]["bytes_per_second"] > 0
    assert findings["gradients"][0]["figures"]["difference"] <= 1e-4


def test_a_version_that_differs_on_one_host(doctor, plant, tmp_path):
    target = next(SITE.glob("transformers-*.dist-info")) / "METADATA"
    other = tmp_path / "METADATA"
    version = metadata.version("transformers")
    other.write_text(target.read_text().replace(f"\nVersion: {version}\n", "\nVersion: 5.0.1\n", 1))
    plant(f"mount --bind {other} {target}", f"umount {target}")
    finding = only_failure(doctor(), "versions")
    assert "transformers differs: node2 has 5.0.1" in finding["says"] and "node1" in finding["says"]
    assert "ssh node2" in finding["fix"] and f"transformers=={version}" in finding["fix"]


def test_a_run_folder_that_one_host_cannot_write(doctor, plant, runs):
    plant(f"mount --bind {runs} {runs} && mount -o remount,ro,bind {runs}", f"umount {runs}")
    code, findings, output = doctor()
    assert code == 2 and list(failed(findings)) == ["disk", "shared files"], output
    (finding,) = failed(findings)["disk"]
    assert f"node2: {runs} cannot be written" in finding["says"] and "run.folder" in finding["fix"]


def test_a_run_folder_that_is_each_hosts_own(doctor, plant, runs):
    plant(f"mount -t tmpfs tmpfs {runs}", f"umount {runs}")
    code, findings, output = doctor(only="disk,shared files")
    assert code == 2 and list(failed(findings)) == ["shared files"], output
    there, back = failed(findings)["shared files"]
    assert f"node1 does not see the file that node2 wrote to {runs}" in there["says"]
    assert f"node2 does not see the file that node1 wrote to {runs}" in back["says"] and "mount" in back["fix"]
    assert not list(runs.iterdir())


def test_a_blocked_port(doctor, plant, hosts):
    rule = f"to {hosts.address('node1')} ipproto tcp dport {PORT} prohibit"
    plant(f"ip rule add {rule}", f"ip rule del {rule}")
    finding = only_failure(doctor(only=f"{QUICK},collectives"), "ports")
    assert f"node2 cannot reach node1 at {hosts.address('node1')}:{PORT} (the master port)" in finding["says"]
    assert f"open TCP {PORT} on node1" in finding["fix"]


def test_a_master_port_that_is_taken(doctor, hosts):
    server = hosts.popen("node1", [sys.executable, "-m", "http.server", PORT], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while hosts.run("node2", ["bash", "-c", f"echo > /dev/tcp/node1/{PORT}"]).returncode:
            assert time.monotonic() < deadline
        finding = only_failure(doctor(only="ports"), "ports")
    finally:
        hosts.signal(server, signal.SIGKILL)
        server.wait(20)
    assert f"node1: port {PORT} cannot be opened" in finding["says"] and "--master-port" in finding["fix"]


def test_an_interface_that_is_not_there(doctor):
    finding = only_failure(doctor(only="collectives", GLOO_SOCKET_IFNAME="nosuch0"), "collectives")
    assert "node1: " in finding["says"] and "nosuch0" in finding["says"]
    assert "GLOO_SOCKET_IFNAME=eth0" in finding["fix"]


def test_every_pair_of_three_hosts_is_measured(tmp_path):
    out = tmp_path / "out.json"
    with virtual_hosts(tmp_path / "hosts", count=3) as hosts:
        options = ["--hostfile", hosts.hostfile(), "--only", "collectives,ports", "--json", out]
        done = hosts.run("node1", [sys.executable, "-m", "trainer", "doctor", *options], timeout=200, **CPU)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["check"]: check["findings"] for check in json.loads(out.read_text())["checks"]}
    (passed,) = (finding for finding in checks["collectives"] if finding["status"] == "pass")
    assert sorted(passed["figures"]["pairs"]) == ["node1 - node2", "node1 - node3", "node2 - node3"]
    assert "3 processes over gloo" in passed["says"] and "slowest of 3 pairs" in passed["says"]


def test_data_that_one_host_lacks(doctor, plant, store):
    folder = store.partition("=")[2]
    plant(f"mount -t tmpfs tmpfs {folder}", f"umount {folder}")
    finding = only_failure(doctor(), "data")
    assert finding["says"].startswith("node2: ") and "is not prepared" in finding["says"]
    assert f"{folder}/ node2:{folder}/" in finding["fix"]


def test_data_that_differs_on_one_host(doctor, plant, store, tmp_path):
    folder, other = Path(store.partition("=")[2]), tmp_path / "other"
    shutil.copytree(folder, other)
    damaged = sorted(other.glob("*-train-*/references.jsonl"))[0]
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"\n}")
    plant(f"mount --bind {other} {folder}", f"umount {folder}")
    finding = only_failure(doctor(only="data"), "data")
    task = damaged.parent.name.partition("-train-")[0]
    assert f"{task} (train) on node2 is not what node1 has" in finding["says"]


@pytest.mark.parametrize("override", ["engine.dtype=fp16", "kernels.attention=packed_varlen"])
def test_a_recipe_for_gpus_on_hosts_without(doctor, override):
    finding = only_failure(doctor(override), "recipe")
    assert override.replace("=", " is ") in finding["says"] and "cpu" in finding["says"].lower()


def test_a_clock_that_is_behind(doctor, plant, tmp_path):
    target, other = next(SITE.glob("*.pth")), tmp_path / "own.pth"
    other.write_text(target.read_text() + "\n" + CLOCK)
    plant(f"mount --bind {other} {target}", f"umount {target}")
    finding = only_failure(doctor(), "clocks")
    assert "node2's clock is 25.0 s behind node1's" in finding["says"]
    assert "timedatectl" in finding["fix"]


def test_a_host_that_is_gone_is_found_within_its_time(doctor, hosts):
    hosts.cut("node2")
    try:
        code, findings, output = doctor(only="hosts")
    finally:
        hosts.mend("node2")
    assert code == 2, output
    (finding,) = failed(findings)["hosts"]
    assert finding["says"].startswith("node2: ") and finding["fix"] == "ssh -o BatchMode=yes node2 true"


def test_gradients_that_a_configuration_makes_coarse(doctor, tmp_path):
    settings = json.loads(Path("ds_configs/zero2.json").read_text())
    coarse = tmp_path / "coarse.json"
    coarse.write_text(json.dumps({**settings, "communication_data_type": "fp16"}))
    finding = only_failure(doctor(f"engine.config={coarse}", only="gradients"), "gradients")
    assert finding["figures"]["difference"] > 1e-4
