"""The hosts of a run, and a probe on each: over ssh, or here."""

from __future__ import annotations

import json
import os
import queue
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer import hosts
from trainer.config import RunConfig
from trainer.doctor.registry import Finding, Skipped, failure
from trainer.errors import UserError
from trainer.launchers import free_port

PATIENCE = 30.0  # seconds for an answer, unless a question says otherwise
IMPORTS = 120.0  # for the first question that needs torch or transformers, on a cold disk


@dataclass(frozen=True)
class Node:
    """A line of the hostfile, or this machine. `slots` is None where nobody says: one process a GPU, or one."""

    name: str
    slots: int | None = None
    here: bool = False


class Unanswered(UserError):
    """A host is out of reach, or was asked and did not answer."""


class Probe:
    """The probe on one host."""

    def __init__(self, node: Node, environment: Mapping[str, str]):
        self.node = node
        self._number = 0
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            _command(node, environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        self._replies: queue.Queue[dict | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, question: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """The answer.

        Raises:
            Unanswered: none came within `timeout` seconds, or the connection ended.
            UserError: the question's own.
        """
        self._number += 1
        request = {"number": self._number, "question": question, "arguments": arguments}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None
        deadline = time.monotonic() + timeout
        while True:
            try:
                reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Unanswered(
                    f"did not answer within {timeout:.0f} s", why=f"asked for {question}", fix=self._try()
                ) from None
            if reply is None:
                self._replies.put(None)  # for whatever asks next
                raise self._gone()
            if reply["number"] == self._number:  # not the late answer to an earlier question
                break
        if "error" in reply:
            raise UserError(reply["error"]["what"], why=reply["error"]["why"], fix=reply["error"]["fix"])
        return reply["value"]

    def close(self) -> None:
        """End the probe; one that hangs is killed."""
        try:
            self._process.stdin.close()
            self._process.wait(2)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            try:
                reply = json.loads(line)
                reply["number"]
            except (ValueError, TypeError, KeyError):  # a greeting of the login shell
                continue
            self._replies.put(reply)
        self._replies.put(None)

    def _gone(self) -> Unanswered:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return Unanswered("its probe ended", why=lines[-1] if lines else f"exit code {code}", fix=self._try())

    def _try(self) -> str:
        return "xstilts doctor without --hostfile" if self.node.here else f"ssh -o BatchMode=yes {self.node.name} true"


class Answers(dict):
    """Host -> answer, of those that gave one; `errors`: host -> the error of each other."""

    def __init__(self, answers: Mapping[str, Any], errors: Mapping[str, UserError]):
        super().__init__(answers)
        self.errors = dict(errors)

    def failures(self, fix: str = "") -> Iterator[Finding]:
        """A failed finding for each error."""
        for host, error in self.errors.items():
            why = f" ({error.why})" if error.why else ""
            yield failure(f"{host}: {error.what}{why}", error.fix or fix)


class Cluster:
    """The hosts of a run with a probe on each, and the recipe, as checks see them.

    Attributes:
        recipe: file and overrides, as the user gave them; `config`: what they say. Both None without a recipe.
        port: the one on the first host at which all processes meet (MASTER_PORT).
        token: a word of this examination, for names of files.
    failed: names of the checks that have failed so far.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        environment: Mapping[str, str],
        recipe: tuple[Path, list[str]] | None,
        config: RunConfig | None,
        port: int,
    ):
        self.nodes = list(nodes)
        self.environment, self.recipe, self.config, self.port = environment, recipe, config, port
        self.token = secrets.token_hex(4)
        self.failed: set[str] = set()
        self._probes: dict[str, Probe] = {}

    def __enter__(self) -> Cluster:
        self._probes = {node.name: Probe(node, self.environment) for node in self.nodes}
        return self

    def __exit__(self, *exception) -> None:
        for probe in self._probes.values():
            probe.close()

    def ask(
        self,
        question: Callable[..., Any],
        *,
        timeout: float = PATIENCE,
        of: Iterable[str] | None = None,
        each: Mapping[str, Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> Answers:
        """Ask all hosts at once.

        Args:
            of: only these hosts.
            each: host -> further arguments of its own.
        """
        asked = list(self.names if of is None else of)

        def one(host: str) -> Any:
            try:
                own = (each or {}).get(host, {})
                return self._probes[host].ask(question.__name__, {**arguments, **own}, timeout)
            except UserError as error:
                return error

        with ThreadPoolExecutor(max(1, len(asked))) as pool:
            found = dict(zip(asked, pool.map(one, asked), strict=True))
        errors = {host: answer for host, answer in found.items() if isinstance(answer, UserError)}
        return Answers({host: answer for host, answer in found.items() if host not in errors}, errors)

    def ask_recipe(self, question: Callable[..., Any], *, timeout: float = IMPORTS, **options: Any) -> Answers:
        """Ask something about the recipe, which each host reads for itself, as its processes will."""
        path, overrides = self.recipe
        return self.ask(question, timeout=timeout, recipe=str(path), overrides=overrides, **options)

    @property
    def names(self) -> list[str]:
        """Of the hosts that answer."""
        return [node.name for node in self.nodes]

    @property
    def first(self) -> str:
        return self.nodes[0].name

    @property
    def others(self) -> list[str]:
        return self.names[1:]

    def address(self, host: str) -> str:
        """Of a host, for the others: as the launcher gives the first one's to all processes."""
        node = next(node for node in self.nodes if node.name == host)
        if node.here:
            return "127.0.0.1"
        given = os.environ.get("MASTER_ADDR") if host == self.first else None
        return given or hosts.default_address(hosts.Host(host, 1)) or host.rpartition("@")[2]

    def drop(self, hosts: Iterable[str]) -> None:
        """Go on without hosts that do not answer."""
        gone = set(hosts)
        self.nodes = [node for node in self.nodes if node.name not in gone]

    @cached_property
    def devices(self) -> Answers:
        """Host -> its GPUs and cores (`trainer.doctor.checks.machine.devices`)."""
        from trainer.doctor.checks.machine import devices

        return self.ask(devices, timeout=IMPORTS)

    def check_gpus(self) -> None:
        """Raises:
        Skipped: on a host torch cannot use the GPUs, so that no process of a run starts there.
        """
        if hidden := [host for host, answer in self.devices.items() if answer["hidden"]]:
            raise Skipped(f"no run starts on {', '.join(hidden)}: torch cannot use the GPUs there")

    def slots(self, host: str) -> int:
        """Processes of a run on a host."""
        given = next(node.slots for node in self.nodes if node.name == host)
        return given if given is not None else max(1, len(self.devices.get(host, {}).get("gpus", ())))

    @property
    def local_processes(self) -> int | None:
        """Of a run on this machine alone, where the user has said how many."""
        return self.nodes[0].slots if self.nodes[0].here else None

    @property
    def processes(self) -> int:
        """Of a run, on all hosts."""
        return sum(self.slots(host) for host in self.names)

    def on(self, host: str, command: str) -> str:
        """A command line that runs `command` on a host, for the user to copy."""
        return command if self._probes[host].node.here else f"ssh {host} {shlex.quote(command)}"


def this_machine(processes: int | None = None) -> Node:
    """This machine alone, as a node that needs no ssh."""
    return Node(socket.gethostname(), processes, here=True)


def master_port(hosts_of_run: int, environ: Mapping[str, str] = os.environ) -> int:
    """The port at which a launcher would have the processes meet: MASTER_PORT, or a free one, which changes each time.

    Raises:
        UserError: MASTER_PORT is no port, or MASTER_ADDR no place for several hosts to meet.
    """
    hosts.check_meeting_place(environ, hosts_of_run)
    return int(environ.get("MASTER_PORT") or free_port())


def nodes_of(hostfile: Path) -> list[Node]:
    """The hosts of a hostfile, in order.

    Raises:
        UserError: the hostfile is wrong (`trainer.hosts.read_hostfile`), or there is no ssh.
    """
    if shutil.which("ssh") is None:
        raise UserError("there is no ssh, by which hosts are reached", fix="install openssh-client")
    return [Node(host.name, host.slots) for host in hosts.read_hostfile(hostfile)]


def handed_over(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of this process that those of a run have on every host: what this package's launchers hand over,
    and PYTHON*, which DeepSpeed's does by itself."""
    python = {name: value for name, value in environ.items() if name.startswith("PYTHON")}
    return python | hosts.handed_over(environ)[0]


def _command(node: Node, environment: Mapping[str, str]) -> list[str]:
    probe = [sys.executable, "-m", "trainer.doctor.probe"]
    if node.here:
        return probe
    variables = [f"{name}={value}" for name, value in environment.items()]
    return hosts.ssh_command(node.name, ["env", f"--chdir={os.getcwd()}", *variables, *probe])
