"""The virtual hosts are what they claim to be; what is tested on them would otherwise prove nothing."""

import signal
import time

import pytest

pytestmark = pytest.mark.slow


def test_each_has_a_name_an_address_and_processes_of_its_own(hosts):
    for host in hosts.names:
        other = next(name for name in hosts.names if name != host)
        done = hosts.run(host, ["ssh", other, "hostname; hostname -I"])
        assert done.stdout.split() == [other, hosts.address(other)], done.stderr
    process = hosts.popen("node1", ["sleep", "1000"])
    while not hosts.processes("node1"):
        assert process.poll() is None
    assert hosts.run("node1", ["pgrep", "-f", "sleep 1000"]).returncode == 0
    assert hosts.run("node2", ["pgrep", "-f", "sleep 1000"]).returncode == 1
    hosts.signal(process, signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_files_are_shared_and_etc_is_not(hosts, tmp_path):
    hosts.run("node1", ["touch", tmp_path / "seen"])
    assert hosts.run("node2", ["test", "-e", tmp_path / "seen"]).returncode == 0
    assert "node2" in hosts.run("node1", ["cat", "/etc/hosts"]).stdout
    assert "10.77.0" not in open("/etc/hosts").read()


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(hosts):
    """Those on the other host too, which hold its output open."""
    began = time.monotonic()
    with pytest.raises(AssertionError, match="took more than 2 s"):
        hosts.run("node1", ["ssh", "node2", "echo begun; sleep 1000"], timeout=2)
    assert time.monotonic() - began < 30
    assert not any(process.name() == "sleep" for host in hosts.names for process in hosts.processes(host))


def test_pdsh_gives_the_largest_exit_code(hosts):
    assert hosts.run("node1", ["pdsh", "-S", "-R", "ssh", "-w", "node1,node2", "exit 1%n"]).returncode == 11


def test_a_cut_cable_is_silent_and_can_be_mended(hosts):
    ask = ["ssh", "-o", "ConnectTimeout=2", "node2", "true"]
    hosts.cut("node2")
    done = hosts.run("node1", ask)
    assert done.returncode == 255 and "timed out" in done.stderr
    assert hosts.run("node2", ["ssh", "node2", "true"]).returncode == 0  # the host itself is well
    hosts.mend("node2")
    assert hosts.run("node1", ask).returncode == 0


def test_a_killed_host_takes_its_processes_along_and_boots_again(hosts):
    process = hosts.popen("node2", ["sleep", "1000"])
    while not hosts.processes("node2"):
        assert process.poll() is None
    hosts.kill("node2")
    assert process.wait(10) == -signal.SIGKILL
    assert hosts.run("node1", ["ssh", "-o", "ConnectTimeout=2", "node2", "true"]).returncode == 255
    hosts.start("node2")
    assert hosts.run("node1", ["ssh", "node2", "hostname"]).stdout == "node2\n"
