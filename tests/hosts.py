"""Virtual hosts: network namespaces with a name, an address and an sshd each, on one machine and one file system.

    with virtual_hosts(folder) as hosts:              # node1 and node2, or a skip that says why
        hosts.run("node1", ["ssh", "node2", "hostname"]).stdout == "node2\n"
        hosts.cut("node2")                            # its cable is pulled; mend() plugs it in again
        hosts.kill("node2")                           # all its processes die; start() boots it again

Every host has processes, mounts, a host name, a network and cores of its own (a fair share of this machine's): what
`pkill` or a taken port does on one, it does on that one alone. Files, /dev/shm included, are shared. Nothing outside
`folder` is changed: /etc/hosts and /etc/ssh are replaced in the mount namespaces of the hosts, and the hosts end with
the process that made them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "10.77.0"  # in a network of its own, so that it can be no other's
NEEDED = {
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "pdsh": "pdsh",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "pkill": "procps",
}
LIVE_AND_DIE = ["setpriv", "--pdeathsig", "KILL"]  # with the process that starts it
SSHD = """
Port 22
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin yes
UsePAM no
StrictModes no
PidFile none
MaxStartups 100
"""
SSH = """
IdentityFile /etc/ssh/user_key
IdentitiesOnly yes
GlobalKnownHostsFile /etc/ssh/known_hosts
UserKnownHostsFile /dev/null
StrictHostKeyChecking yes
BatchMode yes
LogLevel ERROR
"""
SWITCH = "ip link add bridge type bridge && ip link set bridge up && echo ready && exec sleep infinity"
BOOT = """
set -e
hostname "$name"
for file in hosts shadow ssh; do mount --bind "$folder/$file" "/etc/$file"; done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount -t sysfs sysfs /sys
ip link set lo up
echo ready
exec "$sshd" -D -e
"""


def why_not() -> str | None:
    """Why there can be no virtual hosts on this machine; None where there can."""
    if os.geteuid() != 0:
        return "virtual hosts need root"
    missing = [package for command, package in NEEDED.items() if not _find(command)]
    if missing:
        return f"virtual hosts need the packages {', '.join(missing)}"
    tried = subprocess.run(
        [*LIVE_AND_DIE, "unshare", "--net", "sh", "-c", "ip link add name bridge type bridge"], capture_output=True
    )
    return f"no network namespaces here: {tried.stderr.decode().strip()}" if tried.returncode else None


@contextlib.contextmanager
def virtual_hosts(folder: Path, count: int = 2) -> Iterator[Hosts]:
    """`count` hosts, node1 and so on, that live as long as the context; a skip where they cannot be."""
    if reason := why_not():
        pytest.skip(reason)
    hosts = Hosts(folder, count)
    try:
        hosts.start_all()
        yield hosts
    finally:
        hosts.end()


class Hosts:
    """Hosts node1 to nodeN on one switch.

    Attributes:
        names: of the hosts, in order.
    """

    def __init__(self, folder: Path, count: int):
        self.folder, self.names = folder, tuple(f"node{i + 1}" for i in range(count))
        self._inits: dict[str, psutil.Process] = {}  # process 1 of each host
        self._outer: dict[str, subprocess.Popen] = {}  # the process that made the host's namespaces
        self._ports: dict[str, str] = {}  # of the switch
        self._numbers = itertools.count()
        _write_files(folder, {name: self.address(name) for name in self.names})

    def address(self, host: str) -> str:
        return f"{NETWORK}.{self.names.index(host) + 1}"

    def hostfile(self, slots: int = 1) -> Path:
        """A hostfile of all hosts."""
        path = self.folder / f"hostfile-{slots}"
        path.write_text("".join(f"{name} slots={slots}\n" for name in self.names))
        return path

    def popen(self, host: str, command: Sequence[object], **options) -> subprocess.Popen:
        """Start a command on a host, in the repository; `options` are Popen's. See `signal` for signals to it."""
        inside = ["nsenter", f"--target={self._inits[host].pid}", "--net", "--mount", "--uts", "--pid"]
        directory = ["env", f"--chdir={options.pop('cwd', ROOT)}"]
        text = {"text": True, "start_new_session": True, "stdin": subprocess.DEVNULL}
        return subprocess.Popen([*self._on_cores(host), *inside, *directory, *map(str, command)], **(text | options))

    def run(self, host: str, command: Sequence[object], timeout: float = 60, **environment: str):
        """Run a command on a host to its end; a CompletedProcess with its output as text."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, **environment}}
        process = self.popen(host, command, **pipes)
        try:
            out, error = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # All that it started, on other hosts too: what lives on would keep the pipes open.
            deadline = time.monotonic() + 30
            while (
                started := [*psutil.Process(process.pid).children(), *self._running()]
            ) and time.monotonic() < deadline:
                for each in started:
                    with contextlib.suppress(psutil.Error):
                        each.kill()
                time.sleep(0.05)  # until the killed are gone, and what they were about to start
            out, error = process.communicate(timeout=30)
            raise AssertionError(
                f"{command} on {host} took more than {timeout} s:\n{out[-2000:]}{error[-2000:]}"
            ) from None
        return subprocess.CompletedProcess(list(map(str, command)), process.returncode, out, error)

    def signal(self, process: subprocess.Popen, number: int) -> None:
        """Send a signal to a command that `popen` started: the process itself is outside, its child is the command."""
        for child in psutil.Process(process.pid).children():
            child.send_signal(number)

    def processes(self, host: str) -> list[psutil.Process]:
        """Every process of a host but its first, as seen from outside."""
        space = os.readlink(f"/proc/{self._inits[host].pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == space and process != self._inits[host]:
                    found.append(process)
        return found

    def _running(self) -> list[psutil.Process]:
        """What runs on any host, but for sshd."""
        found = []
        for process in itertools.chain(*map(self.processes, self.names)):
            with contextlib.suppress(psutil.Error):
                if process.name() != "sshd":
                    found.append(process)
        return found

    def cut(self, host: str) -> None:
        """Pull the host's cable: its packets, and those to it, are lost, and nobody is told."""
        self._switch("ip", "link", "set", self._ports[host], "down")

    def mend(self, host: str) -> None:
        """Plug the cable in again."""
        self._switch("ip", "link", "set", self._ports[host], "up")

    def kill(self, host: str) -> None:
        """End every process of the host at once, sshd included. As when its power fails: cut() it before."""
        self._inits.pop(host).kill()
        self._outer.pop(host).wait(30)

    def start(self, host: str) -> None:
        """Boot the host: its network, then its sshd."""
        variables = {"name": host, "folder": str(self.folder), "sshd": _find("sshd")}
        spaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command = [*self._on_cores(host), "unshare", *spaces, "bash", "-c", BOOT]
        outer = self._outer[host] = _ready(command, self.folder / f"{host}.log", variables)
        self._inits[host] = psutil.Process(outer.pid).children()[0]
        port, init = f"port{next(self._numbers)}", str(self._inits[host].pid)
        card = [
            "name",
            "eth0",
            "address",
            f"02:00:00:00:00:{self.names.index(host) + 1:02x}",
            "netns",
            init,
        ]  # boots keep it
        self._switch("ip", "link", "add", port, "type", "veth", "peer", *card)
        self._switch("ip", "link", "set", port, "master", "bridge", "up")
        self._ports[host] = port
        _inside(init, "ip", "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        _inside(init, "ip", "link", "set", "eth0", "up")
        deadline = time.monotonic() + 20
        while (tried := self.run(host, ["ssh", host, "true"])).returncode:
            assert time.monotonic() < deadline, tried.stderr + (self.folder / f"{host}.log").read_text()
            time.sleep(0.05)

    def start_all(self) -> None:
        self._outer["switch"] = _ready(["unshare", "--net", "sh", "-c", SWITCH], self.folder / "switch.log", {})
        for name in self.names:
            self.start(name)

    def end(self) -> None:
        for host in [*self._inits]:
            self.kill(host)
        for process in self._outer.values():
            process.kill()
            process.wait(30)

    def _on_cores(self, host: str) -> list[str]:
        """Words that keep a command on the host's cores."""
        cores = sorted(os.sched_getaffinity(0))
        each = max(1, len(cores) // len(self.names))
        first = self.names.index(host) * each % len(cores)
        return ["taskset", "--cpu-list", ",".join(map(str, cores[first : first + each]))]

    def _switch(self, *command: str) -> None:
        _inside(str(self._outer["switch"].pid), *command)


def _inside(process: str, *command: str) -> None:
    """Run a command in the network of a process."""
    subprocess.run(["nsenter", f"--target={process}", "--net", *command], check=True)


def _ready(arguments: Sequence[str], log: Path, variables: dict[str, str]) -> subprocess.Popen:
    """Start namespaces; return when their first process has said that it is ready."""
    with open(log, "ab") as file:
        environment = {**os.environ, **variables}
        process = subprocess.Popen([*LIVE_AND_DIE, *arguments], env=environment, stdout=subprocess.PIPE, stderr=file)
    assert process.stdout.readline() == b"ready\n", log.read_text()
    return process


def _find(command: str) -> str | None:
    return shutil.which(command) or shutil.which(command, path="/usr/sbin:/sbin")


def _write_files(folder: Path, addresses: dict[str, str]) -> None:
    """What the hosts find below /etc: each other's names, and keys that let root of one into the others."""
    ssh = folder / "ssh"
    ssh.mkdir(parents=True)
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / key)], check=True)
    kind, key, *_ = (ssh / "host_key.pub").read_text().split()
    (ssh / "known_hosts").write_text("".join(f"{n},{a} {kind} {key}\n" for n, a in addresses.items()))
    (ssh / "authorized_keys").write_text((ssh / "user_key.pub").read_text())
    (ssh / "sshd_config").write_text(SSHD)
    (ssh / "ssh_config").write_text(SSH)
    (folder / "shadow").write_text("root:*:19000:0:99999:7:::\n")  # a locked account could not log in without PAM
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in addresses.items()))
